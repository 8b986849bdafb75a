"""Messages <-> Kafka records, in the `plain` dialect (design section 9): header names and encodings, nothing else.

Everything is ASCII text. A path and its parameters are percent-encoded (RFC 3986, section 2.1) on the record, because
HTTP hands them over decoded and a record header must not depend on anybody's idea of a charset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import quote

from fastgw import errors
from fastgw.messages import Head, HeaderList, Reply

CORRELATION_ID = "correlation_id"
REPLY_TO = "reply_to"
REPLY_PARTITION = "reply_partition"
DEADLINE = "deadline"
PATH = "http_path"
STATUS = "status"
CONTENT_TYPE = "content-type"
HOPS = "fastgw_hops"  # set on a reply that was sent on to its home partition, so that it is sent on only once

FORWARDED_ALWAYS = (CONTENT_TYPE, "traceparent", "tracestate")

# Never copied from a reply: they belong to one connection (RFC 9110, 7.6.1) or are made by the gateway itself.
HOP_BY_HOP = frozenset(
    {
        "connection", "content-length", "date", "keep-alive", "proxy-authenticate", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "x-request-id",
    }
)  # fmt: skip

# A service that sends no content-type almost always sends JSON; guessing from the bytes would be worse than a rule.
DEFAULT_CONTENT_TYPE = "application/json"

# Kinds of reply headers that a route remembers, and how large they may be: services repeat themselves or never do.
REMEMBERED_MAX, REMEMBERED_BYTES_MAX = 256, 512

_PLAIN_TEXT = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*").fullmatch
_FIELD_VALUE = re.compile(rb"[\x20-\x7e\t]*").fullmatch
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+").fullmatch

RecordHeaders = list[tuple[str, bytes]]


class Message(Protocol):
    """What is asked of a record that a Kafka client hands over."""

    def key(self) -> bytes | str | None: ...
    def value(self) -> bytes | str | None: ...
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...


class RequestWire:
    """How one route's requests look as records: what never changes is encoded once."""

    def __init__(
        self, reply_topic: str, http_route: str, methods: Iterable[str], copied_headers: Iterable[str]
    ) -> None:
        """
        Args:
            reply_topic: the gateway's response topic.
            http_route: the route's path template, as configured.
            methods: the methods the route takes.
            copied_headers: lower-case names of the request headers that the route lets through.
        """
        self._fixed: RecordHeaders = [(REPLY_TO, reply_topic.encode()), ("http_route", http_route.encode())]
        self._methods = {method: ("http_method", method.encode()) for method in methods}
        self._copied = [(name, name) for name in FORWARDED_ALWAYS]
        self._copied += [(name, f"http_header_{name}") for name in copied_headers]
        # What the request before had is mostly what this one has: the headers of a value, and that value.
        self._paths = {http_route: (PATH, _percent_encoded(http_route))}  # of a route without parameters: all there are
        self._reply_partition, self._reply_partition_header = -1, (REPLY_PARTITION, b"-1")
        self._deadline, self._deadline_header = 0, (DEADLINE, b"0")

    def headers(
        self,
        correlation_id: bytes,
        reply_partition: int,
        deadline_epoch_ms: int,
        method: str,
        path: str,
        query: str,
        params: Sequence[tuple[str, str]],
        http_headers: Head,
    ) -> RecordHeaders:
        """The headers of one request record."""
        if reply_partition != self._reply_partition:
            self._reply_partition = reply_partition
            self._reply_partition_header = (REPLY_PARTITION, b"%d" % reply_partition)
        if deadline_epoch_ms != self._deadline:
            self._deadline = deadline_epoch_ms
            self._deadline_header = (DEADLINE, b"%d" % deadline_epoch_ms)
        out = [
            (CORRELATION_ID, correlation_id),
            self._reply_partition_header,
            self._deadline_header,
            self._methods[method],
            self._paths.get(path) or (PATH, _percent_encoded(path)),
            *self._fixed,
        ]
        if query:
            out.append(("http_query", query.encode("ascii", "replace")))
        for name, value in params:
            out.append((f"http_param_{name}", _percent_encoded(value)))
        for name, header in self._copied:
            found = http_headers.get(name)
            if found is not None:
                out.append((header, found.encode("ascii", "replace")))
        return out


def _percent_encoded(text: str) -> bytes:
    if _PLAIN_TEXT(text):
        return text.encode("ascii")
    return quote(text, safe="!$&'()*+,;=:@/").encode("ascii")


