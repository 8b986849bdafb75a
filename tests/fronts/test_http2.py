"""HTTP/2 over cleartext with prior knowledge: the same answers, limits and ends, stream by stream."""

from __future__ import annotations

import gzip
import time

import h2.events
import orjson
import pytest
import zstandard
from h2.errors import ErrorCodes

from fastgw import errors
from fastgw.messages import Cut
from tests.fronts.hostile import GOAWAY, REFUSED_BY_HYPER_OVER_HTTP2, RESET
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, fronts
from tests.waiting import eventually

pytestmark = fronts(HTTP2)


@pytest.fixture
def house(serve):
    return serve(http="2")


@pytest.fixture
def client(house):
    with Http2Client(house.address) as client:
        yield client


def test_a_request_is_answered_with_what_the_service_said(house, client):
    answer = client.answer(client.post("/echo?a=%20", b"hello"))
    assert (answer.status, answer.body, answer.values("fastgw-outcome")) == (200, b"hello", ["recorded"])
    admission, body = house.door.opened[0]
    assert (admission.method, admission.path, admission.query, body) == ("POST", "/echo", "a=%20", b"hello")


def test_every_answer_names_its_request(house, client):
    stream = client.request("/held", headers=[("x-request-id", "forged")])
    record = house.held()[0]
    house.reply(record, b"x", (("x-request-id", b"the service's own"),))
    assert client.answer(stream).values("x-request-id") == [dict(record.headers)["correlation_id"].decode()]
    refused = client.answer(client.request("/nowhere"))
    assert refused.values("x-request-id") == [orjson.loads(refused.body)["request_id"]]


def test_a_page_may_ask_and_reads_the_outcome(serve):
    house = serve(http="2", more_routes='[cors]\norigins = ["https://app.example"]')
    page = ("origin", "https://app.example")
    with Http2Client(house.address) as client:
        preflight = client.request("/echo", "OPTIONS", [page, ("access-control-request-method", "PUT")])
        answer = client.answer(preflight)
        assert (answer.status, answer.values("access-control-allow-origin")) == (204, [page[1]])
        assert "PUT" in answer.values("access-control-allow-methods")[0]
        answer = client.answer(client.request("/nowhere", headers=[page]))
        assert (answer.status, answer.values("access-control-allow-origin")) == (404, [page[1]])
        assert "fastgw-outcome" in answer.values("access-control-expose-headers")[0]
    assert house.door.opened == []


