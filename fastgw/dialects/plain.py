"""Messages <-> Kafka records, in the `plain` dialect (docs/protocol.md): header names and encodings, nothing else.

Everything is ASCII text, except values of HTTP headers, which are copied as bytes. A path and its parameters are
percent-encoded on the record (RFC 3986, section 2.1), so that a record header does not depend on a charset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import orjson

from fastgw import errors, forwarding, header_names, ids
from fastgw.dialects import BadReply, Message, RecordHeaders
from fastgw.messages import Head, HeaderList, Headers, Reply
from fastgw.request_path import on_record

CORRELATION_ID = "correlation_id"
REPLY_TO = "reply_to"
REPLY_PARTITION = "reply_partition"
DEADLINE = "deadline"
PATH = "http_path"
STATUS = "status"
CONTENT_TYPE = "content-type"
HOPS = "fastgw_hops"  # set on a reply that was sent to its home partition, so that this happens only once
FIRST_HOP = b"1"
READ_AGAIN = b"again"  # the reply was read by a successor, and its predecessor may have passed it on already
# Each part of a stream has one of them (`dialects.streams`). Only a streaming request may be answered with parts.
STREAM_SEQ, STREAM_BEAT, STREAM_END = "stream_seq", "stream_beat", "stream_end"
_OF_PARTS = frozenset({STREAM_SEQ, STREAM_BEAT, STREAM_END})

CLIENT_REQUEST_ID = "x-request-id"
# Headers that describe a body (RFC 9110, sections 8 and 14.4, RFC 6266, RFC 9530).
_OF_BODIES = (
    CONTENT_TYPE, "content-encoding", "content-language", "content-location", "content-disposition", "content-range",
    "content-digest", "repr-digest",
)  # fmt: skip
# Always copied to the record: headers that describe the body, and the trace.
FORWARDED_ALWAYS = (*_OF_BODIES, "traceparent", "tracestate")

# Always copied from a reply: headers that describe the body, and its validators. The route allows all others.
REPRESENTATION = frozenset({*_OF_BODIES, "etag", "last-modified"})
_LISTS = frozenset({"content-encoding", "content-language", "content-digest", "repr-digest"})
ONCE = REPRESENTATION - _LISTS  # of several such headers the last one counts

# Answers without content (RFC 9110, 15.3.5, 15.3.6, 15.4.5), and the headers that mean nothing without content.
WITHOUT_CONTENT = frozenset({204, 205, 304})
ABOUT_CONTENT = frozenset(
    {CONTENT_TYPE, "content-encoding", "content-language", "content-disposition", "content-range", "content-digest"}
)

LINE_BYTES = 4  # of a header line in HTTP/1.1, besides name and value: ": " and CRLF

# A service that sends no content-type almost always sends JSON; guessing from the bytes would be worse than a rule.
DEFAULT_CONTENT_TYPE = "application/json"

# How many sets of reply headers a route caches, and the largest size of one. Small, because a service either repeats
# its headers or never does.
REMEMBERED_MAX, REMEMBERED_BYTES_MAX = 256, 512
REMEMBERED_TOGETHER_MAX = 4096  # for all routes of a worker together: 10 MB

_FIELD_VALUE = re.compile(rb"[\x20-\x7e\t\x80-\xff]*").fullmatch
# A client's own request id: only characters that need no quotes in a log, and a few times as long as a request_id.
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:@/+=|-]{1,128}").fullmatch
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+").fullmatch


class RequestWire:
    """Implements `dialects.RequestWire`. Headers that never change are encoded once."""

    def __init__(
        self, reply_topic: str, http_route: str, methods: Iterable[str], copied_headers: Iterable[str]
    ) -> None:
        """
        Args:
            reply_topic: the gateway's response topic.
            http_route: the route's path template, as configured.
            methods: the methods of the route.
            copied_headers: lower-case names of the request headers that the route copies.
        """
        self._fixed: RecordHeaders = [(REPLY_TO, reply_topic.encode()), ("http_route", http_route.encode())]
        self._methods = {method: ("http_method", method.encode()) for method in methods}
        self._copied = [(name, name) for name in FORWARDED_ALWAYS]
        copied = [(name, f"http_header_{name}") for name in dict.fromkeys((*copied_headers, CLIENT_REQUEST_ID))]
        self._copied += [one for one in copied if not forwarding.is_about_client(one[0])]
        self._about_client = [one for one in copied if forwarding.is_about_client(one[0])]
        # Values and their encoded headers, kept because the next request mostly has the same ones.
        self._paths = {http_route: (PATH, on_record(http_route))}  # the only path of a route without parameters
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
        """See `dialects.RequestWire`."""
        if reply_partition != self._reply_partition:
            self._reply_partition = reply_partition
            self._reply_partition_header = (REPLY_PARTITION, b"%d" % reply_partition)
        if deadline_epoch_ms != self._deadline:
            self._deadline = deadline_epoch_ms
            self._deadline_header = (DEADLINE, b"%d" % deadline_epoch_ms)
        client = http_headers.client or forwarding.of_peer(http_headers.peer)
        out = [
            (CORRELATION_ID, correlation_id),
            self._reply_partition_header,
            self._deadline_header,
            self._methods[method],
            self._paths.get(path) or (PATH, on_record(path)),
            *self._fixed,
            *client.record_headers,
        ]
        if query:
            out.append(("http_query", query.encode("ascii", "replace")))
        for name, value in params:
            out.append((f"http_param_{name}", on_record(value)))
        connection = http_headers.get("connection")
        hops = () if connection is None else header_names.named_by(connection)
        for name, header in self._copied:
            found = http_headers.get(name)
            if found is not None and name not in hops:
                out.append((header, found.encode("latin-1")))
        for name, header in self._about_client:
            known = forwarding.told(name, http_headers, client)
            if known is not None:
                out.append((header, known.encode("latin-1")))
        return out


def client_request_id(headers: Headers) -> str:
    """The client's own X-Request-Id for the access log; empty: none, or none that fits into a log."""
    found = headers.get(CLIENT_REQUEST_ID)
    return found if found is not None and _CLIENT_REQUEST_ID(found) else ""


