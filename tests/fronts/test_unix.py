"""Unix sockets: the same requests from a neighbour on this machine."""

from __future__ import annotations

import time

import pytest

from fastgw import errors
from tests.fronts.kinds import UNIX, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = fronts(UNIX)


@pytest.fixture
def bind(tmp_path):
    return f"unix:{tmp_path}/shop.sock"


@pytest.fixture
def house(serve, bind):
    return serve(bind=bind)


def test_requests_are_answered_on_a_kept_alive_connection(house):
    client = house.client()
    for body in (b"one", b"two"):
        client.send(get("/echo", "Content-Length: 3", method="POST") + body)
        assert client.answer().body == body


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"GET / HT"])
def test_a_silent_client_is_ended_in_time(serve, bind, kind, said):
    """There is no DEFER_ACCEPT here: it is accepted at once. granian has one time for heads and idle connections."""
    times = {"express": ("200ms", "60s"), "granian": ("200ms", "1s")}
    header, idle = times[kind.name]
    client = serve(bind=bind, header_timeout=header, idle_timeout=idle).client()
    client.send(said)
    begun_s = time.monotonic()
    client.rest()
    assert time.monotonic() - begun_s >= {"express": 0.2, "granian": 1.0}[kind.name]


@pytest.mark.slow
def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(serve, bind):
    client = serve(bind=bind, header_timeout="200ms", idle_timeout="1s").client()
    client.send(get("/echo"))
    assert client.answer().status == 200
    begun_s = time.monotonic()
    assert client.rest() == b""
    assert time.monotonic() - begun_s >= 0.75  # express looks at idle connections four times in this time


def test_a_client_that_leaves_while_it_waits_frees_its_place(house):
    client = house.client()
    client.send(get("/held"))
    house.held()
    client.sock.close()
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()


def test_a_body_that_does_not_come_is_408(serve, bind):
    house = serve(bind=bind, body_timeout="200ms")
    client = house.client()
    client.send(get("/echo", "Content-Length: 5", method="POST") + b"he")
    assert [answer.status for answer in client.answers_until_end()] == [408]
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TIMEOUT]


def test_draining_answers_what_waits_and_leaves_the_socket_to_its_owner(house):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    house.drain()
    house.reply(record, b"answered")
    assert client.answer().closes
    house.closed()
    house.client().sock.close()  # it can still be connected to: the next generation will accept
