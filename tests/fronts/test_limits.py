"""Every limit of the configuration: what is inside it is served, what is beyond it gets its own status and no place."""

from __future__ import annotations

import pytest

from fastgw import errors
from tests.fronts.kinds import HTTP2, REFUSES, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = fronts()


def post(path: str, length: int) -> bytes:
    return get(path, f"Content-Length: {length}", method="POST")


def test_a_body_beyond_the_limit_is_413_before_a_byte_of_it_is_sent(serve):
    house = serve(max_body="1KiB")
    client = house.client()
    client.send(post("/echo", 1025))
    assert [answer.status for answer in client.answers_until_end()] == [413]
    assert house.door.refused[0].ending is errors.BODY_TOO_LARGE
    assert house.door.opened == []


def test_a_body_at_the_limit_is_served(serve):
    client = serve(max_body="1KiB").client()
    client.send(post("/echo", 1024) + bytes(1024))
    assert client.answer().status == 200


def test_a_reply_with_headers_beyond_the_limit_is_502(serve):
    house = serve(max_reply_headers="1KiB")
    client = house.client()
    for size, status in ((900, 200), (1100, 502)):
        client.send(get("/held"))
        house.reply(house.held()[0], b"x", (("content-type", b"a/" + b"b" * size),))
        assert client.answer().status == status
        house.door.held.clear()


def test_a_huge_body_is_refused_while_it_is_being_sent(house):
    """The client is still writing: the answer must reach it all the same, and the rest is not read forever."""
    client = house.client()
    client.send(post("/echo", 1 << 34))
    for _ in range(64):
        client.send_while_open(bytes(65536))
    assert client.answer().status == 413
    client.rest()


def test_the_limit_of_a_route_wins(house):
    client = house.client()
    client.send(post("/small", 17))
    assert [answer.status for answer in client.answers_until_end()] == [413]


def test_a_target_beyond_the_limit_is_414(serve):
    house = serve(max_target="100B")
    client = house.client()
    client.send(get("/echo?" + "a" * 100))
    assert client.answer().status == 414
    assert house.door.opened == []
    fitting = house.client()
    fitting.send(get("/echo?" + "a" * 90))
    assert fitting.answer().status == 200


def refused_head(client, kind, on_granian: int, on_express: int) -> None:
    """Its one answer is the last on its connection; hyper's, which refuses by itself, has no id."""
    [answer] = client.answers_until_end()
    assert (answer.status, answer.closes) == ({"granian": on_granian, "express": on_express}[kind.name], True)
    assert len(answer.values("x-request-id")) == {"granian": 0, "express": 1}[kind.name]


def test_a_huge_target_is_refused(house, kind):
    """hyper looks at the size of the whole head alone."""
    client = house.client()
    client.send_while_open(get("/echo?" + "a" * 1_000_000))
    refused_head(client, kind, 431, 414)
    assert house.door.opened == []


def test_headers_inside_the_limit_are_served(serve):
    client = serve(max_header="32KiB").client()
    client.send(get("/echo", "X-A: " + "a" * 16_000))
    assert client.answer().status == 200


@pytest.mark.parametrize("lines", [["X-A: " + "a" * 100_000], [f"X-{n}: " + "a" * 1000 for n in range(90)]])
def test_headers_beyond_the_limit_are_431(serve, kind, lines):
    house = serve(max_header="32KiB")
    client = house.client()
    client.send_while_open(get("/echo", *lines))
    refused_head(client, kind, 431, 431)
    assert house.door.opened == []


def test_too_many_headers_are_431(house, kind):
    client = house.client()
    client.send_while_open(get("/echo", *(f"X-{n}: 1" for n in range(1000))))
    refused_head(client, kind, 431, 431)


def test_headers_without_end_are_cut_off(serve, kind):
    house = serve(max_header="32KiB")
    client = house.client()
    client.send(b"GET /echo HTTP/1.1\r\nHost: shop.test\r\n")
    for number in range(300):
        client.send_while_open(f"X-{number}: {'a' * 1000}\r\n".encode())
    refused_head(client, kind, 431, 431)
    assert house.door.heads == []


# Time.


@pytest.mark.parametrize("sent", [b"G", b"GET /echo HTTP/1.1\r\nHost: shop.test\r\nX-A: "])
def test_headers_that_do_not_come_end_the_connection(serve, kind, sent):
    house = serve(header_timeout="200ms")
    client = house.client()
    client.send(sent)
    statuses = [answer.status for answer in client.answers_until_end()]
    assert statuses == {"express": [408], "granian": []}[kind.name], "hyper cannot be asked to say it"
    assert house.door.heads == []


