"""Clients that stand still: the slow reader, and the one that connects and says nothing."""

from __future__ import annotations

import pytest

from fastgw.messages import Cut
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = pytest.mark.slow

every_front = fronts()

HUGE = bytes(16 << 20)  # more than the kernel takes off the front's hands at once


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
    house = serve(write_timeout="300ms", max_connections=1)
    house.door.raw_answer = (200, [], HUGE[:size])
    client = house.client(receive_buffer_bytes=4096)
    client.send(get("/raw"))
    eventually(lambda: read_a_little(client), message="the connection ends")
    eventually(lambda: house.door.cuts == [Cut.SLOW_READER], message="it is counted")


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
