"""One streamed answer of the express front: a head, chunks as they come, and the last chunk (RFC 9112, 7.1).

It is always sent in chunks: without them, an answer that broke off would look complete to its client (RFC 9112,
section 8). Its body is not compressed: an encoder would hold back the items that it has not filled a block with, and
`no-transform` in the head forbids it to others as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from fastgw.http.heads import BadAnswer
from fastgw.messages import HeaderList

log = structlog.get_logger("fastgw.http")

LAST_CHUNK = b"0\r\n\r\n"

_WITHOUT_BODY = frozenset({204, 205, 304})


class Carrier(Protocol):
    """The connection, as its streamed answer sees it."""

    def answer_whole(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """Sends an ordinary answer. Ends the request."""

    def begin_stream(self, status: int, headers: HeaderList, request_id: bytes, framing: bytes, data: bytes) -> None:
        """Sends the head, which contains the header `framing`, and `data` behind it."""

    def write_stream(self, parts: Sequence[bytes]) -> None:
        """Sends these bytes, which follow each other."""

    def end_stream(self) -> None:
        """The answer is complete: continues with the next request."""

    def abort_stream(self) -> None:
        """The answer stays incomplete: ends the connection."""

    def is_behind(self) -> bool:
        """Whether data waits for the client in the transport."""


class StreamedAnswer:
    """Implements `admission.Sink`."""

    def __init__(self, carrier: Carrier, is_head: bool) -> None:
        """`is_head`: the request's method is HEAD, so the answer has no body."""
        self._carrier: Carrier | None = carrier  # None: it has ended, or its client has disconnected
        self._has_body = not is_head
        self._has_begun = False

    def __repr__(self) -> str:
        state = "ended" if self._carrier is None else "begun" if self._has_begun else "not begun"
        return f"<StreamedAnswer {state}>"

    def let_go(self) -> None:
        """The client has disconnected: further calls have no effect."""
        self._carrier = None

    # What the core calls.

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            assert not self._has_begun, "an answer that has begun cannot be replaced"
            carrier.answer_whole(status, headers, body, request_id)

    def begin(self, status: int, headers: HeaderList, request_id: bytes = b"", data: bytes = b"") -> bool:
        carrier = self._carrier
        if carrier is None:
            return True
        assert not self._has_begun, "an answer begins once"
        self._has_begun = True
        framing = b"transfer-encoding: chunked\r\n"
        if status in _WITHOUT_BODY:
            self._has_body = False
            framing = b"content-length: 0\r\n" if status == 205 else b""  # RFC 9112, 6.1 and 6.2: none with 204 and 304
        first = b"".join(_chunk(data)) if self._has_body else b""
        try:
            carrier.begin_stream(status, headers, request_id, framing, first)
        except BadAnswer as error:  # the core has checked it: this is the last look before the wire
            log.error("answer not sent", error=str(error))
            self._carrier = None
            carrier.answer_whole(500, [], b"", request_id)
            return True
        return not carrier.is_behind()

    def write(self, data: bytes) -> bool:
        carrier = self._carrier
        if carrier is None:
            return True
        assert self._has_begun, "the head comes first"
        if data and self._has_body:
            carrier.write_stream(_chunk(data))
        return not carrier.is_behind()

    def end(self, data: bytes = b"") -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is None:
            return
        assert self._has_begun, "the head comes first"
        if self._has_body:
            carrier.write_stream([*_chunk(data), LAST_CHUNK])
        carrier.end_stream()

    def abort(self) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.abort_stream()


def _chunk(data: bytes) -> list[bytes]:
    """The parts of the chunk with this data; nothing for no data, because an empty chunk is the last one."""
    return [b"%x\r\n" % len(data), data, b"\r\n"] if data else []