def test_both_versions_are_spoken_where_both_are_asked_for(serve):
    house = serve(http="auto")
    with Http2Client(house.address) as http2:
        assert http2.answer(http2.request("/echo")).status == 200
    http1 = house.client()
    http1.send(b"GET /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    assert http1.answer().status == 200


def test_streams_are_answered_in_any_order(house, client):
    bodies = [b"%d" % number for number in range(100)]
    streams = [client.post("/held", body) for body in bodies]
    for record in reversed(list(house.held(100))):
        house.reply(record, record.value)
    assert [client.answer(stream).body for stream in streams] == bodies


def test_the_authority_is_the_host(serve):
    house = serve(http="2", hosts=("shop.test",))
    with Http2Client(house.address) as client:
        assert client.answer(client.request("/echo", authority="shop.test:8080")).status == 200
        assert client.answer(client.request("/echo", authority="evil.test")).status == 421
    assert house.door.heads[0].hosts == ("shop.test:8080",)


@pytest.mark.parametrize(
    ("authority", "host", "status"),
    [(None, "shop.test", 200), ("shop.test", "shop.test", 200), ("shop.test", "evil.test", 200), (None, None, 400)],
)
def test_a_request_has_a_host_however_it_is_named(house, authority, host, status):
    headers = [("host", host)] if host else []
    with Http2Client(house.address, check=False) as client:
        assert client.answer(client.request("/echo", headers=headers, authority=authority)).status == status
    assert len(house.door.opened) == (status == 200)


@pytest.mark.parametrize(
    ("given", "left"),
    [([("connection", "close"), ("x-a", "1")], [("x-a", "1")]), ([("keep-alive", "timeout=5")], [])],
)
def test_headers_of_the_connection_are_not_sent(house, client, given, left):
    """RFC 9113, 8.2.2: a client may treat such an answer as malformed, and h2 does."""
    house.door.raw_answer = (200, given, b"x")
    answer = client.answer(client.request("/raw"))
    assert answer.status == 200
    assert [header for header in answer.headers if header[0] in ("connection", "keep-alive", "x-a")] == left


def test_the_answer_to_head_has_the_headers_of_get_and_no_body(house, client):
    house.door.raw_answer = (200, [("x-a", "1")], b"twelve bytes")
    to_head, to_get = (client.answer(client.request("/raw", method)) for method in ("HEAD", "GET"))
    assert (to_head.values("content-length"), to_head.values("x-a"), to_head.body) == (["12"], ["1"], b"")
    assert (to_get.values("content-length"), to_get.body) == (["12"], b"twelve bytes")


def test_a_refusal_of_head_has_no_body(house, client):
    answer = client.answer(client.request("/nowhere", "HEAD"))
    assert (answer.status, answer.body) == (404, b"")
    assert answer.values("content-length") != []


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_without_content_end_with_their_headers(house, client, method, status):
    stream = client.request("/held", method)
    house.reply(house.held()[0], b"x", (("status", b"%d" % status), ("content-type", b"a/b")))
    answer = client.answer(stream)
    assert (answer.status, answer.body, answer.values("content-type")) == (status, b"", [])
    assert answer.values("content-length") == [], "forbidden for 204 (RFC 9110, 8.6), and of no use for the others"


def test_bytes_beyond_ascii_pass_in_both_directions(house, client):
    stream = client.request("/echo", headers=[(b"x-asked", b"b\xe4\xff"), (b"cookie", b"a=\xfc"), (b"cookie", b"b=1")])
    answer = client.answer(stream)
    assert (answer.status, answer.body) == (200, b"")
    assert dict(house.door.records[0].headers)["http_header_x-asked"] == b"b\xe4\xff"
    assert house.door.heads[0].get("cookie") == "a=\xfc; b=1"
    stream = client.request("/held")
    house.door.held.clear()
    eventually(lambda: house.door.held)
    house.reply(house.held()[0], b"", (("etag", b'"\xe4\xff"'),))
    assert client.answer(stream).values("etag") == ['"\xe4\xff"']


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_answer_comes_compressed_where_its_client_asks(serve, encoding):
    house = serve(http="2", more_routes='[compression]\nencodings = ["zstd", "gzip"]\ntypes = ["text/plain"]\n')
    text = b"a line of text\n" * 500
    with Http2Client(house.address) as client:
        stream = client.request("/held", headers=[("accept-encoding", encoding)])
        house.reply(house.held()[0], text, (("content-type", b"text/plain"),))
        answer = client.answer(stream)
    assert (answer.values("content-encoding"), answer.values("vary")) == ([encoding], ["accept-encoding"])
    assert answer.values("content-length") == [str(len(answer.body))]
    assert decoded(encoding, answer.body) == text


def decoded(encoding: str, body: bytes) -> bytes:
    return gzip.decompress(body) if encoding == "gzip" else zstandard.ZstdDecompressor().decompress(body)


# Limits.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_body_without_a_length_is_the_requests_whatever_its_method(house, client, method):
    answer = client.answer(client.request("/echo", method, body=b"hello"))
    assert (answer.status, answer.body) == (200, b"hello")
    assert client.answer(client.request("/echo", method)).status == 200
    assert [body for _, body in house.door.opened] == [b"hello", b""]


def test_a_query_has_a_body(house, client):
    content_type = [("content-type", "application/sql")]
    assert client.answer(client.request("/echo", "QUERY", content_type, body=b"select 1")).body == b"select 1"
    assert client.answer(client.request("/echo", "QUERY", body=b"select 1")).status == 400
    assert [body for _, body in house.door.opened] == [b"select 1"]


def test_a_body_without_a_length_beyond_the_limit_is_413_and_not_read_on(house, client):
    stream = client.request("/small", "POST", body=bytes(17), complete=False)
    assert client.answer(stream).status == 413
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TOO_LARGE]
    assert client.answer(client.request("/echo")).status == 200, "the connection serves other streams"


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.CANCEL])
@pytest.mark.parametrize("body", [b"", b"hell"])
def test_a_body_without_a_length_that_is_broken_off_is_not_recorded(house, client, code, body):
    """hyper ends such a body as if it were complete: a request that was cut short must not be taken for a whole one."""
    stream = client.request("/echo", "POST", body=body, complete=False)
    eventually(lambda: len(house.door.heads) == 1)
    client.leave_stream(stream, code)
    eventually(lambda: [ending for ending, _ in house.door.abandoned] == [errors.CANCELLED_EARLY])
    assert house.door.opened == []


