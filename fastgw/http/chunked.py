"""Incoming chunked request bodies (RFC 9112, 7.1) of the express front.

llhttp parses them. A chunked body ends with an empty line, so llhttp is fed from one empty line to the next. So it
never sees a byte of the next request, and the next request begins where llhttp has seen the end of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from httptools import HttpRequestParser

from fastgw.http import heads
from fastgw.http._http1 import MessageEnd

OVERHEAD = 16  # allowed bytes of sizes, extensions and trailers for each byte of body: 1-byte chunks have five


class ChunkedBody:
    """One body. Call `take` with new bytes until it `is_complete`.

    Attributes:
        content: the data of the chunks so far.
    """

    def __init__(self, head: bytes, end: MessageEnd) -> None:
        """
        Args:
            head: the head of the request, which llhttp has already accepted.
            end: llhttp reports the end of the body to it; it must not be used elsewhere meanwhile.
        """
        self.content = bytearray()
        self._end = end
        self._wire_bytes = 0  # everything received, with sizes, extensions and trailers
        self._tail = b""  # the last bytes, which may be part of an empty line
        # The callbacks must not refer to this object, or it and its parser would form a reference cycle.
        self._feed: Any = HttpRequestParser(_Callbacks(self.content.extend, end.on_message_complete)).feed_data
        end.seen = False
        self._feed(heads.for_llhttp(head))

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "coming in"
        return f"<ChunkedBody {len(self.content)} bytes in {self._wire_bytes}, {state}>"

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk and the trailers have arrived."""
        return self._end.seen

    def take(self, data: bytes, at: int) -> int:
        """Takes the part of the body in `data`, from `at` on.

        Returns:
            The end of the part: after the body, or the end of `data`.

        Raises:
            HttpParserError: the chunks are malformed. The rest of the connection cannot be read.
        """
        joined = self._tail + data[at:]
        view = memoryview(joined)
        start, searched = len(self._tail), 0
        while start < len(joined) and not self._end.seen:
            found = joined.find(heads.HEAD_END, searched)
            end = searched = found + 4 if found >= 0 else len(joined)
            self._feed(view[start:end])
            self._wire_bytes += end - start
            start = end
        at += start - len(self._tail)
        self._tail = joined[max(0, start - 3) : start]
        return at

    def is_bloated(self, free_bytes: int) -> bool:
        """Whether sizes, extensions and trailers are out of proportion; `free_bytes` of them are always allowed."""
        size = len(self.content)
        return self._wire_bytes - size > free_bytes + OVERHEAD * size


class _Callbacks:
    """The callbacks of llhttp."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, on_body: Callable[[bytes], object], on_message_complete: Callable[[], object]) -> None:
        self.on_body = on_body
        self.on_message_complete = on_message_complete
