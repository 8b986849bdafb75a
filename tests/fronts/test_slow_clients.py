"""Clients that stand still: the slow reader, and the one that connects and says nothing.

How late a slow reader is cut is measured on the front's own clock. A machine that stands still for a while makes it
later, so the best of a few attempts counts: a front that is late by itself is late in each.
"""

from __future__ import annotations

import pytest

from fastgw.http.slow_clients import lateness_s
from fastgw.messages import Cut
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = pytest.mark.slow

every_front = fronts()

HUGE = bytes(16 << 20)  # more than the kernel takes off the front's hands at once
WRITE_S = 0.3
ATTEMPTS = 4


def read_a_little(client) -> bool:
    """Takes a few bytes; whether the server has given up."""
    try:
        return client.sock.recv(4096) == b""
    except ConnectionResetError:
        return True


def is_served(house) -> bool:
    """A new client is; beyond the limit of connections it waits, or it is told 503."""
    with house.client() as client:
        client.send(get("/echo", "Connection: close"))
        return client.answer().status == 200


@every_front
@pytest.mark.parametrize("size", [1 << 20, len(HUGE)])
def test_a_reader_that_takes_a_little_now_and_then_is_cut_off(serve, size):
    """The time is for the whole answer, whether all of it is in the kernel already or not."""
    house = serve(write_timeout=f"{WRITE_S}s", max_connections=1)
    house.door.raw_answer = (200, [], HUGE[:size])

    def cut_after_s() -> float:
        client = house.client(receive_buffer_bytes=4096)
        client.send(get("/raw"))
        eventually(lambda: read_a_little(client), message="the connection ends")
        return last_cut_after_s(house)

    assert_in_time(cut_after_s)


def last_cut_after_s(house) -> float:
    """How long after the last answer the last client was cut, as a slow reader."""
    eventually(lambda: len(house.door.cuts) == len(house.door.answered_s), message="it is counted")
    assert house.door.cuts[-1] is Cut.SLOW_READER
    return house.door.cut_s[-1] - house.door.answered_s[-1]


def assert_in_time(cut_after_s) -> None:
    """Never before the write timeout, and not later than is promised."""
    took = []
    while not took or (min(took) > WRITE_S + lateness_s(WRITE_S) and len(took) < ATTEMPTS):
        took.append(cut_after_s())
    assert min(took) >= WRITE_S
    assert min(took) <= WRITE_S + lateness_s(WRITE_S), took


@fronts(HTTP2)
@pytest.mark.parametrize("window", [0, 10_000])
@pytest.mark.parametrize("asks_on", [False, True])
def test_a_reader_that_opens_no_window_is_cut_off(serve, window, asks_on):
    """Nothing of its answer is in the kernel. Nor does it help to ask for more meanwhile, and to answer pings."""
    house = serve(http="2", write_timeout=f"{WRITE_S}s")
    house.door.raw_answer = (200, [], HUGE[:100_000])

    def cut_after_s() -> float:
        with Http2Client(house.address, window_bytes=window) as client:
            client.acknowledges = False
            client.request("/raw")
            while not client.ended:
                if asks_on:
                    client.request("/items/7")
                client.receive(0.02)
            return last_cut_after_s(house)

    assert_in_time(cut_after_s)
    eventually(lambda: house.door.answers.held_bytes == 0, message="hyper has let go of it")


@fronts(HTTP2)
def test_a_reader_of_small_answers_that_opens_no_window_ends_as_an_idle_one(serve):
    """Of a few small answers nobody can see that they are not read."""
    house = serve(http="2", write_timeout="200ms", idle_timeout="600ms", header_timeout="200ms")
    house.door.raw_answer = (200, [], bytes(1000))
    with Http2Client(house.address, window_bytes=0) as client:
        client.request("/raw")
        client.end()
    assert house.door.cuts == [Cut.IDLE]
    assert house.door.cut_s[0] - house.door.answered_s[0] >= 0.6


@fronts(HTTP2)
def test_a_reader_that_opens_its_window_in_time_is_not_cut_off(serve):
    house = serve(http="2", write_timeout="1s")
    house.door.raw_answer = (200, [], HUGE[:100_000])
    with Http2Client(house.address, window_bytes=0) as clock, Http2Client(house.address, window_bytes=0) as client:
        clock.request("/raw")
        rounds = 0
        while not clock.ended:
            stream = client.request("/raw")
            client.open_windows([stream])
            assert client.answer(stream).body == HUGE[:100_000]
            rounds += 1
            clock.receive(0.01)
    assert rounds > 1
    assert house.door.cuts == [Cut.SLOW_READER]


@every_front
def test_a_reader_that_takes_nothing_gives_up_its_connection(serve):
    house = serve(write_timeout="300ms", max_connections=1)
    house.door.raw_answer = (200, [], HUGE)
    client = house.client(receive_buffer_bytes=4096)
    client.send(get("/raw"))
    eventually(lambda: len(house.door.opened) == 1)
    eventually(lambda: is_served(house), message="the one connection that is allowed is free again")


@every_front
def test_a_reader_that_keeps_up_may_take_longer_than_the_timeout(serve):
    """Each piece in its time: a large answer over a thin line is no attack."""
    house = serve(write_timeout="1s")
    house.door.raw_answer = (200, [], HUGE)
    clock = house.client(receive_buffer_bytes=4096)  # a stalled reader: when it is cut off, the time has passed
    clock.send(get("/raw"))
    client = house.client()
    rounds = 0
    while not _is_cut_off(clock):
        client.send(get("/raw"))
        assert client.answer().body == HUGE
        rounds += 1
    assert rounds > 0


def _is_cut_off(client) -> bool:
    """A byte more is sent: the kernel of a server that has cut us off answers it with a reset."""
    try:
        client.sock.send(b"x")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


@fronts(HTTP2)
@pytest.mark.parametrize("http", ["auto", "2"])
def test_a_client_that_does_not_say_which_version_it_speaks_is_cut_off(serve, http):
    house = serve(http=http, header_timeout="100ms", body_timeout="100ms")
    clients = [house.client(), house.client()]
    for client, said in zip(clients, [b"P", b"PRI * HTTP/2.0\r\n\r\nSM"], strict=True):
        client.send(said)
    for client in clients:
        client.rest()  # HTTP/2 alone may have said its settings before
    assert house.door.heads == []
    eventually(lambda: house.door.cuts == [Cut.SILENT, Cut.SILENT], message="they are counted")


@fronts(HTTP2)
def test_a_client_that_waits_for_its_reply_is_not_cut_off(serve):
    house = serve(http="auto", header_timeout="100ms", body_timeout="100ms")
    clock = serve(http="auto", header_timeout="100ms", body_timeout="100ms").client()
    waiting = house.client()
    waiting.send(get("/held", "Prefer: wait=3"))
    with Http2Client(house.address) as idle:  # it answers pings only while it is read from
        stream = idle.request("/held", headers=[("prefer", "wait=3")])
        records = list(house.held(2))
        clock.send(b"P")
        clock.rest()  # cut off: so long may nobody be silent without a request
        for record in records:
            house.reply(record, b"still here")
        assert waiting.answer().body == b"still here"
        assert idle.answer(stream).body == b"still here"
