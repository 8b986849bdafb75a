"""One streamed answer: from the request to the last piece that its client gets.

    begin ──> FOLLOW ──> FOLLOWING ──> the record is sent ──> records come ──> head ──> items ... ──> end

The store is asked to follow the request's id before its record is sent, so no item can be missed. A stream is a
`Waiter`: it decides about its deadlines. Until the head is sent, every failure is an ordinary answer. After it, the
failure is told within the stream (`Encoder.error`), or the answer breaks off.

What a client has not taken is bounded by credit: the store may send `stream_buffer` more bytes than the client has
taken, and the rest waits in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fastgw import errors
from fastgw.admission import Admission, Sink
from fastgw.core.exchange import OWN_ERROR, Exchange, Journal
from fastgw.core.plan import Plan, StreamRules
from fastgw.core.resumed import Resumed
from fastgw.dialects import BadReply, plain, streams
from fastgw.dialects.streams import BadItem, End, Gap, Items, StreamOrder
from fastgw.errors import Ending
from fastgw.followed import LIVE, OVERTAKEN, FollowedRecord, StreamTopic, size_of
from fastgw.messages import HeaderList, Record, Reply
from fastgw.open_streams import OpenStream
from fastgw.tokens import Secrets, StreamToken, seal_stream

NS_PER_MS = 1_000_000
EVENT_STREAM = "text/event-stream"
RETRY_MS = 1000  # how long a client waits that is sent away for a moment
UNKNOWN_PARTITION = (1 << 31) - 1  # in the token of a stream whose record was not confirmed before its first item
LOOK_NS = 1_000_000_000  # a stream is looked at so often, at least
COMMENT_NS = 15_000_000_000  # proxies close connections that are silent for longer
SLOW_NS = 10_000_000_000  # how long a client may be behind by the whole buffer
BLAME_THE_SERVICE = {errors.EXPIRED, errors.STREAM_IDLE, errors.STREAM_BROKEN}  # if nothing comes from it
RECORDED = ("fastgw-outcome", errors.ANSWERED.outcome.value)
VARY = ("vary", "accept")


class Encoder(Protocol):
    """See `http.stream_formats.StreamFormat`."""

    @property
    def has_events(self) -> bool: ...
    def head_headers(self) -> HeaderList: ...
    def first(self, is_followed: bool = False) -> bytes: ...
    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes: ...
    def comment(self) -> bytes: ...
    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes: ...
    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None: ...


class EventEncoder(Encoder, Protocol):
    """See `http.stream_formats.EventStream`."""

    def pause(self, retry_ms: int) -> bytes: ...
    def resync(self, problem: bytes) -> bytes: ...


MakeEncoder = Callable[[str, str, bool], Encoder]
"""(media type of the answer, or "": the service's own; content type of the service; end_line)"""


class Follower(Protocol):
    """Gets the records of one id.

    Attributes:
        home: the partition on which they arrive.
        position: the first offset that it needs; `LIVE`: of records that are appended from now on.
        credit: bytes that may be sent to it without further credit.
        is_replay: it is for a client that comes back, until the store has accepted it.
    """

    raw: bytes
    home: int
    position: int
    credit: int
    is_replay: bool

    def on_following(self, start: int) -> None:
        """Every record from this offset on will come. Called again when the store has restarted."""

    def on_records(self, records: list[FollowedRecord]) -> None: ...

    def on_follow_end(self, why: str) -> None:
        """Nothing more will come; `why` is one of the reasons in `followed`."""


class FollowedStreams(Protocol):
    """The store of this node, as one worker reaches it.

    Attributes:
        streams: what the store has said about the topic of streams; None: it does not answer.
    """

    streams: StreamTopic | None

    def follow(self, follower: Follower) -> int:
        """Begin to follow; a restart of the store is not noticed. Returns the number of the follow."""

    def unfollow(self, number: int) -> None: ...

    def give_credit(self, number: int, credit: int) -> None:
        """The follower can take so many more bytes."""

    def is_silent(self) -> bool:
        """Whether the store does not work, or did not a moment ago: what services have written may not have come."""


class Owner(Protocol):
    """All streams of a worker, as one of them knows them; see `core.streams.Streams`."""

    exchange: Exchange
    resumed: Resumed
    store: FollowedStreams
    secrets: Secrets | None
    keep_ms: int
    encoder: MakeEncoder
    event_encoder: Callable[[], EventEncoder]
    journal: Journal
    clock_ns: Callable[[], int]
    items: int

    def cancel(self, raw: bytes, plan: Plan, partition: int) -> bool: ...
    def ended(self, token: int) -> None: ...


class Stream:
    """One request whose answer may be streamed. Implements `Waiter` and `Follower`."""

    def __init__(
        self,
        owner: Owner,
        plan: Plan,
        admission: Admission,
        sink: Sink,
        home: int,
        now_ns: int,
        requests: Exchange | Resumed | None = None,
    ) -> None:
        """
        Args:
            requests: ends the request; None: the exchange.
        """
        assert plan.stream is not None, "only routes that stream come here"
        self.home = home
        self.raw = b""
        self.position = LIVE
        self.is_replay = False
        self.credit = plan.stream.buffer_bytes
        self._owner = owner
        self._exchange: Any = owner.exchange if requests is None else requests
        self._plan = plan
        self._rules: StreamRules = plan.stream
        self._sink = sink
        self._media_type = admission.media_type
        self._is_head = admission.method == "HEAD"
        self._token = -1
        self._follow = -1
        self._record: Record | None = None  # until it is sent
        self._partition = -1  # of the record; -1: Kafka has not confirmed it
        self._is_client_gone = False
        self._has_ended = False
        # A stream that can be resumed.
        self._resumes = plan.stream.resumes and self._media_type == EVENT_STREAM
        self._is_resumed = False
        self._place = ""  # the part of all ids of events that names the stream; "" before the first
        self._sealed_partition = -1  # in it
        self._is_lost = False  # the log does not have the position of the client any more
        self._is_put_off = False  # the client is to come back
        # What has come.
        self._order = StreamOrder()
        self._start = -1  # the first offset that the store delivers
        self._gap_at = -1  # the item that was missing when the log was read again
        # What the client gets.
        self._encoder: Encoder | None = None  # from the head on
        self._status = 200
        self._bytes_out = 0
        self._is_behind = False  # the client has not taken everything
        self._owed = 0  # credit that the store gets when the client has taken everything
        self._breaks_off = False  # a failure is not told within the stream
        self.has_items = False
        # When.
        self._began_ns = self._last_item_ns = self._last_write_ns = now_ns
        self._behind_ns = -1  # since when the client is behind by the whole buffer; -1: it is not
        self._caught_up_ns = now_ns - SLOW_NS  # when it was so last
        self._first_due_ns = now_ns + admission.timeout_ns
        self._look_ns = 0

    def __repr__(self) -> str:
        return f"<Stream {self._plan.name!r} {self._phase}, {self._order!r}>"

    @property
    def _phase(self) -> str:
        return "waits" if self._encoder is None else "behind" if self._is_behind else "flows"

    def told(self, now_ns: int) -> OpenStream:
        """What is told about it."""
        return OpenStream(
            self._plan.name,
            self.raw.decode(),
            self._phase,
            self._is_resumed,
            self._order.next_seq,
            self.home,
            self.position,
            self._owed,
            now_ns - self._began_ns,
        )

    def headers(self, raw: bytes, admission: Admission) -> list[tuple[str, bytes]]:
        """The headers of the request's record."""
        wire = self._plan.stream_wire
        assert wire is not None, "only routes that stream come here"
        offset_ns = self._exchange.epoch_offset_ns
        until_ms = (self._began_ns + self._rules.max_duration_ns + offset_ns) // NS_PER_MS
        headers = wire.headers(
            raw,
            self.home,
            (self._first_due_ns + offset_ns) // NS_PER_MS,
            admission.method,
            admission.path,
            admission.query,
            admission.params,
            admission.headers,
        )
        return [*headers, (streams.REPLY_KIND, streams.STREAM), (streams.UNTIL, b"%d" % until_ms)]

    def begin(self, token: int, raw: bytes, record: Record) -> None:
        """The request has a slot and an id; its record is sent as soon as the store follows the id."""
        self._token, self.raw, self._record = token, raw, record
        self._follow = self._owner.store.follow(self)

    # Follower.

    def on_following(self, start: int) -> None:
        if self._start < 0:
            self._start = start
        if self.position < 0:
            self.position = start
        record, self._record = self._record, None
        if record is not None:
            self._exchange.send(self._token, record, self._owner.clock_ns())

    def on_records(self, records: list[FollowedRecord]) -> None:
        try:
            self._take_all(records, self._owner.clock_ns())
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._owner.journal.broke("record of a stream not handled", self._plan.name, self.raw)
            self._exchange.fail(self._token, errors.BAD_ITEM, OWN_ERROR)

    def _take_all(self, records: list[FollowedRecord], now_ns: int) -> None:
        out: list[bytes] = []
        taken = 0
        for offset, headers, value in records:
            taken += size_of(value)
            self.position = offset + 1
            if not self._take(Reply(self.raw, self.home, offset, headers, value), now_ns, out) or self._has_ended:
                return
        self.credit -= taken
        if out:
            self._write(b"".join(out), now_ns)
        self._give_back(taken, now_ns)

    def on_follow_end(self, why: str) -> None:
        self._is_lost = why == OVERTAKEN
        self._fail_follow(errors.OVERTAKEN if self._is_lost else errors.BAD_ITEM, why)

    def _fail_follow(self, ending: Ending, why: str) -> None:
        self._exchange.fail(self._token, ending, f"the store cannot deliver the records of this stream: {why}")

    def _take(self, reply: Reply, now_ns: int, out: list[bytes]) -> bool:
        """The next record. What it says to the client is added to `out`. False: nothing more may be taken now."""
        try:
            accepted = self._order.accept(streams.decode(reply, self._rules.is_json), reply.offset, now_ns)
            if accepted is None:
                return True
            if isinstance(accepted, Items):
                self._take_items(accepted, reply, now_ns, out)
                return True
        except BadItem as bad:
            self._write_all(out, now_ns)
            self._exchange.fail(self._token, errors.BAD_ITEM, str(bad))
            return False
        except BadReply as bad:
            self._exchange.fail(self._token, errors.BAD_REPLY, str(bad))
            return False
        if isinstance(accepted, Gap):
            self._write_all(out, now_ns)
            self._read_again(accepted)
        elif isinstance(accepted, End):
            self._take_end(accepted, reply, now_ns, out)
        else:
            self._take_ordinary(reply, now_ns)
        return False

    def _take_items(self, items: Items, reply: Reply, now_ns: int, out: list[bytes]) -> None:
        if self._encoder is None:
            self._begin_with(reply, now_ns)
        assert self._encoder is not None, "the head was sent"
        self.has_items = True
        self._last_item_ns = now_ns
        if now_ns + self._rules.idle_timeout_ns < self._look_ns:
            self._look_at(now_ns + self._rules.idle_timeout_ns)
        out.append(self._encoder.items(items.payload, items.count, items.seq, self._id_prefix(reply.offset)))
        self._owner.items += items.count

    def _id_prefix(self, offset: int) -> bytes:
        """What stands before the number of an item in the id of its event; b"": events have no ids."""
        if not self._resumes:
            return b""
        if not self._place or self._sealed_partition != self._partition:
            self._place = self._sealed()
        return b"%b.%d." % (self._place.encode(), offset)

    def _sealed(self) -> str:
        owner = self._owner
        self._sealed_partition = self._partition
        assert owner.secrets is not None, "routes that resume need a secret"
        assert owner.store.streams is not None, "a record of the stream has come"
        ends_ns = self._began_ns + self._rules.max_duration_ns + owner.exchange.epoch_offset_ns
        token = StreamToken(
            self.raw,
            owner.store.streams.topic_id,
            self.home,
            self._start,
            UNKNOWN_PARTITION if self._partition < 0 else self._partition,
            self._plan.name,
            "",
            ends_ns // NS_PER_MS + owner.keep_ms,
        )
        return seal_stream(owner.secrets, token)

    def _end_id(self, reply: Reply, total: int) -> bytes | None:
        """The id of the last event: who comes back with it is told that the stream is over."""
        return self._id_prefix(reply.offset) + b"%d" % total if self._resumes else None

    def _take_end(self, end: End, reply: Reply, now_ns: int, out: list[bytes]) -> None:
        if not end.is_ok and self._encoder is None and not self.has_items:  # nothing was sent: it is an ordinary answer
            self._take_ordinary(reply, now_ns)
            return
        try:
            if self._encoder is None:
                self._begin_with(reply, now_ns)
        except BadReply as bad:
            self._exchange.fail(self._token, errors.BAD_REPLY, str(bad))
            return
        assert self._encoder is not None, "the head was sent"
        if end.items is not None:
            prefix = self._id_prefix(reply.offset)
            out.append(self._encoder.items(end.items.payload, end.items.count, end.items.seq, prefix))
            self._owner.items += end.items.count
        if end.is_ok:
            self._end_with(self._encoder.end(end.total, RECORDED[1], self._end_id(reply, end.total)), out)
            self._exchange.complete(self._token, self._status, self._bytes_out, now_ns)
        else:
            last_id = self._end_id(reply, self._order.next_seq)
            self._end_with(self._encoder.error(end.body, RECORDED[1], last_id), out)
            self._exchange.complete(self._token, end.status, self._bytes_out, now_ns)

    def _take_ordinary(self, reply: Reply, now_ns: int) -> None:
        """A record that ends the request as an ordinary reply does, or the error of a stream without items."""
        if self._encoder is None:
            headers = streams.without_stream_headers(reply.headers)
            self._exchange.resolve_kept(self._token, reply._replace(headers=headers), now_ns)
            return
        expected = "expected records of a stream, because the head was sent after head_wait, got an ordinary reply"
        self._exchange.fail(self._token, errors.BAD_ITEM, expected)

    def _read_again(self, gap: Gap) -> None:
        """Items are missing: read the log again from the last accepted record. A gap in the log breaks the stream."""
        if self._gap_at == gap.expected:
            detail = f"item {gap.expected} is missing in the log, which goes on with item {gap.got}"
            self._exchange.fail(self._token, errors.STREAM_BROKEN, detail)
            return
        self._gap_at = gap.expected
        self._owner.store.unfollow(self._follow)
        self.position = max(self._start, self._order.accepted_offset + 1)
        self.credit = max(1, self._rules.buffer_bytes - self._owed)
        self._follow = self._owner.store.follow(self)

    # The client.

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """Implements `messages.Answer`: an ordinary answer, or after the head a failure within the stream."""
        if self._is_lost and self._resumes:
            self._send_away(self._owner.event_encoder().resync(body))
            return
        if self._is_put_off:
            self._send_away(self._owner.event_encoder().pause(RETRY_MS))
            return
        if self._encoder is None:
            vary = [] if self._media_type == "" or VARY in headers else [VARY]
            self._sink.answer(status, [*headers, *vary], body, request_id)
            return
        outcome = dict(headers).get("fastgw-outcome", RECORDED[1])
        self._end_with(None if self._breaks_off else self._encoder.error(body, outcome), [])

    def _send_away(self, event: bytes) -> None:
        """End with an event that says where to go on: from the last position, or from the beginning."""
        if self._encoder is not None:
            self._end_with(event, [])
            return
        self._sink.answer(200, self._owner.event_encoder().head_headers(), event, self.raw)

    def _begin_with(self, reply: Reply, now_ns: int) -> None:
        """Send the head, made from the first record. Raises BadReply."""
        without = reply._replace(headers=streams.without_stream_headers(reply.headers))
        status, headers, _ = self._plan.reply_wire.answer(without)
        self._send_head(status, headers, now_ns, is_followed=True)

    def _send_head(self, status: int, told: HeaderList, now_ns: int, is_followed: bool) -> None:
        content_type = dict(told).get(plain.CONTENT_TYPE, "application/octet-stream")
        self._encoder = encoder = self._owner.encoder(self._media_type, content_type, self._rules.end_line)
        own = encoder.head_headers()
        replaced = {name for name, _ in own if name != "vary"} | plain.ABOUT_CONTENT
        headers = [header for header in told if header[0] not in replaced] + own
        self._status = status
        self._last_write_ns = now_ns
        first = encoder.first(is_followed)
        self._bytes_out += len(first)
        headers = self._exchange.begin_stream(self._token, headers)
        self._is_behind = not self._sink.begin(status, headers, self.raw, first)
        if self._is_head:  # its answer is the head: what comes now is for nobody
            self._sink.end()
            self._cancel()
            self._exchange.complete(self._token, status, self._bytes_out, now_ns)

    def _write(self, data: bytes, now_ns: int) -> None:
        self._bytes_out += len(data)
        self._last_write_ns = now_ns
        self._is_behind = not self._sink.write(data)

    def _write_all(self, out: list[bytes], now_ns: int) -> None:
        if out:
            self._write(b"".join(out), now_ns)
            out.clear()

    def _end_with(self, last: bytes | None, out: list[bytes]) -> None:
        """Write the last pieces; None: the answer breaks off."""
        if last is None:
            if out:
                self._sink.write(b"".join(out))
            self._sink.abort()
            return
        data = b"".join([*out, last])
        self._bytes_out += len(data)
        self._sink.end(data)

    def _give_back(self, credit: int, now_ns: int) -> None:
        """The records with this credit were written: the store may send more, once the client has taken them."""
        self._owed += credit
        if not self._is_behind:
            self._pay()
        elif self.credit <= 0 and self._behind_ns < 0:
            self._behind_ns = now_ns

    def _pay(self) -> None:
        owed, self._owed = self._owed, 0
        self._behind_ns = -1
        if owed:
            self.credit += owed
            self._owner.store.give_credit(self._follow, owed)

    def on_writable(self) -> None:
        """The client has taken everything."""
        self._is_behind = False
        if self._behind_ns >= 0:  # the service is not to blame for the silence
            self._last_item_ns = self._caught_up_ns = self._owner.clock_ns()
        self._pay()

    # Waiter.

    def on_recorded(self, partition: int) -> None:
        self._partition = partition
        if self._is_client_gone:
            self._exchange.cancel(self._token)
        elif self._encoder is None and self._rules.is_json:
            # The head may have waited for this.
            self._look_at(min(self._look_ns, self._began_ns + self._rules.head_wait_ns))

    def on_deadline(self, now_ns: int) -> int:
        over = self._why_over(now_ns)
        if over is not None and over[0] in BLAME_THE_SERVICE and self._owner.store.is_silent():
            self._tell_silence()
            return 0
        if over is not None:
            self._exchange.fail(self._token, *over)
            return 0
        if self._encoder is None:
            if now_ns >= self._first_due_ns:
                self.give_up()
                return 0  # the exchange knows what became of the record
            if self._may_begin_alone and now_ns >= self._began_ns + self._rules.head_wait_ns:
                self._send_head(200, [RECORDED], now_ns, is_followed=False)
        elif now_ns >= self._last_write_ns + COMMENT_NS and not self._is_behind:
            self._comment(now_ns)
        return self.next_look_ns(now_ns)

    @property
    def _may_begin_alone(self) -> bool:
        """Whether the head may go before the first item: it says that the request is in Kafka."""
        return self._rules.is_json and (self._partition >= 0 or self._is_resumed)

    def _comment(self, now_ns: int) -> None:
        assert self._encoder is not None, "the head was sent"
        self._last_write_ns = now_ns
        comment = self._encoder.comment()
        if comment:
            self._write(comment, now_ns)

    def _tell_silence(self) -> None:
        """The store does not work, so nobody knows what the service has written. Who can come back does so."""
        if self._place and self._encoder is not None:
            self._end_for_now()
            return
        detail = "the store of this node does not deliver what the service writes"
        self._exchange.fail(self._token, errors.STREAM_BROKEN, detail)

    def give_up(self) -> None:
        """Nothing has come in time, or the worker ends: not the service is to blame if the store does not work."""
        if self._partition >= 0 and self._owner.store.is_silent():
            self._tell_silence()

    def _why_over(self, now_ns: int) -> tuple[Ending, str] | None:
        rules = self._rules
        if self._record is not None and now_ns >= self._first_due_ns:
            return errors.STORE_DOWN, "the store did not confirm in time that it follows the stream; nothing was sent"
        if self._encoder is None:
            return None
        if not self.has_items and now_ns >= self._first_due_ns:
            is_recorded = self._partition >= 0
            return errors.EXPIRED if is_recorded else errors.EXPIRED_UNKNOWN, "no item came before the deadline"
        if now_ns >= self._began_ns + rules.max_duration_ns:
            return errors.STREAM_MAX, f"expected a stream of at most {rules.max_duration_ns / 1e9:g} s (max_duration)"
        if 0 <= self._behind_ns <= now_ns - SLOW_NS and not self._resumes:
            self._breaks_off = True
            return errors.SLOW_READER, f"the client was behind by {rules.buffer_bytes} bytes for {SLOW_NS / 1e9:g} s"
        if self._behind_ns >= 0:
            return None  # what the service sends waits in the log
        if self._order.is_lost(now_ns) and now_ns >= self._caught_up_ns + SLOW_NS:
            return errors.STREAM_BROKEN, "three signs of life of the service are missing"
        if self.has_items and now_ns >= self._last_item_ns + rules.idle_timeout_ns:
            return errors.STREAM_IDLE, f"no item came for {rules.idle_timeout_ns / 1e9:g} s (idle_timeout)"
        return None

    def next_look_ns(self, now_ns: int) -> int:
        """When the stream must be looked at again."""
        rules, dues = self._rules, [now_ns + LOOK_NS, self._began_ns + self._rules.max_duration_ns]
        if not self.has_items:
            dues.append(self._first_due_ns)
        else:
            dues.append(self._last_item_ns + rules.idle_timeout_ns)
        if self._encoder is None and self._may_begin_alone:
            dues.append(self._began_ns + rules.head_wait_ns)
        if self._order.lost_at_ns:
            dues.append(self._order.lost_at_ns)
        self._look_ns = max(now_ns + NS_PER_MS, min(dues))
        return self._look_ns

    def _look_at(self, due_ns: int) -> None:
        self._look_ns = due_ns
        self._exchange.extend(self._token, due_ns)

    def on_gone(self) -> bool:
        self._is_client_gone = True
        if self._record is not None:
            self._exchange.withdraw(self._token)
            return True
        if not self._rules.cancels or self._resumes:  # a client that can resume may come back
            return True
        if self._partition < 0:
            return False  # until it is known where the record is
        self._cancel()
        return True

    def _cancel(self) -> None:
        """Tell the service that its work is for nobody, if its route wants that."""
        if self._rules.cancels and self._partition >= 0:
            self._owner.cancel(self.raw, self._plan, self._partition)

    def on_drain(self) -> None:
        if self._record is not None:  # others go on until the end of the drain
            self._exchange.fail(self._token, errors.DRAINING, "the worker drains, and nothing was sent")
        elif self._place and self._encoder is not None:
            self._end_for_now()

    def _end_for_now(self) -> None:
        """The client comes back, to wherever its stream goes on."""
        self._send_away(self._owner.event_encoder().pause(RETRY_MS))
        self._exchange.complete(self._token, self._status, self._bytes_out, self._owner.clock_ns())

    def on_end(self, ending: Ending | None) -> None:  # noqa: ARG002
        self._has_ended = True
        self._record = None
        self._owner.store.unfollow(self._follow)
        self._owner.ended(self._token)
