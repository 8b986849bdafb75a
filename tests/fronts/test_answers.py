"""What a well-behaved client sees of one request and its answer, however the bytes come in."""

from __future__ import annotations

import orjson
import pytest

from tests.fronts.kinds import fronts
from tests.waiting import eventually

pytestmark = fronts()

POST = b"POST /echo?a=1&b=%20 HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\nX-Asked: yes\r\n\r\nhello"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"]


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: shop.test", *lines, "", "")).encode()


def test_a_request_is_answered_with_what_the_service_said(house):
    client = house.client()
    client.send(POST)
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"hello")
    admission, body = house.door.opened[0]
    assert (admission.method, admission.path, admission.query, body) == ("POST", "/echo", "a=1&b=%20", b"hello")
    assert admission.headers.get("x-asked") == "yes"


def test_a_request_may_come_byte_by_byte(house):
    client = house.client()
    for byte in POST:
        client.send(bytes([byte]))
    assert client.answer().body == b"hello"
    assert len(house.door.opened) == 1


@pytest.mark.parametrize("at", range(1, len(POST), 7))
def test_a_request_may_come_in_two_parts(house, at):
    client = house.client()
    client.send(get("/echo") + POST[:at])
    assert client.answer().status == 200, "it can only come once what follows it was read as well"
    client.send(POST[at:])
    assert client.answer().body == b"hello"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_route_reaches_the_service(house, method):
    client = house.client()
    client.send(get("/echo", "Content-Type: text/plain", "Connection: close", method=method))
    answer = client.answer(method)
    assert answer.status == 200
    assert house.door.opened[0][0].method == method
    assert client.rest() == b"", "nothing may follow the answer"


def test_a_query_has_a_body_and_says_what_it_is(house):
    """RFC 10008, section 2: a server must fail a QUERY that does not say of what media type its content is."""
    client = house.client()
    client.send(get("/echo", "Content-Type: application/sql", "Content-Length: 8", method="QUERY") + b"select 1")
    assert client.answer().body == b"select 1"
    client.send(get("/echo", "Content-Length: 8", method="QUERY") + b"select 1")
    assert client.answer().status == 400
    assert len(house.door.opened) == 1


@pytest.mark.parametrize("size", [1, 1000, 65_536, 1 << 20])
def test_a_body_up_to_the_limit_comes_back_as_it_was_sent(house, size):
    body = bytes(number % 251 for number in range(size))
    client = house.client()
    client.send(get("/echo", f"Content-Length: {size}", method="POST") + body)
    assert client.answer().body == body


def test_a_path_reaches_the_core_as_it_came(house):
    client = house.client()
    client.send(get("/items/a%20b%2525%C3%A4?x=%2525"))
    assert client.answer().status == 200
    admission = house.door.opened[0][0]
    assert admission.params == (("id", "a%20b%2525%C3%A4"),)
    assert admission.query == "x=%2525"


def test_headers_are_found_by_their_lower_case_name_and_in_their_order(house):
    client = house.client()
    client.send(get("/echo", "X-ASKED: 1", "x-Asked: \t2 \t", "X-Empty:"))
    client.answer()
    headers = house.door.opened[0][0].headers
    assert headers.get("x-asked") == "1, 2"
    assert list(headers.get_all("x-asked")) == ["1", "2"]
    assert headers.get("x-empty") == ""
    assert headers.get("x-none") is None
    assert list(headers.get_all("x-none")) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_a_length_has_no_body(house, method):
    client = house.client()
    client.send(get("/echo", method=method) + get("/echo?next"))
    assert [client.answer().status, client.answer().status] == [200, 200]
    assert [body for _, body in house.door.opened] == [b"", b""]


# The request id.


def request_id(answer) -> str:
    [value] = answer.values("x-request-id")
    assert len(value) == 36
    return value


def test_an_answer_names_its_request_as_the_record_does(house):
    client = house.client()
    client.send(get("/held", "X-Request-Id: forged"))
    record = house.held()[0]
    house.reply(record, b"x", (("x-request-id", b"the service's own"),))
    assert request_id(client.answer()) == dict(record.headers)["correlation_id"].decode()


@pytest.mark.parametrize(
    "refused",
    [
        get("/nowhere", "X-Request-Id: forged"),
        get("/small", "Content-Length: 17", method="POST") + bytes(17),
        b"GET /echo HTTP/1.1\r\nHost: elsewhere, shop.test\r\n\r\n",
    ],
)
def test_a_refused_request_has_an_id_of_its_own_and_its_problem_has_the_same(house, refused):
    ids_seen = set()
    for _ in range(2):
        client = house.client()
        client.send(refused)
        answer = client.answer()
        assert answer.status >= 400
        assert orjson.loads(answer.body)["request_id"] == request_id(answer)
        ids_seen.add(request_id(answer))
    assert len(ids_seen) == 2


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("line", ["Connection: close", "Connection: keep-alive"])
def test_answers_without_content_and_the_last_of_a_connection_name_their_request_as_well(house, method, status, line):
    client = house.client()
    client.send(get("/held", line, method=method))
    record = house.held()[0]
    house.reply(record, b"x", (("status", b"%d" % status),))
    assert request_id(client.answer(method)) == dict(record.headers)["correlation_id"].decode()


# The answer, as the core gives it to the front.