def decode_reply(message: Message) -> Reply:
    """Decode a record of the response topic. Without a correlation id, the reply's id is empty.

    The id is the key, if `ids.find` finds an id in it; else the first `correlation_id` header that has one. The key
    wins because services may copy headers from other records, but a key with an id was chosen for this reply.
    """
    headers: RecordHeaders = []
    key = _bytes(message.key())
    correlation_id = ids.find(key)
    unreadable = b""
    for name, value in message.headers() or ():
        if name.lower() != CORRELATION_ID:
            headers.append((name, value or b""))
        elif correlation_id is None and value:
            correlation_id = ids.find(value)
            unreadable = unreadable or value
    if correlation_id is None:  # keep the invalid id, so that the reply is counted as malformed
        correlation_id = unreadable or key
    return Reply(correlation_id, message.partition(), message.offset(), headers, _bytes(message.value()))


def _bytes(field: bytes | str | None) -> bytes:
    return field.encode() if isinstance(field, str) else field or b""


def sent_on(reply: Reply, is_read_again: bool = False) -> RecordHeaders:
    """The headers of a reply that this process sends on.

    Args:
        is_read_again: this process has taken its partition over, and the process before it may have sent it on already.
    """
    return [*reply.headers, (HOPS, READ_AGAIN if is_read_again else FIRST_HOP)]


def has_hopped(reply: Reply) -> bool:
    """Whether another node has already sent the reply to its home partition."""
    return any(name == HOPS for name, _ in reply.headers)


def is_read_again(reply: Reply) -> bool:
    """Whether the process that has passed the reply on had taken its partition over."""
    return (HOPS, READ_AGAIN) in reply.headers


_OUTCOME = ("fastgw-outcome", errors.ANSWERED.outcome.value)

_Made = tuple[int, HeaderList, bool]  # status, headers, whether the answer has content


class Memory:
    """Counts the sets of reply headers that all routes of a worker cache together. Used by one thread."""

    def __init__(self) -> None:
        self.kinds = 0


