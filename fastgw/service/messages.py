"""The types of a handler (`Request`, `Reply`, `Problem`), and their conversion to records. Does not use Kafka."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec
import orjson

from fastgw import problem
from fastgw.dialects import plain
from fastgw.errors import Outcome

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
BYTES = b"application/octet-stream"
NDJSON = b"application/x-ndjson"  # of a record with JSON items, one a line
PROBLEM = b"application/problem+json"

IDEMPOTENCY_KEY = "idempotency_key"

HTTP_HEADER, HTTP_PARAM = "http_header_", "http_param_"

HeaderValue = str | int | bytes
ReplyHeaders = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch  # RFC 9110, 5.6.2
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch  # RFC 9110, 5.5: no line breaks, no control characters
_OURS = {plain.CORRELATION_ID: "it identifies the request", plain.STATUS: "give the status to Reply(status=...)"}


class Problem(Exception):
    """Raised in a handler to refuse a request: the client gets this status as application/problem+json.

    Args:
        status: 400 to 599.
        detail: one sentence for the client; sent unchanged.
        title: the name of this type of problem.
    """

    def __init__(self, status: int, detail: str, title: str = "The service refused this request") -> None:
        super().__init__(detail)
        if not 400 <= status <= 599:
            raise ValueError(f"a problem's status must be 400 to 599, got {status}")
        self.status = status
        self.detail = detail
        self.title = title


class Reply:
    """A reply with status and headers. A handler may also return only the body.

    Args:
        body: dict, list and other JSON values are sent as JSON, str as text/plain, bytes unchanged, None as no body.
        status: 200 to 599; by default 200, or 204 without a body.
        headers: response headers, a mapping or pairs (name, value); names may repeat. A value is a str (sent as UTF-8),
            an int or bytes. The gateway passes on headers that describe the body and headers that its route lists.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: Any = None, status: int | None = None, headers: ReplyHeaders | None = None) -> None:
        self.body = body
        self.status = status if status is not None else 204 if body is None else 200
        self.headers = headers

    def __repr__(self) -> str:
        return f"Reply(status={self.status}, body={self.body!r:.80}, headers={self.headers!r})"


class Request:
    """One request, made from a record. Tests of a handler can make one directly.

    Args:
        body: the record's value.
        record_headers: the record's headers, see docs/protocol.md.
    """

    def __init__(self, body: bytes, record_headers: dict[str, bytes]) -> None:
        self.body = body
        self.record_headers = record_headers

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path} correlation_id={self.correlation_id} body={len(self.body)} bytes)"

    def _text(self, name: str) -> str:
        return (self.record_headers.get(name) or b"").decode("utf-8", "replace")

    @property
    def method(self) -> str:
        """The HTTP method, upper case; empty when the record does not come from a gateway."""
        return self._text("http_method")

    @property
    def route(self) -> str:
        """The gateway's path template, such as `/orders/{id}`."""
        return self._text("http_route")

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self._text("http_path"))

    @cached_property
    def params(self) -> dict[str, str]:
        """The path's parameters by name, percent-decoded."""
        start = len(HTTP_PARAM)
        names = [name for name in self.record_headers if name.startswith(HTTP_PARAM)]
        return {name[start:]: unquote(self._text(name)) for name in names}

    @property
    def query_string(self) -> str:
        """The query as sent, without the question mark."""
        return self._text("http_query")

    @cached_property
    def query(self) -> dict[str, str]:
        """The query by name, decoded; for a repeated name the last value (`query_string` has all values)."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @cached_property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that the gateway's route passes on, by lower-case name."""
        start = len(HTTP_HEADER)
        found = {name[start:]: self._text(name) for name in self.record_headers if name.startswith(HTTP_HEADER)}
        found |= {name: self._text(name) for name in plain.FORWARDED_ALWAYS if name in self.record_headers}
        return found

    @property
    def client_address(self) -> str:
        """The client's IP address, as the gateway knows it; `unix:` for a client on a Unix socket."""
        return self._text("http_client_address")

    @property
    def scheme(self) -> str:
        """Whether the client spoke `http` or `https`, as the gateway knows it."""
        return self._text("http_scheme")

    @property
    def correlation_id(self) -> str:
        """The id of this request in all logs between the client and this service."""
        return self._text(plain.CORRELATION_ID)

    @property
    def idempotency_key(self) -> str:
        """The client's `Idempotency-Key`, if the gateway's route takes keys; otherwise empty.

        Requests with one key ask for the same work, which must be done once.
        """
        return self._text(IDEMPOTENCY_KEY)

    @property
    def deadline_epoch_ms(self) -> int | None:
        """When the client stops waiting, in milliseconds since 1970; None if unknown."""
        return decimal(self.record_headers.get(plain.DEADLINE), 13)  # 13 digits last until the year 2286

    @property
    def deadline(self) -> datetime | None:
        """When the client stops waiting (UTC); None if unknown."""
        epoch_ms = self.deadline_epoch_ms
        return datetime.fromtimestamp(epoch_ms / 1000, UTC) if epoch_ms is not None else None

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            Problem: 400, the body is not JSON. If the handler does not catch it, it is the reply.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Problem(400, f"the body must be JSON: {error}", "The request body is not JSON") from None


