"""Streams <-> Kafka records: header names, the decoding of reply records, and the order of a stream's records.

The reply to a request with `reply_kind: stream` may be many records, all with the same key and partition:

    record        headers                                                          value
    items         stream_attempt, stream_seq, stream_count                         JSON items, one a line, or bytes
    sign of life  stream_attempt, stream_beat                                      empty
    end           stream_attempt, stream_end: ok, stream_total                     empty, or the last items
    failed end    stream_attempt, stream_end: error, stream_total, status          a problem document

Items are numbered from 0. `stream_seq` is the number of a record's first item, `stream_count` says how many it holds (1
if absent). A run of the handler is an *attempt*; a service that reads its request a second time begins a new one, with
another `stream_attempt`, at item 0. A record without these headers is an ordinary reply.

A record of a stream of bytes is one item: bytes have no borders at which a record could be divided.

This module knows no clock and no Kafka client: times are arguments.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from fastgw.dialects import RecordHeaders
from fastgw.dialects.plain import CONTENT_TYPE, STATUS, STREAM_BEAT, STREAM_END, STREAM_SEQ, unquoted
from fastgw.messages import Reply

# On replies, written by services.
SEQ = STREAM_SEQ
COUNT = "stream_count"
ATTEMPT = "stream_attempt"
BEAT = STREAM_BEAT  # the interval between two of them, in ms
END = STREAM_END
TOTAL = "stream_total"
# `stream_until` is not among them: some services copy the headers of their request to the reply.
OF_REPLIES = frozenset({SEQ, COUNT, ATTEMPT, BEAT, END, TOTAL})

# On requests, written by the gateway.
REPLY_KIND = "reply_kind"
UNTIL = "stream_until"  # ms since 1970; the handler is stopped then
ANSWER_EXPIRED = "answer_expired"
CANCEL = "cancel"  # the only header of a cancel record that matters: the id of the request to be stopped

STREAM = b"stream"  # the value of `reply_kind`
YES = b"1"  # the value of `answer_expired`
OK, ERROR = b"ok", b"error"  # the values of `stream_end`

ATTEMPT_BYTES_MAX = 64
INDEX_MAX = 2**53 - 1  # the largest number that every JSON reader keeps exact; it is shown to clients
BEAT_MS_MAX = 3_600_000
BEATS_MISSED_MAX = 3
DIGITS_MAX = len(str(INDEX_MAX))


# Checks the grammar and makes no objects. Half as expensive as a parser.
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class BadItem(ValueError):
    """A record that breaks the rules of streams. The text says what was expected and what was got."""


# ---- records -------------------------------------------------------------------------------------------------------


class Items(NamedTuple):
    """A record with items [seq, seq + count).

    `payload` has JSON items joined with newlines, or the bytes of one item. Outside of strings, JSON may contain
    carriage returns, which mean something to readers of `text/event-stream`.
    """

    attempt: bytes
    seq: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    payload: bytes

    @property
    def end(self) -> int:
        """The number of the item after the last one."""
        return self.seq + self.count

    def since(self, seq: int) -> Items:
        """Without the items below `seq`, of which `self.seq <= seq < self.end` must hold."""
        skipped = seq - self.seq
        if not skipped:
            return self
        return Items(self.attempt, seq, self.count - skipped, self.payload.split(b"\n", skipped)[skipped])


class Beat(NamedTuple):
    """The handler is still at work. The next beat comes after `interval_ms`."""

    attempt: bytes
    interval_ms: int


class End(NamedTuple):
    """The last record of an attempt."""

    attempt: bytes
    is_ok: bool
    total: int  # items of the whole stream; -1: an error without a number
    items: Items | None  # the last items, if this record has some; never of an error
    status: int  # of an error 400 to 599; otherwise 200 to 599
    content_type: bytes  # of the body; b"": not given
    body: bytes  # of an error, normally a problem document; otherwise empty


class Plain(NamedTuple):
    """A record without headers of streams: an ordinary reply."""


PLAIN = Plain()

Decoded = Items | Beat | End | Plain


def decode(reply: Reply, is_json: bool) -> Decoded:
    """Decodes one record of the reply to a streaming request.

    Args:
        reply: the record.
        is_json: whether the route's items are JSON; otherwise they are bytes.

    Raises:
        BadItem: a number is not decimal or too large, a header is missing, doubled or contradicts another one, the
            count differs from the items in the value, or an item is not JSON.
    """
    told = _told(reply.headers)
    if not told:
        return PLAIN
    attempt = told.get(ATTEMPT, b"")
    if not 1 <= len(attempt) <= ATTEMPT_BYTES_MAX:
        raise BadItem(f"expected {ATTEMPT!r} with 1 to {ATTEMPT_BYTES_MAX} bytes, got {len(attempt)}")
    if BEAT not in told:
        if END in told:
            return _end(attempt, told, reply, is_json)
        if SEQ in told:
            return _items(attempt, told, reply.value, is_json)
    elif SEQ not in told and END not in told:
        return _beat(attempt, told)
    raise BadItem(f"expected one of {SEQ!r}, {BEAT!r} and {END!r}, got {', '.join(sorted(told))}")


def without_stream_headers(headers: RecordHeaders) -> RecordHeaders:
    """The headers of a stream's first record from which the head of the HTTP answer is made.

    Records of two streams never have the same stream headers, so a cache of decoded heads must not see them.
    """
    return [header for header in headers if header[0].lower() not in OF_REPLIES]


def _told(headers: RecordHeaders) -> dict[str, bytes]:
    """The headers of streams, by lower-case name."""
    told: dict[str, bytes] = {}
    for cased, raw in headers:
        name = cased.lower()
        if name not in OF_REPLIES:
            continue
        value = unquoted(raw)
        if not value:  # an empty header counts as absent, as in other replies
            continue
        if told.setdefault(name, value) != value:
            raise BadItem(f"expected one header {name!r}, got {told[name][:20]!r} and {value[:20]!r}")
    return told


def _items(attempt: bytes, told: dict[str, bytes], payload: bytes, is_json: bool) -> Items:
    seq = _number(SEQ, told.get(SEQ, b""), INDEX_MAX)
    count = _number(COUNT, told.get(COUNT, b"1"), INDEX_MAX)
    if not 1 <= count <= INDEX_MAX - seq:
        raise BadItem(f"expected {COUNT!r} of 1 to {INDEX_MAX - seq} after {SEQ!r} {seq}, got {count}")
    if is_json:
        _check_lines(payload, count)
    elif count != 1:
        raise BadItem(f"expected one item in a record of bytes, got {COUNT!r} {count}")
    return Items(attempt, seq, count, payload)


def _check_lines(payload: bytes, count: int) -> None:
    lines = payload.split(b"\n")
    if len(lines) != count:
        raise BadItem(f"expected {count} lines ({COUNT!r}), got {len(lines)}")
    for number, line in enumerate(lines, 1):
        try:
            _check_json(line)
        except msgspec.DecodeError as error:
            raise BadItem(f"expected JSON in line {number} of {count}, got {line[:40]!r} ({error})") from None
    try:
        payload.decode()  # what `_check_json` does not look at
    except UnicodeDecodeError as error:
        raise BadItem(f"expected JSON in UTF-8, got {payload[error.start : error.start + 20]!r}") from None


def _beat(attempt: bytes, told: dict[str, bytes]) -> Beat:
    interval_ms = _number(BEAT, told[BEAT], BEAT_MS_MAX)
    if interval_ms == 0:
        raise BadItem(f"expected {BEAT!r} of at least 1 ms, got 0")
    return Beat(attempt, interval_ms)


def _end(attempt: bytes, told: dict[str, bytes], reply: Reply, is_json: bool) -> End:
    others = _last_of(reply.headers, STATUS, CONTENT_TYPE)
    is_ok = told[END] == OK
    if not is_ok and told[END] != ERROR:
        raise BadItem(f"expected {END!r} of 'ok' or 'error', got {told[END][:20]!r}")
    status = _status(others.get(STATUS, b"200" if is_ok else b"500"), 200 if is_ok else 400)
    content_type = others.get(CONTENT_TYPE, b"")
    if not is_ok:  # it ends the stream in any case, so a missing total is forgiven
        total = _number(TOTAL, told[TOTAL], INDEX_MAX) if TOTAL in told else -1
        return End(attempt, False, total, None, status, content_type, reply.value)
    total = _number(TOTAL, told.get(TOTAL, b""), INDEX_MAX)
    items = _items_at_end(attempt, told, reply.value, is_json)
    if items is not None and items.end != total:
        raise BadItem(f"expected {TOTAL!r} to be that of the last items, {items.end}, got {total}")
    return End(attempt, True, total, items, status, content_type, b"")


def _items_at_end(attempt: bytes, told: dict[str, bytes], payload: bytes, is_json: bool) -> Items | None:
    if told.get(COUNT) == b"0" or (COUNT not in told and SEQ not in told):
        if payload:
            raise BadItem(f"expected no value at an end without items, got {len(payload)} bytes")
        return None
    return _items(attempt, told, payload, is_json)


def _last_of(headers: RecordHeaders, *names: str) -> dict[str, bytes]:
    told = ((name.lower(), raw) for name, raw in headers if name.lower() in names)
    return {name: value for name, raw in told if (value := unquoted(raw))}


def _status(raw: bytes, least: int) -> int:
    if len(raw) == 3 and raw.isdigit() and least <= int(raw) <= 599:
        return int(raw)
    raise BadItem(f"expected {STATUS!r} of {least} to 599 at this end, got {raw[:20]!r}")


def _number(name: str, raw: bytes, most: int) -> int:
    """The number in a header. Leading zeros and signs are refused: they are no way to write a count."""
    if raw.isdigit() and len(raw) <= DIGITS_MAX and (raw[0] != 0x30 or raw == b"0") and int(raw) <= most:
        return int(raw)
    raise BadItem(f"expected {name!r} of 0 to {most} as ASCII digits, got {raw[:20]!r}")


# ---- headers of records ---------------------------------------------------------------------------------------------


def items_headers(attempt: bytes, seq: int, count: int) -> RecordHeaders:
    """The headers of a record with items. The first record of a stream has those of an HTTP answer besides."""
    return [(ATTEMPT, attempt), (SEQ, b"%d" % seq), (COUNT, b"%d" % count)]


def beat_headers(attempt: bytes, interval_ms: int) -> RecordHeaders:
    """The headers of a sign of life."""
    return [(ATTEMPT, attempt), (BEAT, b"%d" % interval_ms)]


def end_headers(attempt: bytes, is_ok: bool, total: int) -> RecordHeaders:
    """The headers of an end without items. That of an error has `status` and `content-type` besides."""
    return [(ATTEMPT, attempt), (END, OK if is_ok else ERROR), (COUNT, b"0"), (TOTAL, b"%d" % total)]


def cancel_record(correlation_id: bytes) -> tuple[RecordHeaders, bytes]:
    """Headers and value of the record that stops the handler of a request.

    It goes to the request's partition. The value is not empty, because an empty one would delete a key of a compacted
    topic; there is no `reply_to`, so services that do not know cancel records answer nobody.
    """
    return [(CANCEL, correlation_id)], CANCEL.encode()


# ---- order ---------------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """Items are missing: the next one is `expected`, but the log goes on at `got`.

    Read again from `StreamOrder.accepted_offset`; what was accepted before is skipped then. If the log still has the
    gap, the stream is broken.
    """

    expected: int
    got: int


Accepted = Items | End | Plain | Gap


class StreamOrder:
    """Decides which records of one stream count, whatever is repeated, reordered, or written by a second attempt.

    - The stream belongs to the attempt of the first record with items or an end. Records of others are ignored. (A
      beat decides nothing: a service that dies before its first item is replaced by an attempt that can still deliver
      the whole stream.)
    - Items come once and in order: those below `next_seq` are skipped, those above it are a `Gap`.
    - An end counts if all items before it were accepted.
    - An ordinary reply counts if it comes before the first item; after it, it is that of another attempt.

    Attributes:
        attempt: to which the stream belongs; b"" before its first item or end.
        next_seq: the number of the next item, which is how many were accepted.
        accepted_offset: of the last record that was accepted; -1 before the first.
        is_ended: an end or an ordinary reply was accepted; nothing counts after it.
    """

    def __init__(self, next_seq: int = 0) -> None:
        """
        Args:
            next_seq: the item with which to begin. A stream that is resumed begins with a record of its own attempt.
        """
        self.attempt = b""
        self.next_seq = next_seq
        self.accepted_offset = -1
        self.is_ended = False
        self._beating = b""  # the attempt whose beats are expected; b"": no beat was seen
        self._interval_ns = 0
        self._lost_at_ns = 0

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "open"
        return f"<StreamOrder {state} attempt={self.attempt!r} next_seq={self.next_seq} at={self.accepted_offset}>"

    def accept(self, record: Decoded, offset: int, now_ns: int) -> Accepted | None:
        """The next record of the log, or one that was read before.

        Args:
            record: as decoded.
            offset: where it stands.
            now_ns: monotonic time.

        Returns:
            What is new to the reader of the stream: items that were not accepted before (their record may be cut), the
            end, an ordinary reply. Or a `Gap`, which changes nothing. None: the record does not count.

        Raises:
            BadItem: the end states fewer items than were accepted.
        """
        if self.is_ended:
            return None
        if isinstance(record, Plain):
            return self._accept_plain(record, offset)
        if isinstance(record, Beat):
            if self.attempt in (b"", record.attempt):
                self._expect_beats(record, now_ns)
            return None
        if self.attempt and record.attempt != self.attempt:
            return None
        self.attempt = record.attempt
        self._note_life(now_ns)
        return self._accept_items(record, offset) if isinstance(record, Items) else self._accept_end(record, offset)

    @property
    def lost_at_ns(self) -> int:
        """When three beats will have been missed; 0: no beat was seen, so none is missed."""
        return self._lost_at_ns

    def is_lost(self, now_ns: int) -> bool:
        """Whether three beats were missed: the service is dead, frozen, or cut off."""
        return 0 < self._lost_at_ns <= now_ns and not self.is_ended

    def _accept_plain(self, record: Plain, offset: int) -> Plain | None:
        if self.attempt or self.next_seq:
            return None
        self.is_ended = True
        self.accepted_offset = offset
        return record

    def _accept_items(self, items: Items, offset: int) -> Items | Gap | None:
        new = self._new_of(items)
        if isinstance(new, Items):
            self.next_seq = new.end
            self.accepted_offset = offset
        return new

    def _accept_end(self, end: End, offset: int) -> End | Gap:
        new = self._new_of(end.items) if end.items is not None else None
        if isinstance(new, Gap):
            return new
        reached = new.end if new is not None else self.next_seq
        if end.total > reached:
            return Gap(reached, end.total)
        if end.is_ok and end.total < reached:
            raise BadItem(f"expected an end with {TOTAL!r} of at least the {reached} items before it, got {end.total}")
        self.next_seq = reached
        self.accepted_offset = offset
        self.is_ended = True
        return end._replace(items=new)

    def _new_of(self, items: Items) -> Items | Gap | None:
        """The items that were not accepted before."""
        if items.seq > self.next_seq:
            return Gap(self.next_seq, items.seq)
        return items.since(self.next_seq) if items.end > self.next_seq else None

    def _expect_beats(self, beat: Beat, now_ns: int) -> None:
        self._beating = beat.attempt
        self._interval_ns = beat.interval_ms * 1_000_000
        self._lost_at_ns = now_ns + BEATS_MISSED_MAX * self._interval_ns

    def _note_life(self, now_ns: int) -> None:
        """A record of the stream's own attempt says as much as a beat, if beats are expected of this attempt."""
        if self._beating == self.attempt:
            self._lost_at_ns = now_ns + BEATS_MISSED_MAX * self._interval_ns
        else:
            self._lost_at_ns = 0