def test_two_lengths_that_differ_are_refused(house):
    with Http2Client(house.address, check=False) as client:
        lengths = [("content-length", "5"), ("content-length", "4")]
        stream = client.request("/echo", "POST", lengths, b"hello")
        assert client.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR
    assert house.door.opened == []


def begin_body(client, declared, sent):
    """A request whose body has come in part; returns its stream."""
    stream = client.request("/echo", "POST", [("content-length", str(declared))], b"", complete=False)
    while sent:
        piece = min(sent, client.connection.max_outbound_frame_size)
        client.connection.send_data(stream, bytes(piece))
        sent -= piece
    client.flush()
    return stream


def test_the_bodies_of_one_connection_are_bounded_and_another_is_served(serve):
    house = serve(http="2", max_body="32KiB", connection_body_memory="64KiB", body_memory="96KiB")
    with Http2Client(house.address) as one, Http2Client(house.address) as other, Http2Client(house.address) as third:
        for client in (one, other, third):
            client.answer(client.request("/echo"))  # behind the settings that open the windows
        begun = [(one, begin_body(one, 32768, 32767)) for _ in range(2)]
        eventually(lambda: house.door.bodies.held_bytes == 2 * 32767)
        refused = one.answer(begin_body(one, 32768, 16384))
        assert (refused.status, dict(refused.headers)["retry-after"]) == (503, "1")
        assert b"one connection" in refused.body
        begun.append((other, begin_body(other, 32768, 32767)))
        eventually(lambda: house.door.bodies.held_bytes == 3 * 32767)
        assert b"this worker" in third.answer(begin_body(third, 32768, 16384)).body
        assert third.answer(third.request("/echo")).status == 200, "a request without a body needs no room"
        for client, stream in begun:
            client.connection.send_data(stream, b"x", end_stream=True)
            client.flush()
            assert len(client.answer(stream).body) == 32768
    assert house.door.bodies.held_bytes == 0
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODIES_FULL] * 2


def test_bodies_without_a_length_are_bounded_as_well_for_the_connection_and_for_the_worker(serve):
    house = serve(http="2", max_body="64KiB", connection_body_memory="64KiB", body_memory="96KiB")
    with Http2Client(house.address) as one, Http2Client(house.address) as other:
        for client in (one, other):
            client.answer(client.request("/echo"))  # behind the settings that open the windows
        begun = [(one, one.request("/echo", "POST", body=bytes(16384), complete=False)) for _ in range(4)]
        eventually(lambda: house.door.bodies.held_bytes == 64 << 10)
        refused = one.answer(one.request("/echo", "POST", body=b"x", complete=False))
        assert refused.status == 503
        assert b"one connection" in refused.body
        begun += [(other, other.request("/echo", "POST", body=bytes(16384), complete=False)) for _ in range(2)]
        eventually(lambda: house.door.bodies.held_bytes == 96 << 10)
        assert b"this worker" in other.answer(other.request("/echo", "POST", body=b"x", complete=False)).body
        for client, stream in begun:
            client.connection.end_stream(stream)
            client.flush()
            assert client.answer(stream).body == bytes(16384)
    assert house.door.bodies.held_bytes == 0
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODIES_FULL] * 2


def test_heads_that_declare_bodies_and_send_none_keep_nobody_out(serve):
    house = serve(http="2", max_body="32KiB", connection_body_memory="64KiB", body_memory="64KiB")
    with Http2Client(house.address) as hostile, Http2Client(house.address) as client:
        for _ in range(50):
            begin_body(hostile, 32768, 0)
        eventually(lambda: len(house.door.heads) == 50)
        assert client.answer(client.post("/echo", bytes(16384))).status == 200