def is_over(request: Request) -> bool:
    """Whether the deadline of the request has passed."""
    deadline_ms = request.deadline_epoch_ms
    return deadline_ms is not None and deadline_ms <= time.time_ns() // 1_000_000


def decimal(raw: bytes | None, digits_max: int) -> int | None:
    """The number in a record header; None if the header is missing or not a number."""
    return int(raw) if raw and len(raw) <= digits_max and raw.isdigit() else None


class ReplyRecord(NamedTuple):
    """A reply as a record for the response topic."""

    value: bytes
    headers: list[tuple[str, bytes]]
    is_problem: bool = False
    status: int = 200


def reply_record(correlation_id: bytes, result: Any) -> ReplyRecord:
    """The result of a handler, a `Reply` or a body, as a record.

    Raises:
        TypeError, ValueError: the result cannot be sent; the text says why.
    """
    if not isinstance(result, Reply):
        result = Reply(result)
    body = result.body
    if isinstance(body, bytes | bytearray | memoryview):
        value, content_type = bytes(body), BYTES
    elif isinstance(body, str):
        value, content_type = body.encode(), TEXT
    elif body is None:
        value, content_type = b"", b""
    else:
        value, content_type = orjson.dumps(body), JSON
    headers = reply_headers(correlation_id, content_type, result.status, result.headers)
    return ReplyRecord(value, headers, False, result.status)


def problem_record(correlation_id: bytes, status: int, kind: str, title: str, detail: str) -> ReplyRecord:
    """An error as a record, in the same format as the gateway's own problems.

    Args:
        correlation_id: the request's.
        status: 400 to 599.
        kind: last part of the problem's `type`.
        title: the name of this type of problem.
        detail: one sentence about this occurrence.
    """
    request_id = correlation_id.decode("utf-8", "replace")
    body = problem.ProblemDocument(
        type=problem.TYPE_PREFIX + kind,
        title=title,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}" if request_id else "about:blank",
        outcome=Outcome.RECORDED.value,
        retryable=False,
        request_id=request_id or None,
    )
    return ReplyRecord(msgspec.json.encode(body), reply_headers(correlation_id, PROBLEM, status, None), True, status)


def reply_headers(
    correlation_id: bytes, content_type: bytes, status: int, more: ReplyHeaders | None
) -> list[tuple[str, bytes]]:
    """The headers of a reply record.

    Args:
        correlation_id: the request's.
        content_type: unless `more` has one.
        status: 200 to 599.
        more: those of the handler.

    Raises:
        TypeError, ValueError: the status or a header cannot be sent; the text says why.
    """
    headers = [(plain.CORRELATION_ID, correlation_id)]
    if status != 200:
        if not 200 <= status <= 599:
            raise ValueError(f"a reply's status must be 200 to 599, got {status}")
        headers.append((plain.STATUS, b"%d" % status))
    for name, value in _pairs(more or ()):
        lower, field = _header_name(name), _header_value(name, value)
        if lower == plain.CONTENT_TYPE:
            content_type = field
        else:
            headers.append((lower, field))
    if content_type:
        headers.append((plain.CONTENT_TYPE, content_type))
    return headers


def _pairs(headers: ReplyHeaders) -> list[tuple[str, HeaderValue]]:
    given: Any = headers.items() if isinstance(headers, Mapping) else headers
    try:
        return [(name, value) for name, value in given]
    except (TypeError, ValueError):
        raise TypeError(f"reply headers: expected a mapping or pairs (name, value), got {headers!r:.80}") from None


def _header_name(name: Any) -> str:
    """The name for the record: in lower case."""
    if not isinstance(name, str):
        raise TypeError(f"reply header {name!r}: expected a str as its name, got {type(name).__name__}")
    if not _TOKEN(name):
        raise ValueError(f"reply header {name!r}: its name must be letters, digits, and !#$%&'*+-.^_`|~ (RFC 9110)")
    lower = name.lower()
    if lower in _OURS:
        raise ValueError(f"reply header {name!r} cannot be set: {_OURS[lower]}")
    return lower


def _header_value(name: str, value: Any) -> bytes:
    # A bool is an int, but "True", "true" and "1" are equally plausible meanings.
    if isinstance(value, bool) or not isinstance(value, str | int | bytes):
        raise TypeError(f"reply header {name!r}: expected str, int or bytes, got {type(value).__name__} {value!r:.40}")
    field = value if isinstance(value, bytes) else str(value).encode()
    if not _FIELD_VALUE(field):
        raise ValueError(f"reply header {name!r} must not contain line breaks or control characters, got {value!r:.40}")
    return field
