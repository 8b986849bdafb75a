"""Promise: any bytes on a connection of the express front end in answers or in its end. Where they are cut makes no
difference; every request that was let in has one answer; and h11 sees what was let in as requests with those bodies."""

from __future__ import annotations

from tests.actors.wire_connection import Wire
from tests.fronts.hostile import HOSTILE
from tests.fronts.test_smuggling import CHUNKS, as_h11_sees_it
from tests.fuzz.drawing import Draw

_GET = b"GET /echo?a HTTP/1.1\r\nHost: shop.test\r\n\r\n"
SEEDS = [b"\x20" + row.raw + _GET for row in HOSTILE if len(row.raw) < 2000]
SEEDS += [
    b"\7POST /held HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + _GET for chunks in CHUNKS
]
SEEDS += [b"\1" + _GET * 3, b"\3POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + _GET]


def play(parts: list[bytes]) -> tuple[list[object], bytes]:
    """What the core was asked and what the client was told."""
    wire = Wire().send(*parts)
    wire.answer_all_held()
    wire.front.pass_time(60)
    wire.end_if_idle()
    assert wire.transport.ended, "whatever it was, time ends it"
    opened = sum(call[0] == "open" for call in wire.door.calls)
    assert wire.sent.count(b"HTTP/1.1 200") == opened
    return list(wire.door.calls), bytes(wire.sent)


def target(data: bytes) -> None:
    draw = Draw(data)
    step = 1 + draw.number(60)
    stream = draw.rest()
    calls, sent = play([stream])
    assert play([stream[at : at + step] for at in range(0, len(stream), step)]) == (calls, sent)
    bodies = [call[2] for call in calls if call[0] == "open"]  # type: ignore[index]
    if bodies and b"\r\n\r\n\r\n" not in stream and not stream.startswith((b"\r", b"\n")):
        # h11 knows no empty lines before a request. Others, refused for their path or size, may stand in between.
        seen = iter([request.body for request in as_h11_sees_it(stream)])
        assert all(body in seen for body in bodies), (bodies, as_h11_sees_it(stream))
