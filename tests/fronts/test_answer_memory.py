"""Answers that clients do not read: counted, bounded for each worker and each connection, and freed when they go."""

from __future__ import annotations

import pytest

from fastgw import errors
from fastgw.http.granian import CONNECTION_UNMETERED_BYTES, HTTP1_UNMETERED_BYTES, HTTP2_UNMETERED_BYTES
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, UNIX, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

every_front = fronts()
over_http2 = fronts(HTTP2)

LARGE = 100 << 10
BEYOND_THE_KERNEL = 8 << 20  # more than it takes off the front's hands at once


def ask_for(client, size: int) -> None:
    client.send(get("/echo", f"Content-Length: {size}", method="POST") + bytes(size))


@every_front
def test_an_answer_that_does_not_fit_beside_those_that_nobody_reads_is_502(serve):
    house = serve(max_body="8MiB", answer_memory="8MiB", connection_answer_memory="8MiB")
    slow, other = house.client(receive_buffer_bytes=4096), house.client()
    ask_for(slow, BEYOND_THE_KERNEL)
    eventually(lambda: house.door.answers.held_bytes > 0)
    ask_for(other, BEYOND_THE_KERNEL)
    refused = other.answer()
    assert (refused.status, dict(refused.headers)["fastgw-outcome"]) == (502, "recorded")
    assert b"answers that clients have not read" in refused.body
    assert counted(house, errors.ANSWERS_FULL) == 1
    other.send(get("/echo"))
    assert other.answer().status == 200, "small answers always have room"
    assert slow.answer().body == bytes(BEYOND_THE_KERNEL)
    eventually(lambda: house.door.answers.held_bytes == 0, message="what is read is not counted")
    ask_for(other, BEYOND_THE_KERNEL)
    assert other.answer().body == bytes(BEYOND_THE_KERNEL)


def counted(house, ending) -> int:
    return sum(house.door.table.endings(route)[ending.number] for route in range(3))


@every_front
def test_a_client_that_leaves_frees_its_answer(serve):
    house = serve(max_body="8MiB")
    slow = house.client(receive_buffer_bytes=4096)
    ask_for(slow, BEYOND_THE_KERNEL)
    eventually(lambda: house.door.answers.held_bytes > 0)
    slow.reset()
    eventually(lambda: house.door.answers.held_bytes == 0)


SIZES = [HTTP2_UNMETERED_BYTES, HTTP2_UNMETERED_BYTES + 1, HTTP1_UNMETERED_BYTES, HTTP1_UNMETERED_BYTES + 1, 1 << 20]


@every_front
@pytest.mark.parametrize("size", SIZES)
def test_an_answer_is_whole_whatever_its_size_and_has_a_length(house, size):
    body = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    house.door.raw_answer = (200, [("content-type", "text/plain")], body)
    with house.client() as client:
        for _ in range(2):
            client.send(get("/raw"))
            answer = client.answer()
            assert answer.body == body
            assert answer.values("content-length") == [str(size)]
            client.send(get("/raw", method="HEAD"))
            assert client.answer("HEAD").values("content-length") == [str(size)]
        client.send(b"GET /raw HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\n" + body)
    eventually(lambda: house.door.answers.held_bytes == 0)


@over_http2
@pytest.mark.parametrize("size", SIZES)
def test_so_it_is_over_http2(serve, size):
    house = serve(http="2")
    body = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    house.door.raw_answer = (200, [], body)
    with Http2Client(house.address) as client:
        streams = [client.request("/raw") for _ in range(5)]
        assert all(client.answer(stream).body == body for stream in streams)
        eventually(lambda: house.door.answers.held_bytes == 0)


@over_http2
def test_a_connection_that_opens_no_window_holds_no_more_than_its_limit_and_others_are_served(serve):
    house = serve(http="2", max_body="1KiB", max_reply="512KiB", connection_answer_memory="1MiB")
    fitting = (1 << 20) // LARGE
    with Http2Client(house.address, window_bytes=0) as shut, Http2Client(house.address) as other:
        streams = [shut.request("/held") for _ in range(3 * fitting)]
        for record in list(house.held(len(streams))):
            house.reply(record, bytes(LARGE))
        assert house.door.answers.held_bytes == fitting * LARGE
        assert counted(house, errors.ANSWERS_FULL) == 2 * fitting
        stream = other.request("/held")
        house.reply(house.held(len(streams) + 1)[-1], bytes(LARGE))
        assert other.answer(stream).body == bytes(LARGE)
        shut.open_windows(streams)
        statuses = [shut.answer(stream).status for stream in streams]
        assert (statuses.count(200), statuses.count(502)) == (fitting, 2 * fitting)
        eventually(lambda: house.door.answers.held_bytes == 0)


