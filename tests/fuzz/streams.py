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

SEEDS = [
    b"\1\3\3\2\7\2\0\1\1\3\3\2\7\2\1\1",
    b"\0\3\3\2\7\1\0\1\3\3\3\5\4\2\7\0",
    b"\1\2\3\1\2\0\3\3\2\7\2\0\2",
]


def _reply(draw: Draw) -> Reply:
    headers = []
    for _ in range(draw.number(6)):
        value = draw.choice(VALUES) if draw.number(7) else draw.some_bytes(70)
        headers.append((draw.choice(NAMES), value))
    value = draw.choice(PAYLOADS) if draw.number(7) else draw.some_bytes(30)
    return Reply(b"id", 0, 0, headers, value)


def target(data: bytes) -> None:
    draw = Draw(data)
    is_json = bool(draw.number(1))
    order, seen, attempts, has_ended = StreamOrder(), 0, set(), False
    for offset in range(12):
        if not draw.left:
            break
        try:
            new = order.accept(streams.decode(_reply(draw), is_json), offset, offset)
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