def test_a_body_beyond_the_limit_is_413_before_it_is_sent(house, client):
    stream = client.request("/small", "POST", [("content-length", "17")], b"he", complete=False)
    assert client.answer(stream).status == 413
    assert client.answer(client.request("/echo")).status == 200, "the connection serves other streams"


def test_a_body_that_does_not_come_is_408_and_costs_its_stream_alone(serve):
    house = serve(http="2", body_timeout="200ms")
    with Http2Client(house.address) as client:
        slow = client.request("/echo", "POST", [("content-length", "5")], b"he", complete=False)
        held = client.request("/held")
        assert client.answer(slow).status == 408
        house.reply(house.held()[0], b"unharmed")
        assert client.answer(held).body == b"unharmed"
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TIMEOUT]


def thousands(count):
    """So many header fields of a thousand bytes; each counts for 32 more (RFC 9113, 6.5.2)."""
    return [(f"x-{number}", "a" * 1000) for number in range(count)]


def test_headers_just_below_the_limit_of_64_kib_are_served(house, client):
    assert client.answer(client.request("/echo", headers=thousands(60))).status == 200


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("connection", "close")], None),
        ([("transfer-encoding", "chunked")], None),
        ([("te", "gzip")], None),
        ([("content-length", "5")], b"hell"),
        ([("content-length", "3")], b"hello"),
        ([("content-length", "-1")], b"hello"),
        ([("content-length", "3"), ("content-length", "5")], b"hello"),
    ],
)
def test_a_malformed_request_resets_its_stream(house, headers, body):
    with Http2Client(house.address, check=False) as client:
        stream = client.request("/echo", "POST", headers, body)
        try:
            assert client.answer(stream).status == 400
        except AssertionError:
            assert client.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR
        assert client.answer(client.request("/echo")).status == 200, "and leaves the connection alone"
    assert [admission.method for admission, _ in house.door.opened] == ["GET"]
    assert house.empty()


@pytest.mark.parametrize("row", REFUSED_BY_HYPER_OVER_HTTP2, ids=[row.name for row in REFUSED_BY_HYPER_OVER_HTTP2])
def test_what_hyper_refuses_is_refused_without_an_id_and_nothing_else_is(house, row):
    with Http2Client(house.address, check=False) as client:
        stream = client.request(row.path, row.method, row.headers)
        if row.answer == GOAWAY:
            assert client.goodbye().error_code in (ErrorCodes.PROTOCOL_ERROR, ErrorCodes.ENHANCE_YOUR_CALM)
            client.end()
        elif row.answer == RESET:
            assert client.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR
        else:
            answer = client.answer(stream)
            assert (answer.status, answer.values("x-request-id"), answer.body) == (row.answer, [], b"")
        assert (house.door.heads, house.door.refused) == ([], [])
        if row.answer != GOAWAY:
            assert client.answer(client.request("/echo")).status == 200, "it leaves the connection alone"


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/echo", "TRACE", [], 405),
        ("/echo", "get", [], 405),
        ("/echo", "GET", [("host", "a b")], 400),
        ("/echo", "GET", [("host", "a"), ("host", "b")], 400),
        ("/echo?" + "a" * 9000, "GET", [], 414),
    ],
    ids=["TRACE", "a method in lower case", "a host with a blank", "two hosts", "a long target"],
)
def test_what_hyper_lets_through_is_refused_with_an_id(house, path, method, headers, status):
    with Http2Client(house.address, check=False) as client:
        answer = client.answer(client.request(path, method, headers))
    assert (answer.status, len(answer.values("x-request-id"))) == (status, 1)
    assert len(house.door.refused) == 1


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get"])
def test_methods_that_no_route_takes_are_refused(house, method):
    with Http2Client(house.address, check=False) as client:
        stream = client.request("/echo", method)
        try:
            assert client.answer(stream).status == 405
        except AssertionError:
            assert client.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR
    assert house.door.opened == []


