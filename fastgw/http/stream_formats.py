"""How the items of a streamed answer look to its client: events, lines, an array, or the bytes of the service.

Each format is an encoder of one answer. It makes bytes and has no I/O. What cannot be said within a format is said by
an incomplete answer (`admission.Sink.abort`): an array or the bytes of a service have no place for an error.

    format        items                   success                     failure
    ────────────  ──────────────────────  ──────────────────────────  ──────────────────────────────────────
    EventStream   one event each          event `end`                 event `error`
    JsonLines     one line each           a last line, if `end_line`  a last line
    JsonArray     elements of one array   the array ends              the answer is incomplete
    RawBytes      as the service sent     the answer ends             the answer is incomplete

None is compressed: see `streamed_answer`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from fastgw.http import sse
from fastgw.http.negotiation import VARY_ACCEPT
from fastgw.messages import HeaderList

EVENT_STREAM, NDJSON, JSONL, JSON = "text/event-stream", "application/x-ndjson", "application/jsonl", "application/json"
OFFERS = (NDJSON, EVENT_STREAM, JSONL, JSON)
"""The formats for JSON items. The first is for clients that accept anything: its failures are visible in it."""

STREAM_HEADERS: HeaderList = [
    ("incremental", "?1"),  # draft-ietf-httpbis-incremental: intermediaries pass on what they have
    ("x-accel-buffering", "no"),  # the same for nginx
    ("cache-control", "no-cache, no-transform"),
]

_ENCODE = msgspec.json.Encoder().encode


class BadItems(ValueError):
    """The items of a record are not as many as it says, or one of them is empty; the text says what was expected."""


class StreamFormat(Protocol):
    """Encodes one streamed answer. `first`, any of the others, and at last one of `end` and `error`."""

    @property
    def has_events(self) -> bool:
        """The client is an `EventSource`: it has positions, and is kept alive by comments."""

    def head_headers(self) -> HeaderList:
        """The headers of the answer that depend on the format."""

    def first(self, is_followed: bool = False) -> bytes:
        """Sent with the head.

        Args:
            is_followed: an item or the end comes at once. Otherwise there are some bytes in any case, so that clients
                and proxies see the beginning of the answer before its first item.
        """

    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes:
        """Items of one record.

        Args:
            payload: `count` JSON values, joined with LF. For `RawBytes` any bytes.
            count: 1 or more.
            first_index: of the first one in the stream, from 0.
            id_prefix: see `sse.messages`; only events have ids.

        Raises:
            BadItems: `payload` does not have `count` items. Nothing has changed.
        """

    def comment(self) -> bytes:
        """Shows that the stream is alive; b"": this format has nothing for it."""

    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes:
        """The stream is complete with `total` items.

        Args:
            outcome: as in the header `fastgw-outcome`.
            event_id: the client's last position, for which the next request gets 204; see `sse.event`.
        """

    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None:
        """The stream fails, with this problem document. None: the format cannot say it, so the answer must be aborted.

        Args:
            outcome, event_id: as for `end`.
        """


class _End(msgspec.Struct, omit_defaults=True):
    """The last thing that a client gets to see. `problem` is there only after a failure."""

    end: bool
    items: int
    outcome: str
    problem: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _EndLine(msgspec.Struct):
    fastgw: _End


class EventStream:
    """`text/event-stream`: server-sent events."""

    has_events = True

    def __init__(self, retry_ms: int | None = None, event_id: bytes | None = None) -> None:
        """
        Args:
            retry_ms: how long the client waits before it connects again; None: as long as it likes.
            event_id: the client's position before the first item, so that it can resume a stream without items.
        """
        self._retry_ms = retry_ms
        self._event_id = event_id

    def head_headers(self) -> HeaderList:
        return _headers(EVENT_STREAM)

    def first(self, is_followed: bool = False) -> bytes:
        retry = b"" if self._retry_ms is None else sse.retry(self._retry_ms)
        position = b"" if self._event_id is None else sse.event(b"", event_id=self._event_id)
        return retry + position or (b"" if is_followed else sse.COMMENT)

    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes:
        _check(payload, count)
        items = payload.split(b"\n")
        if b"\r" not in payload:  # the likely case
            return sse.messages(items, first_index, id_prefix)
        numbered = enumerate(items, first_index)
        return b"".join(
            [sse.event(item, event_id=b"%b%d" % (id_prefix, at) if id_prefix else None) for at, item in numbered]
        )

    def comment(self) -> bytes:
        return sse.COMMENT

    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes:
        return sse.event(_ENCODE(_End(True, total, outcome)), b"end", event_id)

    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None:  # noqa: ARG002
        return sse.event(problem, b"error", event_id)

    def pause(self, retry_ms: int) -> bytes:
        """The last bytes of an answer whose stream goes on: the client connects again, and resumes."""
        return sse.retry(retry_ms)

    def resync(self, problem: bytes) -> bytes:
        """The client's position cannot be used: it forgets it, and must begin anew."""
        return sse.event(problem, b"resync", b"")


