"""A streamed answer on a connection of the express front: what its client gets, and what becomes of the connection."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.connection import AHEAD_BYTES_MAX, COPIED_BODY_BYTES_MAX
from tests.actors.wire_connection import REQUEST_ID, Wire

WRITE_TIMEOUT_S = 20  # of FakeFront
DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def head(line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: shop.test", *lines)) + b"\r\n\r\n"


STREAM = head(b"GET /stream HTTP/1.1")
NEXT = head(b"GET /echo?next HTTP/1.1")
LAST = b"0\r\n\r\n"


def streaming(*parts: bytes, request: bytes = STREAM) -> Wire:
    """A client whose stream has begun."""
    wire = Wire().send(request, *parts)
    wire.door.sink.begin(200, [("content-type", "text/plain")], REQUEST_ID)
    return wire


def stuck(*parts: bytes) -> Wire:
    """A client whose stream has begun, and which has stopped reading with ten bytes waiting for it."""
    wire = streaming(*parts)
    wire.transport.accepts_writes = False
    assert wire.door.sink.write(b"12345") is False
    assert wire.transport.waiting_bytes == 10
    return wire


def calls(wire: Wire) -> list[str]:
    return [call[0] for call in wire.door.calls]


# What is written.


def test_a_stream_is_a_head_chunks_and_the_last_chunk():
    wire = streaming()
    assert wire.door.sink.write(b"hello") is True
    assert wire.door.sink.write(b"x" * 16) is True
    wire.door.sink.end()
    assert wire.sent == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n" + DATE + b"x-request-id: " + REQUEST_ID
        + b"\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\nxxxxxxxxxxxxxxxx\r\n" + LAST
    )  # fmt: skip


def test_the_first_piece_goes_out_with_the_head_and_the_last_one_with_the_end():
    wire = Wire().send(STREAM)
    wire.door.sink.begin(200, [], b"", b"first")
    assert wire.transport.writes == 1
    wire.door.sink.end(b"last")
    assert wire.transport.writes == 2
    assert wire.sent == (
        b"HTTP/1.1 200 OK\r\n" + DATE + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n4\r\nlast\r\n" + LAST
    )


def test_an_empty_piece_does_not_end_the_stream():
    wire = streaming()
    before = wire.sent
    assert wire.door.sink.write(b"") is True
    assert wire.sent == before
    wire.door.sink.end()
    assert wire.sent == before + LAST


def test_a_large_piece_is_not_copied():
    wire = streaming()
    wire.door.sink.write(bytes(COPIED_BODY_BYTES_MAX + 1))
    assert wire.transport.parts == 3
    wire.transport.parts = 1
    wire.door.sink.write(bytes(COPIED_BODY_BYTES_MAX - 100))
    assert wire.transport.parts == 1


def answers(sent: bytes, requests: list[tuple[bytes, bytes]]) -> list[tuple[int, bytes]]:
    """Status and body of the answers to these requests (method, target), as h11 reads them."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(sent)
    found = []
    for method, target in requests:
        client.send(h11.Request(method=method, target=target, headers=[("Host", "shop.test")]))
        client.send(h11.EndOfMessage())
        event, body = client.next_event(), b""
        assert isinstance(event, h11.Response), event
        status = event.status_code
        while not isinstance(event, h11.EndOfMessage):
            body += bytes(event.data) if isinstance(event, h11.Data) else b""
            event = client.next_event()
            assert event is not h11.NEED_DATA, "the answer is incomplete"
        found.append((status, body))
        client.start_next_cycle()
    assert client.trailing_data[0] == b"", "nothing may follow the answers"
    return found


@given(
    st.binary(max_size=9), st.lists(st.binary(max_size=40)), st.binary(max_size=9), st.sampled_from([b"GET", b"HEAD"])
)
def test_whatever_the_pieces_are_h11_reads_them_joined_and_then_the_next_answer(first, pieces, last, method):
    wire = Wire().send(head(method + b" /stream HTTP/1.1") + NEXT)
    sink = wire.door.sink
    sink.begin(200, [], REQUEST_ID, first)
    for piece in pieces:
        sink.write(piece)
    sink.end(last)
    wire.run_soon()
    body = b"" if method == b"HEAD" else first + b"".join(pieces) + last
    assert answers(wire.sent, [(method, b"/stream"), (b"GET", b"/echo?next")]) == [(200, body), (200, b"")]


@pytest.mark.parametrize(("status", "framing"), [(204, b""), (304, b""), (205, b"content-length: 0\r\n")])
def test_a_status_without_a_body_has_none(status, framing):
    wire = Wire().send(STREAM)
    sink = wire.door.sink
    sink.begin(status, [], b"", b"no")
    sink.write(b"not this")
    sink.end(b"nor this")
    assert wire.sent.endswith(DATE + framing + b"\r\n")
    assert wire.send(NEXT).sent.count(b"HTTP/1.1 200") == 1


