"""Malformed and hostile requests: each is refused, nothing of it reaches the core, the connection carries no other."""

from __future__ import annotations

import pytest

from fastgw import errors
from tests.fronts.hostile import CLOSED, HOSTILE, NEXT, REFUSED_BY_HYPER, SERVED, SMUGGLED
from tests.fronts.kinds import fronts

pytestmark = fronts()

LAST = b"GET /echo?last HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("row", HOSTILE, ids=[row.name for row in HOSTILE])
def test_a_hostile_request_is_refused_and_the_next_one_on_its_connection_is_not_served(row, kind, house):
    allowed = row.allowed(kind.name)
    client = house.client()
    if allowed == {SERVED}:
        client.send(row.raw)
        assert client.answer().status == SERVED
        assert len(house.door.opened) == 1
        return
    client.send_while_open(row.raw + NEXT)
    answers = client.answers_until_end()
    assert len(answers) <= 1, answers
    status = answers[0].status if answers else CLOSED
    assert status in allowed
    assert all(answer.closes for answer in answers)
    has_no_id = kind.name == "granian" and row.name in REFUSED_BY_HYPER
    assert [len(answer.values("x-request-id")) for answer in answers] == [0 if has_no_id else 1] * len(answers)
    assert house.door.opened == []
    _is_served_elsewhere(house)


def _is_served_elsewhere(house):
    client = house.client()
    client.send(LAST)
    assert client.answer().status == 200
    assert [admission.query for admission, _ in house.door.opened] == ["last"]


def test_what_was_sent_beyond_the_body_is_no_part_of_it(house):
    client = house.client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhello" + NEXT)
    first, *refused = client.answers_until_end()
    assert (first.status, first.body) == (200, b"he")
    assert [answer.status for answer in refused] == [405], "the rest reads 'lloGET /echo?next'"
    assert [body for _, body in house.door.opened] == [b"he"]


@pytest.mark.parametrize(
    ("path", "host", "status", "behind"),
    [("/nowhere", "a", 404, [200]), ("/small", "a", 413, []), ("/echo", "a b", 400, [])],
)
def test_a_request_in_the_body_of_a_refused_one_is_not_served(house, path, host, status, behind):
    """Refused for its path, its size or its Host, with the body unread: those bytes are nobody's request.

    `behind`: the answers to what follows the body. After a 404 it is clear where that begins; the other two end the
    connection.
    """
    body = SMUGGLED * 3
    client = house.client()
    client.send(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert client.answer("POST").status == status
    client.send_while_open(LAST)
    assert [answer.status for answer in client.answers_until_end()] == behind
    assert "smuggled" not in [admission.query for admission, _ in house.door.opened]


@pytest.mark.parametrize("host", ["shop.test", "shop.test:8080", "SHOP.test", "api.shop.test"])
def test_a_host_on_the_list_is_served_whatever_its_port_and_case(serve, host):
    client = serve(hosts=("shop.test", "api.shop.test")).client()
    client.send(b"GET /echo HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    assert client.answer().status == 200


@pytest.mark.parametrize("host", ["evil.test", "shop.test.evil.test", "127.0.0.1"])
def test_a_host_that_is_not_on_the_list_is_misdirected_and_the_connection_goes_on(serve, host):
    house = serve(hosts=("shop.test",))
    client = house.client()
    for name, status in ((host, 421), ("shop.test", 200)):
        client.send(b"GET /echo HTTP/1.1\r\nHost: %s\r\n\r\n" % name.encode())
        assert client.answer().status == status
    assert house.door.refused[0].ending is errors.MISDIRECTED


def test_a_host_that_is_none_is_malformed_where_there_is_a_list(serve):
    house = serve(hosts=("shop.test",))
    client = house.client()
    client.send(b"GET /echo HTTP/1.1\r\nHost: shop.test:80:80\r\n\r\n")
    assert [answer.status for answer in client.answers_until_end()] == [400]
    assert house.door.refused[0].ending is errors.MALFORMED


def test_an_absolute_target_of_the_same_host_is_served(house):
    client = house.client()
    client.send(b"GET http://shop.test/echo?a HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    assert client.answer().status == 200
    assert house.door.opened[0][0].path == "/echo"