class ReplyWire:
    """Implements `dialects.ReplyWire`. Builds the answer's headers once for each set of reply headers, and caches them.

    docs/routes.md has the rules ("Replies"); tests/gateway/test_odd_replies.py has them as a table.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        max_body_bytes: int,
        max_header_bytes: int = 16 << 10,
        memory: Memory | None = None,
        always: Iterable[tuple[str, str]] = (),
    ) -> None:
        """
        Args:
            allowed: lower-case names of the reply headers that the route copies besides REPRESENTATION.
            max_body_bytes: the largest body of a reply; a larger one raises BadReply.
            max_header_bytes: limit for the headers copied from a reply, in the size that they have in HTTP/1.1.
            memory: shared with the other routes.
            always: headers of every answer, besides those of the reply.
        """
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._memory = memory or Memory()
        self._always = list(always)
        self._allowed = frozenset(allowed) - header_names.OF_THE_GATEWAY
        self._shows_id = CORRELATION_ID in self._allowed  # like any other header, but it is a field of Reply
        self._made: dict[tuple[tuple[str, bytes], ...], _Made] = {}
        self._made_of_nothing: dict[tuple[tuple[str, bytes], ...], _Made] = {}  # for replies without a value

    @property
    def remembered(self) -> int:
        """The number of cached sets of reply headers; at most REMEMBERED_MAX."""
        return len(self._made) + len(self._made_of_nothing)

    def answer(self, reply: Reply) -> tuple[int, HeaderList, bytes]:
        """See `dialects.ReplyWire`.

        Raises:
            BadReply: an invalid status (a front would abort on it), a value that could inject a header, headers or a
                body above their limit, or a part of a stream, which is not the whole answer.
        """
        if len(reply.value) > self._max_body_bytes:
            raise BadReply(f"expected a reply of at most {self._max_body_bytes} bytes, got {len(reply.value)}")
        key = tuple(reply.headers)
        made = self._made.get(key) if reply.value else self._made_of_nothing.get(key)
        if made is None:
            made = self._make(reply)
            self._remember(self._made if reply.value else self._made_of_nothing, key, made)
        status, headers, has_content = made
        if self._shows_id:
            headers = [*headers, (CORRELATION_ID, _field_value(CORRELATION_ID, reply.correlation_id))]
        return status, headers, reply.value if has_content else b""

    def _make(self, reply: Reply) -> _Made:
        status = 200
        once: dict[str, str] = {}
        told: HeaderList = []
        for cased_name, raw in reply.headers:
            name = cased_name.lower()
            value = _read(name, raw)
            if not value:
                continue
            if name in _OF_PARTS and unquoted(raw):
                raise _part(name)
            if name == STATUS:
                status = _status(value)
            elif name in ONCE:
                once[name] = _field_value(name, value)
            elif name in REPRESENTATION or name in self._allowed:
                if not _TOKEN(name):
                    raise BadReply(f"reply header name {name!r} is not a token (RFC 9110, 5.1)")
                told.append((name, _field_value(name, value)))
        has_content = status not in WITHOUT_CONTENT
        if reply.value and has_content:
            once.setdefault(CONTENT_TYPE, DEFAULT_CONTENT_TYPE)
        told += once.items()
        if not has_content:
            told = [header for header in told if header[0] not in ABOUT_CONTENT]
        self._check_size(told)
        return status, [_OUTCOME, *self._always, *told], has_content

    def _check_size(self, headers: HeaderList) -> None:
        size = sum(len(name) + len(value) + LINE_BYTES for name, value in headers)
        if size > self._max_header_bytes:
            most = f"{self._max_header_bytes} bytes (limits.max_reply_headers)"
            raise BadReply(f"expected reply headers of at most {most}, got {size}")

    def _remember(
        self, known: dict[tuple[tuple[str, bytes], ...], _Made], key: tuple[tuple[str, bytes], ...], made: _Made
    ) -> None:
        if sum(len(name) + len(value) for name, value in key) > REMEMBERED_BYTES_MAX:
            return
        if self.remembered >= REMEMBERED_MAX or self._memory.kinds >= REMEMBERED_TOGETHER_MAX:
            self._memory.kinds -= self.remembered
            self._made.clear()
            self._made_of_nothing.clear()
        known[key] = made
        self._memory.kinds += 1


def status_of(headers: Iterable[tuple[str, bytes]]) -> int:
    """The HTTP status of a reply, from its headers alone.

    Raises:
        BadReply: the status is none, or the reply is a part of a stream.
    """
    status = 200
    for cased_name, raw in headers:
        name = cased_name.lower()
        if name in _OF_PARTS and unquoted(raw):
            raise _part(name)
        if name == STATUS and (value := _read(STATUS, raw)):
            status = _status(value)
    return status


def _part(name: str) -> BadReply:
    return BadReply(
        f'expected a whole reply, got a part of a stream ({name!r}); only routes with reply = "stream" take it'
    )


def _read(name: str, value: bytes) -> bytes:
    """A header's value without the space around it, and without JSON quotes if the header cannot have quotes.

    Headers that the gateway only copies may need their quotes. So does an entity tag (RFC 9110, 8.8.3): in JSON it is
    quoted twice.
    """
    value = value.strip(b" \t")
    if not value.startswith(b'"') or (name != STATUS and name not in REPRESENTATION):
        return value
    inner = unquoted(value)
    return value if name == "etag" and not inner.endswith(b'"') else inner


def unquoted(value: bytes) -> bytes:
    """A header's value without the space around it and without JSON quotes.

    Some clients put every header in quotes (Spring's, with `encodeStrings`).
    """
    value = value.strip(b" \t")
    if not value.startswith(b'"'):
        return value
    try:
        text = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    inner: bytes = text.strip(" \t").encode()
    return inner


def _status(value: bytes) -> int:
    if len(value) == 3 and value.isdigit() and b"200" <= value <= b"599":
        return int(value)
    raise BadReply(f"reply header 'status' must be 200 to 599 as ASCII digits, got {value[:20]!r}")


def _field_value(name: str, value: bytes) -> str:
    """The value as text for HTTP, without space around it; one character is one byte."""
    if not _FIELD_VALUE(value):
        raise BadReply(f"reply header {name!r} has bytes that HTTP does not allow in a field value: {value[:40]!r}")
    return value.strip(b" \t").decode("latin-1")
