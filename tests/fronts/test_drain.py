"""Draining: what waits is answered, what is idle ends, nothing new begins."""

from __future__ import annotations

import pytest

from fastgw import errors
from tests.fronts.kinds import fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = fronts()


def test_a_request_that_waits_is_answered_and_told_that_the_connection_ends(house):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    house.drain()
    house.reply(record, b"answered")
    answer = client.answer()
    assert (answer.status, answer.body, answer.closes) == (200, b"answered", True)
    assert client.rest() == b""
    house.closed()


def test_a_body_that_is_on_its_way_may_still_come(house):
    client = house.client()
    client.send(get("/echo", "Content-Length: 5", method="POST") + b"he")
    eventually(lambda: house.door.heads)
    house.drain()
    client.send(b"llo")
    answer = client.answer()
    assert (answer.status, answer.body, answer.closes) == (200, b"hello", True)
    house.closed()


def test_idle_connections_are_ended(house):
    clients = [house.client() for _ in range(10)]
    for client in clients:
        client.send(get("/echo"))
        assert not client.answer().closes
    house.drain()
    for client in clients:
        assert client.rest() == b""
    house.closed()


def test_a_head_that_is_on_its_way_is_still_served(house):
    """Its connection is not idle: no front ends it before the answer."""
    client = house.client()
    client.send(get("/echo")[:-5])
    _see_that_connections_are_accepted(house)
    house.drain()
    client.send_while_open(get("/echo")[-5:])
    assert [(answer.status, answer.closes) for answer in client.answers_until_end()] == [(200, True)]
    assert [admission.query for admission, _ in house.door.opened] == ["other", ""]
    house.closed()


def test_a_head_that_does_not_come_holds_a_drain_no_longer_than_its_time(serve):
    house = serve(header_timeout="200ms")
    client = house.client()
    client.send(b"GET /ec")
    _see_that_connections_are_accepted(house)
    house.drain()
    client.rest()
    house.closed()
    assert all(admission.query == "other" for admission, _ in house.door.opened)


def _see_that_connections_are_accepted(house):
    """One that came later has been served, and connections are accepted in order."""
    other = house.client()
    other.send(get("/echo?other", "Connection: close"))
    assert other.answer().status == 200


def test_new_connections_are_not_served(house):
    house.drain()
    house.closed()
    late = house.client(timeout_s=0.3)  # the listening socket is the supervisor's and stays open: this one waits
    late.send(get("/echo"))
    with pytest.raises(TimeoutError):
        late.answer()
    assert house.door.heads == []


def test_a_pipelined_request_behind_one_that_waits_is_not_served(house):
    client = house.client()
    client.send(get("/held") + get("/echo?second"))
    record = house.held()[0]
    house.drain()
    house.reply(record, b"first")
    assert client.answer().body == b"first"
    assert client.rest() == b""
    assert [admission.query for admission, _ in house.door.opened] == [""]
    house.closed()


def test_a_refusal_while_draining_ends_its_connection(house):
    """When the whole service goes, the core refuses what a kept-alive connection still asks."""
    client = house.client()
    client.send(get("/held", "Content-Length: 2", method="POST") + b"h")
    eventually(lambda: house.door.heads)
    house.call(house.door.exchange.close_gate, errors.DRAINING, "over")
    waiting = house.client()
    waiting.send(get("/echo"))
    answer = waiting.answer()
    assert (answer.status, answer.closes) == (503, True)
    assert answer.values("retry-after") == ["1"]
    assert waiting.rest() == b""


def test_in_a_reload_an_idle_connection_gets_one_last_answer(house):
    client = house.client()
    client.send(get("/echo"))
    assert not client.answer().closes
    house.call(house.front.drain, 2.0)
    client.send(get("/echo?last"))
    answer = client.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert client.rest() == b""
    house.closed()


def test_a_kept_alive_client_of_http_1_0_is_told_one_thing_and_that_comes_true(house):
    client = house.client()
    client.versions = ("HTTP/1.1", "HTTP/1.0")
    client.send(b"GET /held HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n")
    record = house.held()[0]
    house.drain()
    house.reply(record, b"answered")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"answered")
    assert len(answer.values("connection")) <= 1, "hyper said both, `close` and `keep-alive`"
    assert client.rest() == b""
    house.closed()


def test_in_a_reload_a_kept_alive_client_of_http_1_0_is_not_told_both(house, kind):
    client = house.client()
    client.versions = ("HTTP/1.1", "HTTP/1.0")
    request = b"GET /echo HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n"
    client.send(request)
    assert client.answer().values("connection") == ["keep-alive"]
    house.call(house.front.drain, 0.5)
    client.send(request)
    if kind.name == "granian":  # hyper cannot be told to end a connection of HTTP/1.0: it serves until its end
        assert client.answer().values("connection") == ["keep-alive"]
        client.send(request)
        answer = client.answer()
        assert (answer.status, answer.values("connection")) == (200, ["keep-alive"])
    else:
        assert client.answer().values("connection") == ["close"]
    assert client.rest() == b""
    house.closed()


def test_draining_twice_is_draining_once(house):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    for _ in range(4):
        house.drain()
    house.reply(record, b"answered")
    assert client.answer().body == b"answered"
    house.closed()
    house.drain()


def test_every_answer_after_the_word_says_that_the_connection_ends(house):
    """The word may still be on its way to the thread that has the connection."""
    clients = [house.client() for _ in range(20)]
    for client in clients:
        client.send(get("/held"))
    records = list(house.held(20))

    def drain_and_reply():
        house.front.drain()
        for record in records:
            house.door.reply(record)

    house.call(drain_and_reply)
    assert all(client.answer().closes for client in clients)


def test_it_ends_when_the_last_request_is_answered_and_not_before(house):
    clients = [house.client() for _ in range(20)]
    for client in clients:
        client.send(get("/held"))
    records = list(house.held(20))
    house.drain()
    closing = house.closing()
    for record in records[:-1]:
        house.reply(record)
    for client in clients:
        if client is not clients[-1]:
            client.sock.settimeout(10)
    answered = [client for client in clients if _answered(client)]
    assert len(answered) == 19
    assert not closing.done()
    house.reply(records[-1])
    closing.result(10)


def _answered(client) -> bool:
    client.sock.settimeout(0.2)
    try:
        return client.answer().status == 200
    except TimeoutError:
        return False


def test_a_front_without_connections_ends_at_once(house):
    house.drain()
    house.closed()


def test_a_client_that_leaves_while_draining_is_reported(house):
    client = house.client()
    client.send(get("/held"))
    house.held()
    house.drain()
    client.reset()
    eventually(lambda: house.door.gone_tokens)
    house.closed()


def test_however_soon_a_client_leaves_in_a_drain_it_is_reported(serve):
    """granian ends with its last connection: what it is asked at that moment is lost, or aborts the process."""
    for _ in range(50):
        house = serve()
        client = house.client()
        client.send(get("/held"))
        house.held()
        house.drain()
        client.sock.close()
        eventually(lambda house=house: len(house.door.gone_tokens) == 1)
        house.closed()
