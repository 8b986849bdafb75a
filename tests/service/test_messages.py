"""What handlers see and give, as plain objects: no broker here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from fastgw.service import Problem, Reply, Request
from fastgw.service.messages import decimal, problem_record, reply_record

ID = b"00000000-0000-8000-8000-000000000000"

GET_ORDER = {
    "correlation_id": ID,
    "reply_to": b"shop.replies",
    "reply_partition": b"3",
    "deadline": b"1700000000500",
    "http_method": b"GET",
    "http_path": b"/orders/caf%C3%A9%2F1",
    "http_query": b"limit=5&tag=a&tag=b&note=",
    "http_route": b"/orders/{id}",
    "http_param_id": b"caf%C3%A9%2F1",
    "http_client_address": b"2001:db8::7",
    "http_scheme": b"https",
    "content-type": b"application/json",
    "traceparent": b"00-abc-def-01",
    "http_header_x-tenant": b"acme",
}


def test_a_request_shows_what_the_client_asked() -> None:
    request = Request(b'{"a": 1}', GET_ORDER)
    assert (request.method, request.route, request.path) == ("GET", "/orders/{id}", "/orders/café/1")
    assert request.params == {"id": "café/1"}
    assert request.query == {"limit": "5", "tag": "b", "note": ""}
    assert request.query_string == "limit=5&tag=a&tag=b&note="
    assert request.headers == {
        "content-type": "application/json",
        "traceparent": "00-abc-def-01",
        "x-tenant": "acme",
    }
    assert (request.client_address, request.scheme) == ("2001:db8::7", "https")
    assert request.json() == {"a": 1}
    assert request.correlation_id == ID.decode()
    assert request.deadline == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    assert "GET /orders/café/1" in repr(request)


def test_a_record_that_no_gateway_made_is_an_empty_request() -> None:
    request = Request(b"", {"http_method": None})  # Kafka headers may be null
    assert (request.method, request.path, request.params, request.query, request.headers) == ("", "", {}, {}, {})
    assert request.deadline is None


@pytest.mark.parametrize("raw", [b"", b"soon", b"-1", b"1e9", b"9" * 14, "٣".encode(), None])
def test_a_number_that_is_none_is_left_out(raw: bytes | None) -> None:
    assert decimal(raw, 13) is None


def test_a_body_that_is_not_json_is_the_clients_fault() -> None:
    with pytest.raises(Problem, match="must be JSON") as refusal:
        Request(b"{", {}).json()
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("result", "value", "headers"),
    [
        ({"a": 1}, b'{"a":1}', [("content-type", b"application/json")]),
        ([1, 2], b"[1,2]", [("content-type", b"application/json")]),
        (True, b"true", [("content-type", b"application/json")]),
        ("grüß", "grüß".encode(), [("content-type", b"text/plain; charset=utf-8")]),
        (b"\x00", b"\x00", [("content-type", b"application/octet-stream")]),
        (bytearray(b"x"), b"x", [("content-type", b"application/octet-stream")]),
        (None, b"", [("status", b"204")]),
        (Reply(None, status=202), b"", [("status", b"202")]),
        (Reply({"id": 1}, status=201), b'{"id":1}', [("status", b"201"), ("content-type", b"application/json")]),
        (
            Reply("<p>", headers={"Content-Type": "text/html", "Location": "/orders/1"}),
            b"<p>",
            [("location", b"/orders/1"), ("content-type", b"text/html")],
        ),
        (
            Reply(None, 200, {"X-Total": 3, "ETag": b'"a"', "X-Name": "Gr\u00fc\u00dfe"}),
            b"",
            [("x-total", b"3"), ("etag", b'"a"'), ("x-name", "Gr\u00fc\u00dfe".encode())],
        ),
        (
            Reply(None, 200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
            b"",
            [("set-cookie", b"a=1"), ("set-cookie", b"b=2")],
        ),
    ],
)
def test_what_a_handler_returns_becomes_a_record(result: Any, value: bytes, headers: list[tuple[str, bytes]]) -> None:
    record = reply_record(ID, result)
    assert record.value == value
    assert record.headers == [("correlation_id", ID), *headers]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (object(), "not JSON serializable"),
        (Reply("", status=99), "200 to 599, got 99"),
        (Reply("", status=600), "200 to 599, got 600"),
        (Reply("", headers={"x": "a\r\nb: c"}), "'x' must not contain line breaks or control characters"),
        (Reply("", headers={"x": b"a\x00"}), "'x' must not contain line breaks or control characters"),
        (Reply("", headers={"x": 1.5}), "'x': expected str, int or bytes, got float 1.5"),
        (Reply("", headers={"x": True}), "'x': expected str, int or bytes, got bool True"),
        (Reply("", headers={"x": None}), "'x': expected str, int or bytes, got NoneType"),
        (Reply("", headers={"x": ["a", "b"]}), "'x': expected str, int or bytes, got list"),
        (Reply("", headers={"x y": "a"}), "'x y': its name must be letters"),
        (Reply("", headers={b"x": "a"}), "b'x': expected a str as its name, got bytes"),
        (Reply("", headers={"Status": "201"}), r"'Status' cannot be set: give the status to Reply\(status="),
        (Reply("", headers={"correlation_id": "1"}), "'correlation_id' cannot be set"),
        (Reply("", headers=["x"]), r"expected a mapping or pairs \(name, value\), got \['x'\]"),
        (Reply("", headers=7), r"expected a mapping or pairs \(name, value\), got 7"),
    ],
)
def test_what_cannot_be_sent_says_why(result: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        reply_record(ID, result)


def test_a_problem_has_the_shape_of_the_gateways_own() -> None:
    record = problem_record(ID, 404, "refused", "Not here", "no order 7")
    assert dict(record.headers) == {
        "correlation_id": ID,
        "status": b"404",
        "content-type": b"application/problem+json",
    }
    assert orjson.loads(record.value) == {
        "type": "urn:fastgw:problem:refused",
        "title": "Not here",
        "status": 404,
        "detail": "no order 7",
        "instance": f"urn:uuid:{ID.decode()}",
        "outcome": "recorded",
        "retryable": False,
        "request_id": ID.decode(),
    }


def test_a_problem_is_an_error() -> None:
    with pytest.raises(ValueError, match="400 to 599, got 200"):
        Problem(200, "all is well")