def test_a_preface_that_is_none_ends_the_connection(serve):
    house = serve(http="2")
    client = house.client()
    client.send(b"GET /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    client.rest()
    assert house.door.heads == []


def test_resetting_streams_rapidly_ends_the_connection(house):
    """CVE-2023-44487: each reset request would cost us more than its client."""
    with Http2Client(house.address) as client:
        for _ in range(2000):
            client.leave_stream(client.request("/held"))
        assert client.goodbye().error_code == ErrorCodes.ENHANCE_YOUR_CALM
    eventually(house.empty, message="every abandoned request is free again")


# Clients that leave.


def test_a_reset_stream_is_a_client_that_has_left(house, client):
    leaving, staying = client.post("/held", b"leaving"), client.post("/held", b"staying")
    records = list(house.held(2))
    client.leave_stream(leaving)
    eventually(lambda: len(house.door.gone_tokens) == 1)
    for record in records:
        house.reply(record, record.value)
    assert client.answer(staying).body == b"staying"
    eventually(house.empty)


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.CANCEL, ErrorCodes.INTERNAL_ERROR])
@pytest.mark.parametrize("sent", [b"", b"hell"])
def test_a_stream_that_is_reset_before_its_body_is_complete_was_never_there(house, client, sent, code):
    stream = client.request("/echo", "POST", [("content-length", "5")], sent, complete=False)
    eventually(lambda: house.door.heads)
    client.leave_stream(stream, code)
    eventually(house.empty)
    assert [ending for ending, _ in house.door.abandoned] == [errors.CANCELLED_EARLY]
    assert house.door.opened == [], "a part of a body is no body"


def test_a_connection_that_ends_leaves_none_of_its_requests_behind(house, client):
    for _ in range(20):
        client.request("/held")
    client.request("/echo", "POST", [("content-length", "5")], b"he", complete=False)
    house.held(20)
    eventually(lambda: len(house.door.heads) == 21)
    client.sock.close()
    eventually(house.empty)
    assert len(house.door.gone_tokens) == 20


# Draining.


def test_draining_says_goodbye_and_answers_what_waits(house, client):
    stream = client.request("/held")
    record = house.held()[0]
    house.drain()
    client.goodbye()
    house.reply(record, b"answered")
    assert client.answer(stream).body == b"answered"
    client.end()
    house.closed()


def test_an_idle_connection_is_ended_in_its_time_however_many_pings_it_answers(serve):
    house = serve(http="2", idle_timeout="300ms", header_timeout="300ms")
    with Http2Client(house.address) as client:
        assert client.answer(client.request("/echo")).status == 200
        client.end()
    eventually(lambda: house.door.cuts == [Cut.IDLE])


def test_a_connection_that_never_asks_is_ended_in_its_time_however_many_pings_it_answers(serve):
    house = serve(http="2", idle_timeout="300ms", header_timeout="300ms")
    with Http2Client(house.address) as client:
        client.end()
        assert any(isinstance(event, h2.events.PingReceived) for event in client.events)
    eventually(lambda: house.door.cuts == [Cut.SILENT])


def test_a_connection_that_never_asks_is_ended_whatever_frames_it_sends(serve):
    house = serve(http="2", idle_timeout="300ms", header_timeout="300ms")
    ends_s = time.monotonic() + 10
    with Http2Client(house.address) as client:
        while not client.ended:
            assert time.monotonic() < ends_s
            client.connection.ping(b"12345678")
            client.flush()
            client.receive(0.05)
    eventually(lambda: house.door.cuts == [Cut.SILENT])


def test_a_connection_that_asks_in_its_time_is_kept(serve):
    house = serve(http="2", idle_timeout="20s", header_timeout="300ms")
    with Http2Client(house.address) as client:
        assert client.answer(client.request("/echo")).status == 200
        ends_s = time.monotonic() + 3  # twice the time of one that never asks
        while time.monotonic() < ends_s:
            client.receive(0.05)
        assert client.answer(client.request("/echo")).status == 200
    assert house.door.cuts == []


def test_draining_ends_an_idle_connection(house, client):
    assert client.answer(client.request("/echo")).status == 200
    house.drain()
    client.end()
    house.closed()
