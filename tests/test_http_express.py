"""What is the express front's own: how bytes become requests, wherever they are cut, and what a connection may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire_connection import Wire

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def head(line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: shop.test", *lines)) + b"\r\n\r\n"


GET = head(b"GET /echo HTTP/1.1")
NEXT = head(b"GET /echo?next HTTP/1.1")
POST = head(b"POST /echo HTTP/1.1", b"Content-Length: 5") + b"hello"
CHUNKED = head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: chunked")
CHUNKS = CHUNKED + b"3\r\n\r\n\r\r\n2;why=not\r\n\nx\r\n0\r\nX-Trailer: 1\r\n\r\n"
EXPECTING = head(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue")
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")

SAMPLES = {
    "get": GET,
    "post": POST,
    "chunks": CHUNKS,
    "chunks without trailer": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
    "pipelined": GET + POST + CHUNKS + b"\r\n\r\n" + NEXT + CHUNKS + POST,
    "held": head(b"POST /held HTTP/1.1", b"Content-Length: 5") + b"first" + NEXT + CHUNKS + POST,
    "close": head(b"GET /echo HTTP/1.1", b"Connection: close") + NEXT,
    "1.0": head(b"GET /echo HTTP/1.0") + NEXT,
    "1.0 kept alive": head(b"GET /echo HTTP/1.0", b"Connection: keep-alive") + NEXT,
    "head": head(b"HEAD /echo HTTP/1.1") + NEXT,
    "absolute": head(b"GET http://SHOP.test:80/echo?a HTTP/1.1") + head(b"GET http://shop.test HTTP/1.1") + NEXT,
    "absolute elsewhere": head(b"GET http://evil.test/echo HTTP/1.1") + NEXT,
    "no route": head(b"POST /nowhere HTTP/1.1", b"Content-Length: 5") + b"hello" + NEXT,
    "no route, chunks": head(b"POST /nowhere HTTP/1.1", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + NEXT,
    "too large": head(b"POST /echo HTTP/1.1", b"Content-Length: 65") + bytes(65) + NEXT,
    "chunks too large": CHUNKED + b"41\r\n" + bytes(65) + b"\r\n0\r\n\r\n" + NEXT,
    "broken chunks": CHUNKED + b"5\r\nhello0\r\n\r\n" + NEXT,
    "expecting too much": head(b"GET /echo HTTP/1.1", b"Expect: money") + NEXT,
    "upgrade": head(b"POST /echo HTTP/1.1", b"Content-Length: 5", *UPGRADE) + b"hello" + NEXT,
    "upgrade with chunks": head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: chunked", *UPGRADE) + b"0\r\n\r\n" + NEXT,
    "upgrade of a refused body": head(b"POST /nowhere HTTP/1.1", b"Content-Length: 5", *UPGRADE) + b"hello" + NEXT,
    "connect": head(b"CONNECT shop.test:80 HTTP/1.1") + NEXT,
    "connect with a path": head(b"CONNECT /echo HTTP/1.1") + NEXT,
    "trace": head(b"TRACE /echo HTTP/1.1"),
    "unknown method": head(b"BREW /echo HTTP/1.1") + NEXT,
    "unknown method, bad header": head(b"BREW /echo HTTP/1.1", b"X : 1") + NEXT,
    "no method": head(b"G@T /echo HTTP/1.1") + NEXT,
    "both framings": head(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked")
    + b"0\r\n\r\n"
    + NEXT,
    "two lengths": head(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Content-Length: 5") + b"hello" + NEXT,
    "gzip, chunked": head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + NEXT,
    "obs-fold": head(b"GET /echo HTTP/1.1", b"X-A: 1", b" 2") + NEXT,
    "bare LF": b"GET /echo HTTP/1.1\nHost: a\n\n" + NEXT,
    "bare CR": b"\rGET /echo HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT,
    "NUL": head(b"GET /echo HTTP/1.1", b"X-A: \0") + NEXT,
    "two blanks": head(b"GET  /echo HTTP/1.1") + NEXT,
    "fragment": head(b"GET /echo#a HTTP/1.1") + NEXT,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NEXT,
    "TLS": b"\x16\x03\x01\x02\x00\x01" + NEXT,
    "long target": head(b"GET /echo?" + b"a" * 101 + b" HTTP/1.1") + NEXT,
    "endless target": head(b"GET /echo?" + b"a" * 1000 + b" HTTP/1.1") + NEXT,
    "endless method": head(b"A" * 1000 + b" /echo HTTP/1.1") + NEXT,
    "large headers": head(b"GET /echo HTTP/1.1", b"X-A: " + b"a" * 1100) + NEXT,
    "large headers of nonsense": head(b"GET /echo HTTP/1.1", b"X A: " + b"a" * 1100) + NEXT,
}


def result(*parts: bytes):
    """(what the door was asked, what the client got, how it ended) for a client that sends `parts` and then waits."""
    wire = Wire().send(*parts)
    wire.answer_all_held()
    return wire.door.calls, wire.sent, bool(wire.transport.ended)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_stream_byte_by_byte_is_the_same_stream(name):
    raw = SAMPLES[name]
    assert result(*(raw[at : at + 1] for at in range(len(raw)))) == result(raw)


@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_wherever_a_stream_is_cut_it_is_the_same_stream(name, data):
    raw = SAMPLES[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=6)))
    parts = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert result(*parts) == result(raw)


PIECES = [
    *SAMPLES.values(),
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"GET ",
    b"/echo",
]


@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=8).map(b"".join),
    st.integers(0, 2000),
)
def test_any_bytes_end_in_answers_or_the_end_of_the_connection(raw, cut):
    wire = Wire().send(raw[:cut], raw[cut:])
    wire.answer_all_held()
    wire.front.pass_time(60)
    wire.connection.leave_if_idle_since(wire.front.now)
    admitted = sum(call[0] == "open" for call in wire.door.calls)
    assert wire.sent.count(b"HTTP/1.1 200") == admitted
    assert wire.transport.ended, "whatever it was, time ends it"


def test_what_was_said_to_each_sample():
    """The statuses at a glance: a change here is a change of what clients see."""
    said = {name: [int(part[:3]) for part in result(raw)[1].split(b"HTTP/1.1 ")[1:]] for name, raw in SAMPLES.items()}
    assert said == {
        "get": [200],
        "post": [200],
        "chunks": [200],
        "chunks without trailer": [200],
        "pipelined": [200] * 6,
        "held": [200] * 4,
        "close": [200],
        "1.0": [200],
        "1.0 kept alive": [200, 200],
        "head": [200, 200],
        "absolute": [200, 404, 200],
        "absolute elsewhere": [400],
        "no route": [404, 200],
        "no route, chunks": [404],
        "too large": [413],
        "chunks too large": [413],
        "broken chunks": [400],
        "expecting too much": [417, 200],
        "upgrade": [200],
        "upgrade with chunks": [400],
        "upgrade of a refused body": [404],
        "connect": [400],
        "connect with a path": [405],
        "trace": [405],
        "unknown method": [405],
        "unknown method, bad header": [400],
        "no method": [400],
        "both framings": [400],
        "two lengths": [400],
        "gzip, chunked": [400],
        "obs-fold": [400],
        "bare LF": [400],
        "bare CR": [400],
        "NUL": [400],
        "two blanks": [400],
        "fragment": [400],
        "HTTP/2": [400],
        "TLS": [400],
        "long target": [414, 200],
        "endless target": [414],
        "endless method": [400],
        "large headers": [431],
        "large headers of nonsense": [431],
    }
