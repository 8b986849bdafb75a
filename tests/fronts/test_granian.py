"""What only the granian front does, on real sockets."""

from __future__ import annotations

import gc
import socket
import time

import pytest

from fastgw import errors
from fastgw.http import granian
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import FRONTS
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = pytest.mark.parametrize("kind", [kind for kind in FRONTS if kind.name == "granian"], ids=["granian"])


def waiting() -> list[granian._Request]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is granian._Request]


@pytest.mark.parametrize("end", ["is answered", "is left by its client"])
def test_a_request_that_has_waited_for_long_leaves_nothing_behind(house, end):
    """It is watched by then: granian holds it, and it what granian watches with."""
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    eventually(lambda: waiting()[0]._gone is not None, message="its client is watched")
    if end == "is answered":
        house.reply(record, b"late")
        assert client.answer().status == 200
    else:
        client.sock.close()
        eventually(lambda: len(house.door.gone_tokens) == 1)
    eventually(lambda: not waiting(), message="nothing is left of it")


class WithoutFuture:
    """granian's side of a request, once it has told of the client's leaving in a future that was cancelled."""

    def __init__(self, proto) -> None:
        self.send = proto.send

    def receive(self) -> object:
        return object()


@pytest.mark.parametrize("draining", [False, True])
def test_a_client_of_which_granian_has_told_already_is_gone(house, monkeypatch, draining):
    begin = granian.GranianFront._begin
    without_future = lambda self, scope, proto: begin(self, scope, WithoutFuture(proto))  # noqa: E731
    monkeypatch.setattr(granian.GranianFront, "_begin", without_future)
    client = house.client()
    if draining:
        house.call(house.front.drain, 1.0)
    client.send(get("/held"))
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()
    assert house.call(lambda: [one.open for one in house.front._clients.values()]) == [0]


def test_a_reset_that_came_in_time_counts_however_busy_the_loop_was(serve, monkeypatch):
    monkeypatch.setattr(granian, "RESET_CHECK_S", 0.2)
    house = serve(http="2")
    with Http2Client(house.address) as client:
        stream = client.request("/echo", "POST", body=b"hello")
        eventually(lambda: [body for body in house.front.reading.values() if body._got_bytes and body._future])
        time.sleep(0.05)  # what it asks for now is whether it was reset
        house._loop_thread.loop.call_soon_threadsafe(time.sleep, 0.4)
        client.leave_stream(stream)
        eventually(lambda: house.door.abandoned or house.door.opened)
    assert [ending for ending, _ in house.door.abandoned] == [errors.CANCELLED_EARLY]
    assert house.door.opened == []


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return get("/echo", "Transfer-Encoding: chunked", method="POST") + body + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 64])
def test_a_body_may_have_few_small_parts_or_many_larger_ones(house, size):
    """A part costs as much as a small request, however small it is."""
    chunks = [b"a" * size] * (1000 if size == 1 else 4000)
    client = house.client()
    client.send(chunked(*chunks))
    assert client.answer().body == b"".join(chunks)


def test_a_body_of_many_small_parts_is_refused(house):
    client = house.client()
    client.send(chunked(*[b"a"] * 2000))
    assert client.answer().status == 400
    assert [ending for ending, _ in house.door.abandoned] == [errors.MALFORMED]
    assert house.door.bodies.held_bytes == 0


def test_a_connection_is_remembered_until_it_ends(serve):
    house = serve(header_timeout="400ms")
    clients = [house.client() for _ in range(5)]
    for client in clients:
        client.send(get("/echo"))
        client.answer()
    assert len(house.front._clients) == 5
    for client in clients[1:]:
        client.sock.close()
    eventually(lambda: len(house.front._clients) == 1)
    time.sleep(0.5)  # some rounds
    assert [key[1] for key in house.front._clients] == [str(clients[0].sock.getsockname()[1])]


def test_clients_of_a_unix_socket_that_have_names_are_one_as_well(serve, tmp_path):
    house = serve(bind=f"unix:{tmp_path}/shop.sock")
    for number in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(f"{tmp_path}/{number}")
            client.connect(f"{tmp_path}/shop.sock")
            client.send(get("/echo"))
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert len(house.front._clients) == 1


def test_a_page_reads_what_the_front_refuses_by_itself_where_its_head_could_be_read(serve):
    house = serve(more_routes='[cors]\norigins = "*"')
    client = house.client()
    client.send(get("/echo", "Origin: https://app.example", "Transfer-Encoding: gzip, chunked", method="POST") + b"x")
    answer = client.answer()
    assert answer.status == 400
    assert answer.values("access-control-allow-origin") == ["*"]
    assert house.door.opened == []


def test_the_heads_of_answers_that_are_remembered_are_bounded_in_number_and_in_bytes(house):
    front, most = house.front, granian.HEADS_REMEMBERED_MAX
    large = ("x-told", "v" * granian.HEAD_REMEMBERED_BYTES_MAX)
    client = house.client()
    house.door.raw_answer = (200, [large], b"")
    client.send(get("/raw"))
    assert client.answer().values("x-told") == [large[1]]
    assert (large,) not in front._heads
    fitting = ("x-told", "v" * (granian.HEAD_REMEMBERED_BYTES_MAX - len("x-told")))
    for number in range(2 * most + 10):
        house.call(front.heads_for, [("x-told", str(number)), ("x-more", "v" * 900)])
        assert len(front._heads) <= most
    house.call(front.heads_for, [fitting])
    assert (fitting,) in front._heads
    kept = sum(len(name) + len(value) for key in front._heads for name, value in key)
    assert 0 < kept <= most * granian.HEAD_REMEMBERED_BYTES_MAX