def decode_reply(message: Message) -> Reply:
    """A record of the response topic as a `Reply`; an absent correlation id is empty.

    The header comes first: serdes that rewrite keys (JSON quotes, schema prefixes) leave headers alone.
    """
    headers: RecordHeaders = []
    correlation_id: bytes | str | None = None
    for name, value in message.headers() or ():
        if name != CORRELATION_ID:
            headers.append((name, value or b""))
        elif not correlation_id:
            correlation_id = value
    if not correlation_id:
        correlation_id = message.key()
    if isinstance(correlation_id, str):
        correlation_id = correlation_id.encode()
    value_bytes = message.value() or b""
    if isinstance(value_bytes, str):
        value_bytes = value_bytes.encode()
    return Reply(correlation_id or b"", message.partition(), message.offset(), headers, value_bytes)


def has_hopped(reply: Reply) -> bool:
    """Whether another node has sent the reply on to its home partition already."""
    return any(name == HOPS for name, _ in reply.headers)


def unwrapped(correlation_id: bytes) -> bytes:
    """The id without what serdes put around a key: JSON quotes, or a schema registry's five-byte prefix."""
    if correlation_id.startswith(b'"'):
        return correlation_id.strip(b'"')
    if correlation_id.startswith(b"\0"):
        return correlation_id[5:]
    return correlation_id


class BadReply(ValueError):
    """The reply cannot become an HTTP answer; the text says what was expected and what was got."""


_OUTCOME = ("fastgw-outcome", errors.ANSWERED.outcome.value)


class ReplyWire:
    """What one route's replies become in HTTP. The same headers become the same answer, made once."""

    def __init__(self, allowed: Iterable[str], max_body_bytes: int) -> None:
        """
        Args:
            allowed: lower-case names of the reply headers that the route lets through.
            max_body_bytes: of a reply; a larger one is no answer.
        """
        self._max_body_bytes = max_body_bytes
        self._allowed = frozenset(allowed)
        self._shows_id = CORRELATION_ID in self._allowed  # like any other header; the reply holds it apart
        self._made: dict[tuple[tuple[str, bytes], ...], tuple[int, HeaderList]] = {}

    @property
    def remembered(self) -> int:
        """Kinds of reply headers whose answer is known; at most REMEMBERED_MAX."""
        return len(self._made)

    def answer(self, reply: Reply) -> tuple[int, HeaderList, bytes]:
        """Status, headers and body of the HTTP answer that a reply asks for. The headers are not to be changed.

        Raises:
            BadReply: an illegal status (a front would abort on it), a value that could inject a header, or a body
                above the limit.
        """
        if len(reply.value) > self._max_body_bytes:
            raise BadReply(f"expected a reply of at most {self._max_body_bytes} bytes, got {len(reply.value)}")
        key = tuple(reply.headers)
        made = self._made.get(key)
        if made is None:
            made = self._make(reply)
            self._remember(key, made)
        status, headers = made
        if self._shows_id:
            headers = [*headers, (CORRELATION_ID, _field_value(CORRELATION_ID, reply.correlation_id))]
        # RFC 9110, 15.3.5 and 15.4.5: these two end with their header section.
        return status, headers, b"" if status == 204 or status == 304 else reply.value

    def _make(self, reply: Reply) -> tuple[int, HeaderList]:
        status, content_type = 200, DEFAULT_CONTENT_TYPE
        headers: HeaderList = [_OUTCOME]
        for cased_name, value in reply.headers:
            name = cased_name.lower()
            if name == STATUS:
                status = _status(value)
            elif name == CONTENT_TYPE:
                content_type = _field_value(name, value)
            elif name in self._allowed and name not in HOP_BY_HOP:
                if not _TOKEN(name):
                    raise BadReply(f"reply header name {name!r} is not a token (RFC 9110, 5.1)")
                headers.append((name, _field_value(name, value)))
        if status not in (204, 304):
            headers.append((CONTENT_TYPE, content_type))
        return status, headers

    def _remember(self, key: tuple[tuple[str, bytes], ...], made: tuple[int, HeaderList]) -> None:
        if sum(len(name) + len(value) for name, value in key) > REMEMBERED_BYTES_MAX:
            return
        if len(self._made) >= REMEMBERED_MAX:
            self._made.clear()
        self._made[key] = made


def _status(value: bytes) -> int:
    if len(value) == 3 and value.isdigit() and b"200" <= value <= b"599":
        return int(value)
    raise BadReply(f"reply header 'status' must be 200 to 599 as ASCII digits, got {value[:20]!r}")


def _field_value(name: str, value: bytes) -> str:
    if not _FIELD_VALUE(value):
        raise BadReply(f"reply header {name!r} has bytes that HTTP does not allow in a field value: {value[:40]!r}")
    return value.decode("ascii")
