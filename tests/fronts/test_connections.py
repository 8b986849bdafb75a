"""Connections: kept alive, pipelined, many, half-closed, and left by their clients at every moment."""

from __future__ import annotations

import os

import pytest

from fastgw import errors
from tests.fronts.kinds import HALF_CLOSE, fronts
from tests.fronts.test_answers import get, request_id
from tests.waiting import eventually

pytestmark = fronts()


def test_a_connection_carries_one_request_after_another(house):
    client = house.client()
    for number in range(100):
        body = f"body {number}".encode()
        client.send(get("/echo", f"Content-Length: {len(body)}", method="POST") + body)
        answer = client.answer()
        assert (answer.status, answer.body, answer.closes) == (200, body, False)


def test_connection_close_is_obeyed_and_announced(house):
    client = house.client()
    client.send(get("/echo", "Connection: close"))
    assert client.answer().closes
    assert client.rest() == b""


def test_http_1_0_ends_after_its_answer(house):
    client = house.client()
    client.send(b"GET /echo HTTP/1.0\r\nHost: shop.test\r\n\r\n")
    assert client.rest().startswith((b"HTTP/1.0 200 ", b"HTTP/1.1 200 "))


def test_a_refusal_leaves_the_connection_usable_where_nothing_is_in_doubt(house):
    client = house.client()
    for _ in range(3):
        client.send(get("/nowhere"))
        assert (client.answer().status, len(house.door.opened)) == (404, 0)
    client.send(get("/echo"))
    assert client.answer().status == 200


# Pipelining.


def test_pipelined_requests_are_answered_in_their_order(house):
    client = house.client()
    client.send(b"".join(get(f"/echo?{n}", "Content-Length: 2", method="POST") + b"%02d" % n for n in range(50)))
    assert [client.answer().body for _ in range(50)] == [b"%02d" % n for n in range(50)]
    assert [admission.query for admission, _ in house.door.opened] == [str(n) for n in range(50)]


def test_a_pipelined_request_waits_for_the_answer_before_it(house):
    """Whether it is handed over early or not, its answer cannot overtake."""
    client = house.client()
    client.send(get("/held") + get("/echo?second"))
    record = house.held()[0]
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200, "and nobody else waits"
    house.reply(record, b"first")
    first, second = client.answer(), client.answer()
    assert (first.body, second.status) == (b"first", 200)


def test_a_pipelined_request_behind_a_closing_one_is_not_served(house):
    client = house.client()
    client.send(get("/echo?1", "Connection: close") + get("/echo?2"))
    assert client.answer().status == 200
    assert client.rest() == b""
    assert [admission.query for admission, _ in house.door.opened] == ["1"]


def test_empty_lines_before_a_request_are_skipped(house):
    """RFC 9112, 2.2: a client may send a line end too many after a body."""
    client = house.client()
    client.send(b"\r\n" + get("/echo") + b"\r\n" + get("/echo", "Connection: close"))
    assert [answer.status for answer in client.answers_until_end()] == [200, 200]


# Clients that leave.


def test_a_client_that_leaves_while_it_waits_frees_its_place(house):
    client = house.client()
    client.send(get("/held"))
    house.held()
    client.sock.close()
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()


def test_a_client_that_is_cut_off_while_it_waits_frees_its_place(house):
    client = house.client()
    client.send(get("/held", "Content-Length: 5", method="POST") + b"hello")
    house.held()
    client.reset()
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()


def test_a_reply_after_its_client_has_left_finds_nobody(house):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    client.reset()
    eventually(lambda: house.door.gone_tokens)
    house.reply(record, b"too late")
    assert house.empty()


@pytest.mark.parametrize("sent", [0, 1, 4])
@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_leaves_before_its_body_is_complete_was_never_there(house, sent, leave):
    client = house.client()
    client.send(get("/echo", "Content-Length: 5", method="POST") + b"hello"[:sent])
    eventually(lambda: house.door.heads)
    client.sock.close() if leave == "close" else client.reset()
    eventually(house.empty, message="the place is free again")
    assert [ending for ending, _ in house.door.abandoned] == [errors.CANCELLED_EARLY]
    assert house.door.opened == []


@pytest.mark.parametrize("at", [1, 20, 38])
def test_a_client_that_leaves_before_its_head_is_complete_is_nobody(house, at):
    client = house.client()
    client.send(get("/echo")[:at])
    client.reset()
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200
    assert len(house.door.heads) == 1