def test_headers_that_trickle_end_the_connection(serve):
    """The time is for all of them, not for the next byte."""
    house = serve(header_timeout="300ms")
    client = house.client(timeout_s=0.05)
    client.send(b"GET /echo HTTP/1.1\r\nHost: shop.test\r\nX-A: ")
    eventually(lambda: _is_cut_off(client), timeout_s=5)
    assert house.door.heads == []


def _is_cut_off(client) -> bool:
    """Sends one more byte and looks whether the server still listens."""
    client.send_while_open(b"a")
    try:
        client.rest()
    except TimeoutError:
        return False
    return True


def test_a_kept_alive_connection_that_is_idle_is_ended(serve):
    client = serve(header_timeout="200ms", idle_timeout="200ms").client()
    client.send(get("/echo"))
    assert client.answer().status == 200
    assert client.rest() == b""


def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(serve, kind):
    """Both times are kept, whichever is the longer: connection pools of proxies count on the one."""
    house = serve(header_timeout="200ms", idle_timeout="1m")
    kept, late = house.client(), house.client()
    for client in (kept, late):
        client.send(get("/echo"))
        assert client.answer().status == 200
    late.send(get("/echo", "X-A: 1")[:-5])
    late.sock.settimeout(0.01)
    last_word = eventually(lambda: _last_word(late), message="a head that trickles has had its time")
    assert last_word == {"express": "H", "granian": "none"}[kind.name], "HTTP/1.1 408; hyper cannot be asked to say it"
    kept.send(get("/echo"))
    assert kept.answer().status == 200


def _last_word(client) -> str:
    """Sends one byte more of a header; the first character that the server says, "none" if it only ends; else ""."""
    client.send_while_open(b"1")
    try:
        return client.sock.recv(1).decode() or "none"
    except TimeoutError:
        return ""
    except ConnectionResetError:
        return "none"


@pytest.mark.parametrize("http", ["1", "auto"])
def test_an_idle_connection_is_ended_in_its_own_time(serve, http, kind):
    if http == "auto" and HTTP2 not in kind.abilities:
        http = "1"
    client = serve(header_timeout="1m", idle_timeout="200ms", http=http).client()
    client.send(get("/echo"))
    assert client.answer().status == 200
    assert client.rest() == b""


def test_a_request_that_waits_for_its_reply_is_not_idle(serve):
    house = serve(header_timeout="100ms", body_timeout="100ms", write_timeout="100ms")
    client = house.client()
    client.send(get("/held", "Content-Length: 2", method="POST") + b"hi")
    record = house.held()[0]
    idle = house.client()
    idle.send(b"G")
    idle.rest()  # ended: so much time has passed, and more
    slow = house.client()
    slow.send(post("/echo", 5))
    slow.rest()
    house.reply(record, b"still here")
    assert client.answer().body == b"still here"


@pytest.mark.parametrize("sent", [b"", b"hell"])
def test_a_body_that_does_not_come_is_408(serve, sent):
    house = serve(body_timeout="200ms")
    client = house.client()
    client.send(post("/echo", 5) + sent)
    answers = client.answers_until_end()
    assert [(answer.status, answer.closes) for answer in answers] == [(408, True)]
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TIMEOUT]
    assert house.empty()
    assert house.door.opened == []


def test_a_body_that_trickles_is_408(serve):
    """Each byte comes in time, all of them do not: the time is for the whole body."""
    house = serve(body_timeout="300ms")
    client = house.client(timeout_s=0.05)
    client.send(post("/echo", 100_000))
    eventually(lambda: _is_cut_off(client), timeout_s=5)
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TIMEOUT]


# Numbers.


def test_a_connection_beyond_the_limit_waits_or_is_refused_until_another_ends(serve, kind):
    house = serve(max_connections=2)
    first, second = house.client(), house.client()
    for client in (first, second):
        client.send(get("/echo"))
        assert client.answer().status == 200
    third = house.client(timeout_s=0.3)
    third.send(get("/echo?third"))
    if REFUSES in kind.abilities:
        answer = third.answer()
        assert (answer.status, answer.closes, answer.values("retry-after")) == (503, True, ["1"])
        third.rest()
        third.sock.close()
        first.sock.close()
        eventually(lambda: _is_served(house), message="there is room again")
        return
    with pytest.raises(TimeoutError):
        third.answer()
    assert len(house.door.opened) == 2
    first.sock.close()
    third.sock.settimeout(10)
    assert third.answer().status == 200


def _is_served(house) -> bool:
    with house.client() as client:
        client.send(get("/echo", "Connection: close"))
        return client.answer().status == 200