@over_http2
@pytest.mark.parametrize("end", ["reset", "connection"])
def test_answers_that_are_not_wanted_any_more_are_not_counted(serve, end):
    house = serve(http="2")
    house.door.raw_answer = (200, [], bytes(LARGE))
    with Http2Client(house.address, window_bytes=10) as client:
        streams = [client.request("/raw") for _ in range(3)]
        eventually(lambda: house.door.answers.held_bytes == 3 * LARGE)
        if end == "connection":
            client.sock.close()
        for stream in streams if end == "reset" else ():
            client.leave_stream(stream)
        eventually(lambda: house.door.answers.held_bytes == 0)


@over_http2
def test_small_answers_are_counted_as_well_when_a_connection_has_read_none_of_many(serve):
    house = serve(http="2")
    size = 4096
    house.door.raw_answer = (200, [], bytes(size))
    number = 3 * CONNECTION_UNMETERED_BYTES // size
    with Http2Client(house.address, window_bytes=0) as client:
        streams = [client.request("/raw") for _ in range(number)]
        eventually(lambda: len(house.door.opened) == number)
        unmetered_bytes = CONNECTION_UNMETERED_BYTES + size
        eventually(lambda: house.door.answers.held_bytes == number * size - unmetered_bytes)
        client.open_windows(streams)
        assert all(client.answer(stream).body == bytes(size) for stream in streams)
        eventually(lambda: house.door.answers.held_bytes == 0)
        (known,) = house.front._clients.values()
        eventually(lambda: known.unmetered_bytes < unmetered_bytes, message="they are read, and need not be looked at")


@over_http2
def test_a_client_with_large_windows_that_does_not_read_its_socket_is_seen_as_well(serve):
    house = serve(http="2")
    house.door.raw_answer = (200, [], bytes(LARGE))
    number = 300  # the kernel takes some MiB
    with Http2Client(house.address, window_bytes=(1 << 31) - 1) as client:
        client.connection.increment_flow_control_window((1 << 31) - 1 - 65535)
        streams = [client.request("/raw") for _ in range(number)]
        eventually(lambda: len(house.door.opened) == number)
        eventually(lambda: 10 * LARGE < house.door.answers.held_bytes < number * LARGE)
        assert all(client.answer(stream).body == bytes(LARGE) for stream in streams)
        eventually(lambda: house.door.answers.held_bytes == 0)


@fronts(HTTP2, UNIX)
def test_a_reader_on_a_unix_socket_counts_until_it_reads_or_goes(serve, tmp_path):
    """granian does not tell which socket is its: it cannot be cut."""
    house = serve(bind=f"unix:{tmp_path}/shop.sock", http="2", write_timeout="100ms")
    house.door.raw_answer = (200, [], bytes(LARGE))
    with Http2Client(house.address, window_bytes=0) as client:
        streams = [client.request("/raw") for _ in range(2)]
        eventually(lambda: [one.late for one in house.front._clients.values()] == [2], message="both are late")
        assert house.door.answers.held_bytes == 2 * LARGE
        client.open_windows(streams[:1])
        assert client.answer(streams[0]).body == bytes(LARGE)
        eventually(lambda: house.door.answers.held_bytes == LARGE)
    eventually(lambda: house.door.answers.held_bytes == 0)
    assert [one.late for one in house.front._clients.values()] == [0]


@over_http2
def test_in_a_drain_an_answer_that_is_being_read_is_read_to_its_end(serve):
    house = serve(http="2")
    house.door.raw_answer = (200, [], bytes(LARGE))
    with Http2Client(house.address, window_bytes=0) as client:
        stream = client.request("/raw")
        held = client.request("/held")
        eventually(lambda: house.door.answers.held_bytes == LARGE)
        record = house.held()[0]
        house.drain()
        eventually(lambda: house.front.stopped)
        house.reply(record, bytes(LARGE))  # too late to be looked at
        client.open_windows([stream, held])
        assert client.answer(stream).body == bytes(LARGE)
        assert client.answer(held).body == bytes(LARGE)
    house.closed()
    assert house.door.answers.held_bytes == 0