class JsonLines:
    """`application/x-ndjson`, `application/jsonl`: one JSON value on each line."""

    has_events = False

    def __init__(self, media_type: str = NDJSON, end_line: bool = False) -> None:
        """`end_line`: a complete stream ends with a line of the gateway as well, so that a cut at a line is noticed."""
        self._media_type = media_type
        self._end_line = end_line
        self._items = 0

    def head_headers(self) -> HeaderList:
        return _headers(self._media_type)

    def first(self, is_followed: bool = False) -> bytes:
        # JSON ignores a space in front of the first value; not all readers of lines ignore an empty one.
        return b"" if is_followed else b" "

    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes:  # noqa: ARG002
        _check(payload, count)
        self._items = first_index + count
        return payload + b"\n"

    def comment(self) -> bytes:
        return b""

    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes:  # noqa: ARG002
        return self._line(_End(True, total, outcome)) if self._end_line else b""

    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None:  # noqa: ARG002
        return self._line(_End(True, self._items, outcome, msgspec.Raw(_in_one_line(problem))))

    def _line(self, end: _End) -> bytes:
        return _ENCODE(_EndLine(end)) + b"\n"


class JsonArray:
    """`application/json`: one array. A client that reads it whole cannot tell that it was streamed."""

    has_events = False

    def __init__(self) -> None:
        self._separator = b""

    def head_headers(self) -> HeaderList:
        return _headers(JSON)

    def first(self, is_followed: bool = False) -> bytes:  # noqa: ARG002
        return b"["

    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes:  # noqa: ARG002
        _check(payload, count)
        separator, self._separator = self._separator, b",\n"
        return separator + payload.replace(b"\n", b",\n")

    def comment(self) -> bytes:
        return b""

    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes:  # noqa: ARG002
        return b"]\n"

    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None:  # noqa: ARG002
        return None


class RawBytes:
    """The bytes and the content type of the service."""

    has_events = False

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type

    def head_headers(self) -> HeaderList:
        return [("content-type", self._content_type), *STREAM_HEADERS]

    def first(self, is_followed: bool = False) -> bytes:  # noqa: ARG002
        return b""

    def items(self, payload: bytes, count: int, first_index: int, id_prefix: bytes = b"") -> bytes:  # noqa: ARG002
        return payload

    def comment(self) -> bytes:
        return b""

    def end(self, total: int, outcome: str, event_id: bytes | None = None) -> bytes:  # noqa: ARG002
        return b""

    def error(self, problem: bytes, outcome: str, event_id: bytes | None = None) -> bytes | None:  # noqa: ARG002
        return None


def _headers(media_type: str) -> HeaderList:
    return [("content-type", media_type), *STREAM_HEADERS, *VARY_ACCEPT]


def _check(payload: bytes, count: int) -> None:
    """Raises BadItems if the payload does not have `count` items, or if one of them is empty.

    Whether each of them is JSON is not checked here: an item that is not would break an array.
    """
    got = payload.count(b"\n") + 1
    if got != count:
        raise BadItems(f"expected {count} items joined with LF, got {got}")
    if not payload or payload.startswith(b"\n") or payload.endswith(b"\n") or b"\n\n" in payload:
        raise BadItems("expected items that are JSON, got an empty one")


def _in_one_line(document: bytes) -> bytes:
    """The same JSON without line ends. A document that is not JSON becomes a string with its text."""
    text = document.decode(errors="replace")
    try:
        return msgspec.json.format(text, indent=-1).encode()
    except msgspec.DecodeError:
        return _ENCODE(text)