def test_a_client_that_leaves_after_its_answer_is_not_reported(house):
    client = house.client()
    client.send(get("/echo"))
    client.answer()
    client.reset()
    waiting = house.client()
    waiting.send(get("/held"))
    house.held()
    waiting.reset()
    eventually(lambda: house.door.gone_tokens)
    assert len(house.door.gone_tokens) == 1, "the second one alone"


def test_a_client_that_leaves_with_an_answer_unread_harms_nobody(house):
    size = 1 << 20
    for _ in range(5):
        client = house.client(receive_buffer_bytes=4096)
        client.send(get("/echo", f"Content-Length: {size}", method="POST") + bytes(size))
        eventually(lambda: len(house.door.opened) == 1)
        client.reset()
        house.door.opened.clear()
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200


def test_a_client_that_only_ends_its_sending_is_answered_or_gone(house, kind):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    client.end_sending()
    if HALF_CLOSE in kind.abilities:
        house.reply(record, b"for you")
        assert client.answer().body == b"for you"
    assert client.rest() == b""
    eventually(house.empty, message="the place is free again")
    assert len(house.door.gone_tokens) == (HALF_CLOSE not in kind.abilities)


# Defects.


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_defect_met_by_one_request_harms_no_other(house, body):
    """It is answered at once, and nothing of it is left at the drain that ends each test (granian would abort)."""
    length = [f"Content-Length: {len(body)}"] if body else []
    waiting = house.client()
    waiting.send(get("/held"))
    record = house.held()[0]
    seen: set[str] = set()
    for _ in range(3):
        client = house.client()
        client.send(get("/defect", "Connection: close", *length, method="POST") + body)
        [answer] = client.answers_until_end()
        assert (answer.status, answer.body) == (500, b"")
        assert request_id(answer) not in seen
        seen.add(request_id(answer))
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200
    house.reply(record, b"unharmed")
    assert waiting.answer().body == b"unharmed"


# Many.


def test_many_connections_wait_side_by_side_and_each_gets_its_own_answer(house):
    count = 300
    clients = [house.client() for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(get("/held", f"Content-Length: {len(str(number))}", method="POST") + str(number).encode())
    for record in reversed(house.held(count)):
        house.reply(record, b"for " + record.value)
    for number, client in enumerate(clients):
        assert client.answer().body == b"for %d" % number


def test_the_connections_of_clients_are_counted_until_they_end(serve):
    house = serve(header_timeout="400ms")  # granian is looked at four times in it
    clients = [house.client() for _ in range(3)]
    for client in clients:
        client.send(get("/echo"))
        assert client.answer().status == 200
    eventually(lambda: house.front.open_connections == 3, message="three are open")
    for client in clients[1:]:
        client.sock.close()
    eventually(lambda: house.front.open_connections == 1, message="one is open")


@pytest.mark.alone
def test_connections_that_have_ended_leave_no_descriptor_behind(serve):
    """However they ended: served, refused, cut off in the head, in the body, or left."""
    house = serve(header_timeout="200ms", body_timeout="200ms")
    endings = [
        get("/echo", "Connection: close"),
        get("/nowhere", "Connection: close"),
        get("/echo", "Content-Length: 5", method="POST"),
        get("/echo")[:20],
        b"nonsense\r\n\r\n",
    ]
    clock = house.client()
    clock.send(get("/echo"))
    clock.answer()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        clients = [house.client() for _ in endings]
        for client, request in zip(clients, endings, strict=True):
            client.send(request)
        left = house.client()
        left.send(get("/held"))
        left.reset()
        for client in clients:
            client.rest()
            client.sock.close()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, message=f"{before} descriptors, as before")


def test_a_slow_reader_does_not_hold_up_others(house):
    size = 1 << 20
    slow = [house.client(receive_buffer_bytes=4096) for _ in range(10)]
    for client in slow:
        client.send(get("/echo", f"Content-Length: {size}", method="POST") + bytes(size))
    eventually(lambda: len(house.door.opened) == len(slow))
    for _ in range(20):
        other = house.client()
        other.send(get("/echo", "Connection: close"))
        assert other.answer().status == 200
    for client in slow:
        assert client.answer().body == bytes(size), "and gets all of it in the end"