def test_headers_that_belong_to_the_front_cannot_be_set_by_the_core():
    wire = Wire().send(STREAM)
    wire.door.sink.begin(200, [("content-length", "3"), ("transfer-encoding", "gzip"), ("x-told", "yes")])
    wire.door.sink.end()
    assert wire.sent == b"HTTP/1.1 200 OK\r\nx-told: yes\r\n" + DATE + b"transfer-encoding: chunked\r\n\r\n" + LAST


def test_instead_of_a_stream_an_ordinary_answer_can_be_given():
    wire = Wire().send(STREAM)
    wire.door.sink.answer(404, [("x-told", "no")], b"gone", REQUEST_ID)
    assert wire.sent.endswith(b"content-length: 4\r\n\r\ngone")
    assert wire.send(NEXT).sent.count(b"HTTP/1.1 200") == 1
    wire.door.sinks[0][0].abort()
    assert not wire.transport.ended, "the sink has ended with its answer"


def test_calls_out_of_order_are_refused():
    wire = Wire().send(STREAM)
    sink = wire.door.sink
    for call in (lambda: sink.write(b"x"), sink.end):
        with pytest.raises(AssertionError, match="the head comes first"):
            call()
    wire = streaming()
    with pytest.raises(AssertionError, match="begins once"):
        wire.door.sink.begin(200, [])
    with pytest.raises(AssertionError, match="has begun"):
        wire.door.sink.answer(200, [], b"", b"")


# The connection.


def test_a_request_behind_a_stream_is_served_after_its_end_and_not_before():
    wire = streaming(NEXT)
    wire.door.sink.write(b"hello")
    assert calls(wire) == ["admit", "open"]
    wire.door.sink.end()
    wire.run_soon()
    assert calls(wire) == ["admit", "open"] * 2
    assert wire.sent.index(LAST) < wire.sent.index(b"HTTP/1.1 200", 1)


def test_streams_follow_each_other_on_one_connection():
    wire = Wire().send(STREAM * 3)
    for _ in range(3):
        sink = wire.door.sink
        wire.door.sinks.clear()
        sink.begin(200, [], REQUEST_ID)
        sink.end(b"x")
        wire.run_soon()
    assert answers(wire.sent, [(b"GET", b"/stream")] * 3) == [(200, b"x")] * 3


def test_a_body_is_read_before_its_stream_begins():
    request = head(b"QUERY /stream HTTP/1.1", b"Content-Type: text/plain", b"Transfer-Encoding: chunked")
    wire = Wire().send(request, b"2\r\nhi\r\n", b"0\r\n\r\n" + NEXT)
    assert wire.door.calls[1:] == [("open", "/stream", b"hi")]
    wire.answer_all_held()
    assert wire.sent.count(b"HTTP/1.1 200") == 2


def test_what_is_sent_ahead_of_a_stream_is_bounded():
    wire = streaming()
    while wire.transport.reads:
        wire.send(NEXT * 100)
    assert wire.sent.count(b"HTTP/1.1 200") == 1
    assert len(wire.front.paused) == 1
    wire.door.sink.end()
    wire.run_soon()
    assert wire.transport.reads
    assert wire.sent.count(b"HTTP/1.1 200") > AHEAD_BYTES_MAX // len(NEXT)


def test_a_client_that_wants_the_connection_closed_gets_its_whole_stream_first():
    wire = streaming(request=head(b"GET /stream HTTP/1.1", b"Connection: close"))
    assert b"\r\nconnection: close\r\n" in wire.sent
    wire.door.sink.write(b"hello")
    assert not wire.transport.ended
    wire.door.sink.end()
    assert wire.sent.endswith(LAST)
    assert wire.transport.ended == "closed"


def test_a_stream_that_begins_in_a_drain_says_that_the_connection_ends():
    wire = Wire().send(STREAM)
    wire.front.draining = True
    wire.door.sink.begin(200, [])
    assert b"\r\nconnection: close\r\n" in wire.sent
    wire.door.sink.end()
    assert wire.transport.ended == "closed"


def test_a_drain_does_not_end_a_stream_that_is_open():
    wire = streaming()
    wire.front.draining = True
    assert not wire.connection.is_idle
    wire.front.pass_time(1000)
    assert not wire.end_if_idle()
    wire.door.sink.write(b"hello")
    wire.door.sink.end()
    assert wire.sent.endswith(b"5\r\nhello\r\n" + LAST)
    assert wire.front.to_close == [wire.connection], "later: its client may just be sending its next request"
    assert not wire.transport.ended


def test_an_idle_connection_is_one_whose_stream_has_ended_long_ago():
    wire = streaming()
    assert wire.connection.is_busy
    assert not wire.connection.has_been_answered_since(-1), "its answer is under way"
    wire.front.pass_time(50)
    wire.front.now = 50
    wire.door.sink.end()
    assert not wire.connection.is_busy
    assert wire.connection.has_been_answered_since(49)
    assert not wire.end_if_idle(75)
    wire.front.pass_time(80)
    assert wire.end_if_idle(75)


