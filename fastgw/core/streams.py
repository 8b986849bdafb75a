"""The streamed answers of a worker: which of them may begin, and who is told what about them.

On a route with `resume = true`, each event has an id from which any worker of any node can go on. A client that comes
back with one (`Last-Event-ID`) follows the same id in the log from there, as a `ResumedStream`; nothing is sent to the
service again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from fastgw import _ctable, errors, problem
from fastgw.admission import Admission, Refusal, Sink
from fastgw.core.exchange import REFUSED, Exchange, Journal
from fastgw.core.plan import Plan
from fastgw.core.resumed import Resumed, last_event_id
from fastgw.core.resumed_stream import ResumedStream
from fastgw.core.stream import (
    NS_PER_MS,
    RECORDED,
    RETRY_MS,
    UNKNOWN_PARTITION,
    EventEncoder,
    FollowedStreams,
    MakeEncoder,
    Stream,
)
from fastgw.dialects import streams
from fastgw.errors import Ending, KeyMissing
from fastgw.ids import IdMaker, refusal_id
from fastgw.messages import Answer, Record
from fastgw.open_streams import OpenStreams
from fastgw.tokens import BadToken, ExpiredToken, Secrets, StreamPlace, StreamToken, open_event_id


class Streams:
    """All streams of one worker.

    Attributes:
        items: written to clients so far.
        resumptions: clients so far that came back and could go on.
    """

    def __init__(
        self,
        exchange: Exchange,
        store: FollowedStreams,
        ids: IdMaker,
        turn: int,
        slots: int,
        encoder: MakeEncoder,
        event_encoder: Callable[[], EventEncoder],
        send_untracked: Callable[[Record], bool],
        journal: Journal,
        clock_ns: Callable[[], int],
        secrets: Secrets | None = None,
        keep_ms: int = 0,
        most_resumed: int = 0,
    ) -> None:
        """
        Args:
            ids: makes ids for the topic of streams.
            turn: workers with different numbers use different partitions, as long as there are enough.
            slots: of this worker; streams use at most a quarter of them.
            send_untracked: sends a cancel record; False: it was refused.
            journal: logs unexpected errors.
            clock_ns: the monotonic clock.
            secrets: sign the ids of events; None: no route resumes.
            keep_ms: how long the log keeps the records of a stream.
            most_resumed: how many resumed streams may be open at the same time.
        """
        self.exchange = exchange
        self.store = store
        self.secrets = secrets
        self.keep_ms = keep_ms
        self.resumed = Resumed(exchange, journal)
        self._most_resumed = most_resumed
        self.encoder = encoder
        self.event_encoder = event_encoder
        self.send_untracked = send_untracked
        self.journal = journal
        self.clock_ns = clock_ns
        self.items = self.resumptions = 0
        self._ids = ids
        self._turn = turn
        self._most = max(1, slots // 4)
        self._made_for: tuple[int, int] | None = None  # partitions and home for which the ids are made
        self._open: dict[int, Stream] = {}  # by token

    def __repr__(self) -> str:
        return f"<Streams {len(self)} of at most {self._most}>"

    def __len__(self) -> int:
        return len(self._open)

    def open(self, admission: Admission, body: bytes, sink: Sink, now_ns: int) -> int:
        """Take a complete request. Returns its token, or REFUSED if it is answered already."""
        exchange, plan = self.exchange, self.exchange.plan_of(admission)
        refused = self._why_refused()
        if refused is not None:
            return exchange.turn_away(admission, *refused, sink.answer, len(body))
        try:
            key = plan.key_of(admission.headers, admission.params, body) if plan.key_of else None
        except KeyMissing as missing:
            return exchange.turn_away(admission, errors.MALFORMED, str(missing), sink.answer, len(body))
        home = self._home()
        stream = Stream(self, plan, admission, sink, home, now_ns)
        prepared = exchange.prepare(
            admission, stream.answer, stream, _ctable.STREAM, self._ids, home, stream.next_look_ns(now_ns), now_ns,
            len(body),
        )  # fmt: skip
        if prepared is None:
            return REFUSED
        token, raw = prepared
        self._open[token] = stream
        stream.begin(token, raw, Record(plan.topic, body, key, stream.headers(raw, admission), plan.partition))
        return token

    def resume(self, admission: Admission, sink: Sink, now_ns: int) -> int:
        """Take a client that comes back. Returns its token, or REFUSED if it is answered already."""
        plan = self.exchange.plan_of(admission)
        place = self._place_of(admission, plan, now_ns)
        if not isinstance(place, StreamPlace):
            return self._tell(admission, sink, *place, is_lost=True)
        topic = self.store.streams
        if self.resumed.is_draining:
            return self._tell(admission, sink, errors.DRAINING, "the worker drains", is_lost=False)
        if topic is None or not topic.partitions:
            ending = errors.STORE_DOWN if topic is None else errors.STORE_RESTORING
            return self._tell(admission, sink, ending, "the store of this node cannot read streams now", is_lost=False)
        if topic.topic_id != place.stream.topic_id:
            detail = "the topic of streams was made anew"
            return self._tell(admission, sink, errors.OVERTAKEN, detail, is_lost=True)
        if len(self.resumed) >= self._most_resumed:
            detail = f"{self._most_resumed} streams are resumed already (store.max_waits)"
            return self._tell(admission, sink, errors.WATCH_CAP, detail, is_lost=False)
        stream = ResumedStream(self, plan, admission, sink, place, now_ns)
        raw = place.stream.correlation_id
        token = self.resumed.add(stream, admission, plan.name, raw, stream.next_look_ns(now_ns))
        self._open[token] = stream
        self.resumptions += 1
        stream.begin_again(token)
        return token

    def stop(self, admission: Admission, answer: Answer, now_ns: int) -> int:
        """Tell the service of a stream to stop, and the client that it was told. Returns REFUSED: all is said."""
        exchange, plan = self.exchange, self.exchange.plan_of(admission)
        place = self._place_of(admission, plan, now_ns)
        refused = self._why_not_stopped(place.stream, plan) if isinstance(place, StreamPlace) else place
        if refused is not None:
            exchange.refuse(Refusal(*refused, plan.number, head=admission.headers), answer)
        elif isinstance(place, StreamPlace):
            response = 204, [RECORDED], b"", place.stream.correlation_id
            exchange.answer_at_once(plan.number, admission.headers, answer, errors.ANSWERED, response)
        return REFUSED

    def _why_not_stopped(self, stream: StreamToken, plan: Plan) -> tuple[Ending, str] | None:
        if stream.request_partition == UNKNOWN_PARTITION:
            return errors.NOT_SENT, "Kafka had not confirmed the request yet at this event; take the id of a later one"
        if not self.cancel(stream.correlation_id, plan, stream.request_partition):
            return errors.QUEUE_FULL, "the record that stops the service could not be sent"
        return None

    def cancel(self, raw: bytes, plan: Plan, partition: int) -> bool:
        """Send the record that stops the handler of this request. False: it was refused."""
        headers, value = streams.cancel_record(raw)
        return self.send_untracked(Record(plan.topic, value, None, headers, partition))

    def _place_of(self, admission: Admission, plan: Plan, now_ns: int) -> StreamPlace | tuple[Ending, str]:
        """The place that `Last-Event-ID` names, or why it names none."""
        assert self.secrets is not None, "routes that resume need a secret"
        text = last_event_id(admission.headers)
        try:
            place = open_event_id(self.secrets, text, (now_ns + self.exchange.epoch_offset_ns) // NS_PER_MS)
        except ExpiredToken:
            return errors.OVERTAKEN, "the time of this position is over"
        except BadToken as bad:
            return errors.MALFORMED, str(bad)
        if place.stream.route != plan.name:
            return errors.MALFORMED, "this position is one of another route"
        return place

    def _tell(self, admission: Admission, sink: Sink, ending: Ending, detail: str, is_lost: bool) -> int:
        """Answer a client that comes back and cannot go on now. `EventSource` gives up on any status but 200.

        Args:
            is_lost: it can never go on from its position, so it forgets it; otherwise it comes back later.
        """
        encoder = self.event_encoder()
        raw = refusal_id()
        body = encoder.resync(problem.answer(ending, detail, raw)[2]) if is_lost else encoder.pause(RETRY_MS)
        response = 200, encoder.head_headers(), body, raw
        self.exchange.answer_at_once(admission.route_number, admission.headers, sink.answer, ending, response)
        return REFUSED

    def writable(self, token: int) -> None:
        """The client has taken everything that was written."""
        stream = self._open.get(token)
        if stream is not None:
            stream.on_writable()

    def give_up(self) -> None:
        """The worker ends: streams that the store has left alone are told so."""
        for stream in list(self._open.values()):
            stream.give_up()

    def has_begun(self, token: int) -> bool:
        """Whether this is a stream of which the client has got something."""
        stream = self._open.get(token)
        return stream is not None and stream.has_items

    def open_streams(self, most: int) -> OpenStreams:
        """What is told about the streams: of the oldest ones, `most` at most."""
        now_ns = self.clock_ns()
        return OpenStreams(len(self), [stream.told(now_ns) for stream in islice(self._open.values(), most)])

    def ended(self, token: int) -> None:
        """A stream has ended."""
        self._open.pop(token, None)

    def _why_refused(self) -> tuple[Ending, str] | None:
        topic = self.store.streams
        if topic is None:
            return errors.STORE_DOWN, "expected the store of this node to answer, got no connection to it"
        if not topic.homes:
            return errors.STORE_RESTORING, "the store of this node does not read the topic of streams yet"
        if len(self) - len(self.resumed) >= self._most:
            return errors.TABLE_FULL, f"{self._most} streams are open, a quarter of this worker's slots"
        return None

    def _home(self) -> int:
        """The partition for the streams of this worker: one, so that their records travel together."""
        topic = self.store.streams
        assert topic is not None, "the store was asked before"
        home = topic.homes[self._turn % len(topic.homes)]
        if self._made_for != (topic.partitions, home):
            self._made_for = topic.partitions, home
            self._ids.set_ownership(topic.partitions, [home], home)
        return home
