"""Promise: whatever the records of a stream hold, each is decoded or a BadItem. The reader of the stream sees items 0,
1, 2, ... of one attempt, each once, and at most one end, which comes last and counts them."""

from __future__ import annotations

from fastgw.dialects import streams
from fastgw.dialects.streams import BadItem, End, Items, Plain, StreamOrder
from fastgw.messages import Reply
from tests.fuzz.drawing import Draw

NAMES = [*sorted(streams.OF_REPLIES), "Stream_Seq", "status", "content-type"]
VALUES = [b"0", b"1", b"2", b"3", b"ok", b"error", b"500", b"x", b"9007199254740991", b"-1", b""]
PAYLOADS = [b"", b"1", b"1\n2", b"1\n2\n3", b'{"a"\n:1}', b"\n", b"\xff"]


def drawn(payload: bytes, **headers: bytes) -> bytes:
    """What `some_record` makes a record of with these headers."""
    each = [bytes((1, VALUES.index(value), NAMES.index(name))) for name, value in headers.items()]
    return bytes((len(each),)) + b"".join(each) + bytes((1, PAYLOADS.index(payload)))


STREAMS = [  # whole ones, failed ones, repeated ones, and one of two attempts
    drawn(b"1\n2", stream_attempt=b"x", stream_seq=b"0", stream_count=b"2")
    + drawn(b"1", stream_attempt=b"x", stream_seq=b"2")
    + drawn(b"", stream_attempt=b"x", stream_end=b"ok", stream_total=b"3") * 2,
    drawn(b"1", stream_attempt=b"x", stream_seq=b"0") * 2
    + drawn(b"1", stream_attempt=b"1", stream_seq=b"0")
    + drawn(b"1", stream_attempt=b"x", stream_end=b"error", status=b"500"),
    drawn(b"", stream_attempt=b"x", stream_beat=b"3") + drawn(b"1", stream_attempt=b"x", stream_seq=b"3"),
    drawn(b"1\n2\n3", stream_attempt=b"x", stream_end=b"ok", stream_total=b"3", stream_seq=b"0", stream_count=b"3"),
    drawn(b"1", stream_attempt=b"x", stream_seq=b"9007199254740991") + drawn(b"1", status=b"500"),
]
SEEDS = [b"\1" + records for records in STREAMS] + [b"\0" + records for records in STREAMS]


def some_record(draw: Draw) -> tuple[list[tuple[str, bytes]], bytes]:
    """Headers and value of a record; many of them are nearly right."""
    headers = []
    for _ in range(draw.number(6)):
        value = draw.choice(VALUES) if draw.number(7) else draw.some_bytes(70)
        headers.append((draw.choice(NAMES), value))
    value = draw.choice(PAYLOADS) if draw.number(7) else draw.some_bytes(30)
    return headers, value


def target(data: bytes) -> None:
    draw = Draw(data)
    is_json = bool(draw.number(1))
    order, seen, attempts, has_ended = StreamOrder(), 0, set(), False
    for offset in range(12):
        if not draw.left:
            break
        try:
            new = order.accept(streams.decode(Reply(b"id", 0, 0, *some_record(draw)), is_json), offset, offset)
        except BadItem:
            continue
        held = new.items if isinstance(new, End) else new
        if isinstance(held, Items):
            assert not has_ended
            assert held.seq == seen
            assert not is_json or held.payload.count(b"\n") == held.count - 1
            seen = held.end
            attempts.add(held.attempt)
        if isinstance(new, End | Plain):
            assert not has_ended
            has_ended = True
        if isinstance(new, End) and new.is_ok:
            assert new.total == seen
    assert len(attempts) <= 1
    assert order.next_seq == seen