@pytest.mark.parametrize("begins", [True, False])
def test_an_aborted_stream_ends_the_connection_without_the_last_chunk(begins):
    wire = streaming(NEXT) if begins else Wire().send(STREAM, NEXT)
    sink = wire.door.sink
    if begins:
        sink.write(b"hello")
    sink.abort()
    assert wire.transport.ended == "aborted"
    assert LAST not in wire.sent
    wire.leave()
    assert calls(wire) == ["admit", "open"], "neither the request behind it is served, nor is its client reported"
    for call in (sink.abort, sink.end):
        call()
    assert sink.write(b"x") is True


@pytest.mark.parametrize("begins", [True, False])
def test_a_client_that_leaves_is_reported_once_and_nothing_is_written_to_it(begins):
    wire = streaming() if begins else Wire().send(STREAM)
    sink = wire.door.sink
    sent = wire.sent
    wire.leave()
    assert wire.door.calls[2:] == [("gone",)]
    if not begins:
        assert sink.begin(200, []) is True
    assert sink.write(b"x") is True
    sink.end()
    sink.abort()
    assert wire.sent == sent
    assert not wire.transport.ended


# A client that is behind.


def test_a_client_that_is_behind_is_reported_and_so_is_that_it_has_caught_up():
    wire = stuck()
    sink = wire.door.sink
    assert sink.write(b"more") is False, "it is kept all the same"
    assert "writable" not in calls(wire)
    wire.take()
    assert wire.door.calls[2:] == [("writable",)]
    assert sink.write(b"again") is True
    sink.end()
    assert wire.sent.endswith(b"5\r\n12345\r\n4\r\nmore\r\n5\r\nagain\r\n" + LAST)


def test_a_head_can_be_too_much_for_a_client():
    wire = Wire().send(STREAM)
    wire.transport.accepts_writes = False
    assert wire.door.sink.begin(200, []) is False
    wire.take()
    assert wire.door.calls[2:] == [("writable",)]


def test_the_next_request_waits_until_the_end_of_the_stream_is_taken():
    wire = stuck(NEXT)
    wire.door.sink.end()
    wire.run_soon()
    assert calls(wire) == ["admit", "open"]
    wire.take()
    assert calls(wire) == ["admit", "open"] * 2, "and the end of a stream is no occasion to report that it is writable"


def test_a_stream_is_cut_if_its_client_takes_nothing_in_time():
    wire = stuck()
    wire.front.pass_time(WRITE_TIMEOUT_S - 1)
    wire.door.sink.write(b"more")
    assert not wire.transport.ended
    wire.front.pass_time(2)
    assert wire.transport.ended == "aborted"
    wire.leave()
    assert wire.door.calls[2:] == [("gone",)]


def test_a_stream_goes_on_as_long_as_its_client_takes_a_little_in_time():
    wire = stuck()
    for _ in range(9):
        wire.front.pass_time(WRITE_TIMEOUT_S - 1)
        wire.take_some(1)
        wire.front.pass_time(2)
        assert not wire.transport.ended
    wire.front.pass_time(WRITE_TIMEOUT_S)
    assert wire.transport.ended == "aborted", "now it takes nothing"


def test_what_is_written_meanwhile_is_not_taken_for_what_the_client_took():
    wire = stuck()
    wire.door.sink.write(b"x" * 100)
    wire.take_some(1)
    wire.front.pass_time(WRITE_TIMEOUT_S)
    assert not wire.transport.ended
    wire.door.sink.write(b"x" * 100)
    wire.front.pass_time(WRITE_TIMEOUT_S)
    assert wire.transport.ended == "aborted"


def test_a_stream_without_anything_to_send_has_no_deadline():
    wire = streaming()
    wire.front.pass_time(10_000)
    assert not wire.transport.ended
    wire = stuck()
    wire.take()
    wire.front.pass_time(10_000)
    assert not wire.transport.ended


@pytest.mark.parametrize("request_", [STREAM, head(b"GET /stream HTTP/1.1", b"Connection: close")])
def test_after_the_end_the_rest_has_the_time_of_an_ordinary_answer(request_):
    wire = streaming(request=request_)
    wire.transport.accepts_writes = False
    wire.door.sink.write(b"12345")
    wire.front.pass_time(WRITE_TIMEOUT_S - 1)
    wire.door.sink.end()
    wire.front.pass_time(WRITE_TIMEOUT_S - 1)
    assert wire.transport.ended != "aborted", "the time begins with the end"
    wire.take_some(1)
    wire.front.pass_time(2)
    assert wire.transport.ended == "aborted", "and is for all of it"


def test_a_client_that_is_behind_may_leave_or_be_aborted():
    wire = stuck()
    wire.leave()
    assert wire.door.calls[2:] == [("gone",)]
    assert len(wire.front.writes_due) == 0
    wire = stuck()
    wire.door.sink.abort()
    assert wire.transport.ended == "aborted"
    wire.leave()
    assert len(wire.front.writes_due) == 0


# Who cannot be streamed to.


def test_a_head_says_whether_its_client_can_read_chunks():
    wire = Wire().send(head(b"GET /stream HTTP/1.0"))
    assert wire.sent.startswith(b"HTTP/1.1 505 ")
    assert wire.door.calls[1:] == [("refuse", "http_version")]
