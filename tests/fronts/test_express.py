"""What only the express front does, on real sockets."""

from __future__ import annotations

import threading

import pytest

from fastgw import errors
from fastgw.messages import Cut
from tests.fronts.kinds import FRONTS
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = pytest.mark.parametrize("kind", [kind for kind in FRONTS if kind.name == "express"], ids=["express"])


def test_a_client_that_has_sent_far_ahead_and_leaves_is_noticed(house):
    """Its bytes stay in the kernel while its first request waits, and so does the end of its stream."""
    client = house.client()
    client.send(get("/held") + get("/echo") * 5000)
    house.held()
    client.sock.close()
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()


def test_an_idle_connection_that_says_nothing_more_is_closed_after_its_time(house):
    client = house.client()
    client.send(get("/echo"))
    client.answer()
    house.call(house.front.drain, 0.2)
    assert client.rest() == b""
    house.closed()


def test_a_connection_that_never_said_anything_is_closed_by_a_drain(serve, tmp_path):
    house = serve(
        bind=f"unix:{tmp_path}/http.sock"
    )  # of TCP the kernel hands over no silent connections (DEFER_ACCEPT)
    silent = house.client()
    client = house.client()
    client.send(get("/echo", "Connection: close"))
    client.rest()
    house.drain()
    assert silent.rest() == b""
    house.closed()


def test_a_request_that_has_arrived_when_the_drain_begins_is_answered(house):
    """Closing its idle connection would throw it away unread."""
    client = house.client()
    client.send(get("/echo"))
    client.answer()

    def arrive_and_drain():
        client.send(get("/echo?just-now"))  # the loop is busy with this call and has not seen it
        house.front.drain()

    house.call(arrive_and_drain)
    answer = client.answer()
    assert (answer.status, answer.closes) == (200, True)
    house.closed()


def test_a_slow_reader_is_cut_and_the_others_are_not(serve):
    house = serve(write_timeout="200ms", max_body="15MiB", max_reply="15MiB")
    size = 15 << 20  # more than the kernel takes off our hands
    slow = house.client(receive_buffer_bytes=4096)
    slow.send(get("/echo", f"Content-Length: {size}", method="POST") + bytes(size))
    eventually(lambda: house.door.opened)
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200
    eventually(lambda: "1 connections" in repr(house.front), message="the slow one is gone")
    other.send(get("/echo"))
    assert other.answer().status == 200


def test_too_many_connections_beyond_the_limit_are_cut_without_a_word(serve, monkeypatch, tmp_path):
    monkeypatch.setattr("fastgw.http.express.REFUSED_AT_ONCE_MAX", 1)
    house = serve(max_connections=1, bind=f"unix:{tmp_path}/http.sock")
    served, told, cut = house.client(), house.client(), house.client()
    assert told.answer().status == 503
    assert cut.rest() == b""
    served.send(get("/echo"))
    assert served.answer().status == 200
    assert [refusal.ending for refusal in house.door.refused] == [errors.CONNECTION_CAP]


def test_connections_that_are_idle_or_silent_for_too_long_are_ended_and_counted(serve, tmp_path):
    house = serve(idle_timeout="200ms", header_timeout="100ms", bind=f"unix:{tmp_path}/http.sock")
    idle = house.client()
    idle.send(get("/echo"))
    assert idle.answer().status == 200
    assert idle.rest() == b""
    eventually(lambda: house.door.cuts == [Cut.IDLE])
    silent = house.client()
    assert silent.rest() == b""
    eventually(lambda: house.door.cuts == [Cut.IDLE, Cut.SILENT])


def test_quiet_connections_are_ended_a_few_at_a_time_until_none_is_left(serve, monkeypatch, tmp_path):
    monkeypatch.setattr("fastgw.http.express.QUIET_AT_ONCE", 2)
    house = serve(header_timeout="200ms", bind=f"unix:{tmp_path}/http.sock")
    for silent in [house.client() for _ in range(7)]:
        assert silent.rest() == b""
    eventually(lambda: house.door.cuts == [Cut.SILENT] * 7)


def be_busy_until_it_is_late(house, client, sent):
    """The loop reads another client for longer than any timeout, and `client` sends meanwhile."""
    over, admit = threading.Event(), house.door.admit

    def slowly(head):
        if head.path == "/slow":
            client.send(sent)
            over.wait(0.5)
        return admit(head)

    house.door.admit = slowly
    other = house.client()
    other.send(get("/slow"))
    assert other.answer().status == 404


@pytest.mark.parametrize("has_spoken", [True, False])
def test_a_request_that_came_just_in_time_to_a_busy_loop_is_answered(serve, tmp_path, has_spoken):
    """Late is who has not sent; who has and was not read yet is not late, whatever the clock says."""
    house = serve(idle_timeout="200ms", header_timeout="200ms", bind=f"unix:{tmp_path}/http.sock")
    client = house.client()
    if has_spoken:
        client.send(get("/echo"))
        client.answer()
    be_busy_until_it_is_late(house, client, get("/echo?just-now"))
    assert client.answer().status == 200
    assert client.rest() == b""


def test_who_came_just_in_time_and_does_not_go_on_is_late_after_all(serve, tmp_path):
    house = serve(header_timeout="200ms", bind=f"unix:{tmp_path}/http.sock")
    client = house.client()
    be_busy_until_it_is_late(house, client, b"GET /ec")
    assert client.answer().status == 408


def test_a_page_reads_what_the_front_refuses_by_itself_where_its_head_could_be_read(serve):
    house = serve(more_routes='[cors]\norigins = "*"')
    client = house.client()
    client.send(
        get("/echo", "Origin: https://app.example", "Expect: the moon", "Content-Length: 1", method="POST") + b"x"
    )
    answer = client.answer()
    assert answer.status == 417
    assert answer.values("access-control-allow-origin") == ["*"]
    assert house.door.opened == []