def test_headers_of_the_answer_are_sent_as_they_were_given(house):
    """In any order, but for those of one name (RFC 9110, 5.3), and with none of the front's own that could mislead."""
    given = [("x-a", "1"), ("x-b", ""), ("x-a", "2"), ("content-type", "text/plain; charset=utf-8")]
    house.door.raw_answer = (203, given, b"body")
    client = house.client()
    client.send(get("/raw"))
    answer = client.answer()
    assert (answer.status, answer.body) == (203, b"body")
    assert [answer.values(name) for name in ("x-a", "x-b", "content-type")] == [["1", "2"], [""], [given[-1][1]]]
    others = {name for name, _ in answer.headers} - {name for name, _ in given}
    assert others <= {"content-length", "date", "server", "connection"}, "and no request id where none is known"


@pytest.mark.parametrize("status", [200, 201, 299, 301, 404, 499, 500, 599])
def test_any_status_of_a_service_can_be_answered(house, status):
    house.door.raw_answer = (status, [], b"x")
    client = house.client()
    client.send(get("/raw"))
    assert client.answer().status == status


ID = b"8f14e45f-ceea-467f-a0e6-0a2b5c1d9e11"


def assert_500(house, known_id: bytes) -> None:
    """Instead of the door's answer its client has 500, with nothing of it but the id, or one of the front's own."""
    house.door.raw_id = known_id
    client = house.client()
    client.send(get("/raw"))
    answer = client.answer()
    assert (answer.status, answer.body, answer.closes) == (500, b"", False)
    assert {name for name, _ in answer.headers} <= {"content-length", "date", "server", "x-request-id"}
    assert not known_id or request_id(answer) == known_id.decode()
    assert request_id(answer)


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 999, 1000, 70_000])
def test_a_status_that_is_none_does_not_reach_the_wire_and_harms_nobody(house, status):
    """An upgrade (101) or an interim answer would leave the client reading what follows as something else."""
    house.door.raw_answer = (status, [], b"x")
    assert_500(house, ID)
    other = house.client()
    other.send(get("/echo"))
    assert other.answer().status == 200


@pytest.mark.parametrize(
    "header",
    [
        ("x-a", "1\r\nx-b: 2"),
        ("x-a", "1\nx-b: 2"),
        ("x-a", "1\0"),
        ("x-a\r\nx-b", "1"),
        ("x-a: 1\r\nx-b", "2"),
        ("", "x"),
    ],
)
@pytest.mark.parametrize("known_id", [b"", ID])
def test_an_answer_cannot_inject_a_header(house, header, known_id):
    """Replies are checked long before; a front is the last to see them, and drops nothing in silence."""
    house.door.raw_answer = (200, [header, ("x-c", "3")], b"body")
    assert_500(house, known_id)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body_end_with_their_headers(house, status):
    house.door.raw_answer = (status, [("x-a", "1")], b"")
    client = house.client()
    client.send(get("/raw") + get("/echo?next", "Connection: close"))
    first = client.answer()
    assert (first.status, first.values("transfer-encoding")) == (status, [])
    if status == 204:
        assert first.values("content-length") == [], "RFC 9110, 8.6"
    assert client.answer().status == 200, "what follows a bodiless answer is the next answer"
    assert client.rest() == b""


def test_the_answer_to_head_has_the_headers_of_get_and_no_body(house):
    house.door.raw_answer = (200, [("x-a", "1")], b"twelve bytes")
    client = house.client()
    client.send(get("/raw", method="HEAD") + get("/raw", "Connection: close"))
    to_head, to_get = client.answer("HEAD"), client.answer("GET")
    assert (to_head.values("content-length"), to_head.values("x-a")) == (["12"], ["1"])
    assert (to_get.values("content-length"), to_get.body) == (["12"], b"twelve bytes")
    assert client.rest() == b""


def test_an_empty_answer_says_so(house):
    house.door.raw_answer = (200, [], b"")
    client = house.client()
    client.send(get("/raw"))
    assert client.answer().values("content-length") == ["0"]


def test_a_refusal_is_a_problem_that_names_its_outcome(house):
    client = house.client()
    client.send(get("/nowhere"))
    answer = client.answer()
    assert answer.status == 404
    assert answer.values("content-type") == ["application/problem+json"]
    assert answer.values("fastgw-outcome") == ["not_recorded"]


# Expect: 100-continue.


def test_a_client_that_asks_first_is_told_to_continue(house):
    client = house.client()
    client.send(get("/echo", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert client.answer().status == 100
    client.send(b"hello")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize(("path", "length", "status"), [("/nowhere", 5, 404), ("/small", 500, 413)])
def test_a_client_that_asks_first_and_is_refused_never_sends_its_body(house, path, length, status):
    client = house.client()
    client.send(get(path, f"Content-Length: {length}", "Expect: 100-continue", method="POST"))
    assert client.answer().status == status, "and not 100"


def test_a_client_that_asks_first_and_does_not_wait_is_served(house):
    client = house.client()
    client.send(get("/echo", "Content-Length: 5", "Expect: 100-continue", method="POST") + b"hello")
    answers = [client.answer()]
    if answers[0].status == 100:  # RFC 9110, 10.1.1: it may be left out when the body is here already
        answers.append(client.answer())
    assert (answers[-1].status, answers[-1].body) == (200, b"hello")


def test_a_client_that_expects_anything_else_is_refused_and_http_1_0_may_not_expect(house):
    client = house.client()
    client.send(get("/echo", "Expect: the-unexpected"))
    assert client.answer().status == 417
    assert house.door.opened == []
    old = house.client()
    old.versions = ("HTTP/1.1", "HTTP/1.0")
    old.send(b"GET /echo HTTP/1.0\r\nHost: shop.test\r\nExpect: the-unexpected\r\n\r\n")
    assert old.answer().status == 200


def test_the_answer_comes_when_the_service_replies_and_not_before(house):
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    house.reply(record, b"at last")
    assert client.answer().body == b"at last"
    eventually(house.empty)
