"""What is the express front's own: how bytes become requests, wherever they are cut, and what a connection may cost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.connection import AHEAD_BYTES_MAX, COPIED_BODY_BYTES_MAX, HEADS_AT_ONCE, SKIPPED_BODY_BYTES_MAX
from tests.actors.wire_connection import REQUEST_ID, FakeFront, Wire

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
    wire.end_if_idle()
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
        "upgrade": [200, 200],
        "upgrade with chunks": [200, 200],
        "upgrade of a refused body": [404, 200],
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


# What is written.


def test_an_answer_is_one_write_of_these_bytes():
    assert Wire().send(POST).sent == (
        b"HTTP/1.1 200 OK\r\nx-told: yes\r\n" + DATE + b"x-request-id: " + REQUEST_ID
        + b"\r\ncontent-length: 5\r\n\r\nhello"
    )  # fmt: skip


def test_an_answer_to_http_1_0_says_that_the_connection_is_kept():
    sent = Wire().send(SAMPLES["1.0 kept alive"]).sent
    assert sent.count(b"HTTP/1.1 200 OK") == 2
    assert sent.count(b"connection: keep-alive\r\n") == 1, "the second request has HTTP/1.1, where that is understood"


def test_a_large_body_is_not_copied_behind_its_head():
    body = bytes(COPIED_BODY_BYTES_MAX + 1)
    wire = Wire().send(head(b"POST /held HTTP/1.1", b"Content-Length: %d" % len(body)) + body)
    wire.answer_held()
    assert wire.transport.parts == 2
    assert wire.sent.endswith(b"content-length: %d\r\n\r\n" % len(body) + body)


def test_the_date_moves_on():
    front = FakeFront()
    wire = Wire(front).send(GET)
    front.answer_heads.set_time(86_400)
    wire.send(GET)
    assert wire.sent.count(DATE) == 1
    assert b"date: Fri, 02 Jan 1970" in wire.sent


# RFC 9110, 5.1 and 5.5, where obs-text is any character beyond ASCII.
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=5), st.integers(-10, 1200))
def test_no_answer_breaks_the_framing(headers, status):
    wire = Wire().send(head(b"POST /held HTTP/1.1", b"Content-Length: 4") + b"body")
    wire.answer_held(status, headers)
    head_bytes, _, rest = wire.sent.partition(b"\r\n\r\n")
    can_be_sent = 200 <= status <= 599 and all(NAME(name) and VALUE(value) for name, value in headers)
    told = status if can_be_sent else 500
    assert head_bytes.startswith(b"HTTP/1.1 %d " % told)
    names = [line.partition(b":")[0].lower() for line in head_bytes.split(b"\r\n")[1:]]
    assert names.count(b"date") == 1
    assert names.count(b"content-length") == (0 if told in (204, 304) else 1)
    assert b"transfer-encoding" not in names
    assert rest == (b"" if told in (204, 205, 304) or not can_be_sent else b"body")


def test_answers_that_are_all_different_do_not_grow_the_memory():
    front = FakeFront()
    wire = Wire(front)
    for number in range(3000):
        wire.send(head(b"GET /held HTTP/1.1"))
        wire.answer_held(200, [("etag", str(number))])
    assert len(front.answer_heads.made) <= 1024


# Expect, chunks, refused bodies.


def test_100_is_said_once_the_request_may_enter_and_only_to_who_waits():
    wire = Wire().send(EXPECTING)
    assert wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.send(b"hello").sent.count(b"HTTP/1.1 200 OK") == 1
    assert b"100" not in Wire().send(EXPECTING + b"h").sent
    assert b"100" not in Wire().send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")).sent


@pytest.mark.parametrize("value", [b"100-continue, money", b"money", b"", b"100-continue\r\nExpect: money"])
def test_any_other_expectation_is_417(value):
    raw = head(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Expect: " + value)
    wire = Wire().send(raw)
    assert wire.sent.startswith(b"HTTP/1.1 417 ")
    assert wire.transport.ended, "whether its body follows is not known"
    assert wire.door.calls == [("refuse", "expectation_failed")]


def test_the_end_of_chunks_may_fall_apart_anywhere():
    end = b"\r\n0\r\n\r\n"
    for at in range(len(end) + 1):
        wire = Wire().send(CHUNKED + b"5\r\nhello" + end[:at], end[at:] + NEXT)
        assert wire.sent.count(b"HTTP/1.1 200") == 2, at


def test_a_body_in_chunks_may_be_as_large_as_the_limit_and_no_larger():
    fitting = b"20\r\n" + bytes(32) + b"\r\n20\r\n" + bytes(32) + b"\r\n"
    assert ("open", "/echo", bytes(64)) in Wire().send(CHUNKED + fitting + b"0\r\n\r\n").door.calls
    wire = Wire().send(CHUNKED + fitting, b"1\r\n\0\r\n0\r\n\r\n" + NEXT)
    assert wire.door.calls[1:] == [("abandon", "body_too_large")]
    assert wire.sent.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "overhead", [b"1;" + b"a" * 2000, b"0\r\n" + b"X-A: 1\r\n" * 200, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 63]
)
def test_what_comes_beside_a_body_in_chunks_is_bounded(overhead):
    wire = Wire().send(CHUNKED, *(overhead[at : at + 100] for at in range(0, len(overhead), 100)))
    assert wire.door.calls[1:] == [("abandon", "malformed")]


def test_the_smallest_chunks_are_taken():
    assert ("open", "/echo", b"x" * 64) in Wire().send(CHUNKED + b"1\r\nx\r\n" * 64 + b"0\r\n\r\n").door.calls


def test_the_short_rest_of_a_refused_request_is_skipped_and_the_long_one_is_not():
    for length, answers in ((SKIPPED_BODY_BYTES_MAX, 2), (SKIPPED_BODY_BYTES_MAX + 1, 1)):
        raw = head(b"POST /nowhere HTTP/1.1", b"Content-Length: %d" % length)
        wire = Wire().send(raw, bytes(length), NEXT)
        assert wire.sent.count(b"HTTP/1.1 ") == answers
        assert bool(wire.transport.ended) is (answers == 1)


def test_a_refused_request_whose_rest_does_not_come_is_cut():
    wire = Wire().send(head(b"POST /nowhere HTTP/1.1", b"Content-Length: 9"), b"hello")
    wire.front.pass_time(11)
    assert wire.transport.ended == "aborted"
    assert wire.sent.count(b"HTTP/1.1 ") == 1


# Ahead, behind, slow and gone.


def test_what_is_sent_ahead_is_not_looked_at_and_bounded():
    wire = Wire().send(head(b"GET /held HTTP/1.1"))
    segment = NEXT * 100
    sent = 0
    while wire.transport.reads:
        wire.send(segment)
        sent += 100
    assert sent * len(NEXT) <= AHEAD_BYTES_MAX + len(segment)
    assert len(wire.door.calls) == 2, "admit and open of the first"
    wire.answer_held()
    assert wire.transport.reads
    assert wire.sent.count(b"HTTP/1.1 200") == 1 + sent


def test_many_requests_in_one_segment_let_others_have_their_turn():
    front = FakeFront()
    greedy, other = Wire(front), Wire(front)
    greedy.connection.data_received((NEXT + POST + CHUNKS) * 100)
    served = greedy.sent.count(b"HTTP/1.1 200")
    assert served == 1 + HEADS_AT_ONCE
    assert other.send(GET).sent.count(b"HTTP/1.1 200") == 1
    assert greedy.sent.count(b"HTTP/1.1 200") == 300, "the rest came when the loop was asked again"


def test_one_who_sends_ahead_is_read_from_again_only_when_that_is_done():
    wire = Wire().send(head(b"GET /held HTTP/1.1") * 2 + NEXT * 2000)
    assert not wire.transport.reads
    wire.answer_held()
    assert not wire.transport.reads, "the second waits, and what is behind it is still too much"
    wire.answer_held()
    assert wire.transport.reads
    assert wire.front.paused == set()


def test_a_client_that_leaves_is_reported_also_with_requests_behind_the_one_that_waits():
    wire = Wire().send(head(b"GET /held HTTP/1.1") + NEXT * 2000)
    wire.leave()
    assert wire.door.calls[-1] == ("gone",)
    assert wire.front.paused == set()
    wire.answer_held()
    assert wire.sent == b""


def test_the_next_request_waits_until_the_answer_is_taken():
    wire = Wire()
    wire.transport.accepts_writes = False
    wire.send(GET + POST)
    assert [call[0] for call in wire.door.calls] == ["admit", "open"]
    wire.take()
    assert [call[0] for call in wire.door.calls] == ["admit", "open"] * 2


@pytest.mark.parametrize("raw", [GET, head(b"GET /echo HTTP/1.1", b"Connection: close"), b"\0"])
def test_a_client_that_does_not_take_its_answer_is_cut(raw):
    wire = Wire()
    wire.transport.accepts_writes = False
    wire.send(raw)
    wire.front.pass_time(19)
    assert wire.transport.ended != "aborted"
    wire.front.pass_time(2)
    assert wire.transport.ended == "aborted"


def test_an_answer_that_is_taken_in_time_stops_the_clock():
    wire = Wire()
    wire.transport.accepts_writes = False
    wire.send(GET)
    wire.front.pass_time(19)
    wire.take()
    wire.front.pass_time(100)
    assert not wire.transport.ended


def test_a_client_that_sends_on_after_an_error_may_read_the_answer_first():
    """Closing with bytes unread resets the connection, and a reset destroys what the client has not read."""
    wire = Wire().send(SAMPLES["too large"])
    assert wire.transport.ended == "eof"
    wire.send(NEXT * 1000)
    assert wire.sent.count(b"HTTP/1.1 ") == 1
    wire.front.pass_time(3)
    assert wire.transport.ended == "aborted"


# Deadlines.


def test_who_says_nothing_is_told_nothing():
    wire = Wire()
    wire.front.pass_time(11)
    assert (wire.sent, wire.transport.ended, wire.door.calls) == (b"", "closed", [])


@pytest.mark.parametrize("after", [b"", GET])
def test_a_head_that_does_not_end_is_408(after):
    wire = Wire().send(after)
    wire.front.pass_time(5)
    wire.send(GET[:-2])
    wire.front.pass_time(6 if not after else 11)
    assert wire.sent.count(b"HTTP/1.1 408 ") == 1, "the time runs from the connection or from the first byte"
    assert wire.door.calls[-1] == ("refuse", "header_timeout")


def test_a_head_has_one_time_for_all_of_it():
    wire = Wire()
    for at in range(11):
        wire.send(GET[at : at + 1])
        wire.front.pass_time(1)
    assert wire.sent.startswith(b"HTTP/1.1 408 ")


def test_a_body_has_one_time_for_all_of_it():
    wire = Wire().send(CHUNKED)
    for _ in range(11):
        wire.send(b"1\r\nx\r\n")
        wire.front.pass_time(1)
    assert wire.door.calls[1:] == [("abandon", "body_timeout")]
    assert wire.sent.startswith(b"HTTP/1.1 408 ")


def test_a_request_that_waits_has_the_time_of_its_route():
    wire = Wire().send(head(b"GET /held HTTP/1.1") + NEXT)
    wire.front.pass_time(1000)
    assert not wire.end_if_idle()
    wire.answer_held()
    assert wire.sent.count(b"HTTP/1.1 200 ") == 2


def test_idle_time_counts_from_the_last_answer():
    wire = Wire().send(GET)
    wire.front.pass_time(50)
    wire.send(GET)
    wire.front.pass_time(50)
    assert not wire.end_if_idle(75)
    wire.front.pass_time(50)
    assert wire.end_if_idle(75)
    assert wire.transport.ended == "closed"


# Too many.


def test_a_connection_beyond_the_limit_is_told_so_and_one_far_beyond_it_is_cut():
    front = FakeFront()
    front.is_full = True
    told = Wire(front).send(GET)
    assert told.sent.startswith(b"HTTP/1.1 503 ")
    assert told.transport.ended == "eof"
    assert told.door.calls == [("refuse", "connection_cap")]
    front.crowded = True
    assert (Wire(front).sent, Wire(front).transport.ended) == (b"", "aborted")
