"""A request body in chunks (RFC 9112, 7.1) of the express front, as it comes in.

llhttp reads it. A body in chunks ends with an empty line, so llhttp is fed from one empty line to the next: it never
sees a byte of the request behind the body, and where it has seen the end is where the next request begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from httptools import HttpRequestParser

from fastgw.http import heads
from fastgw.http._http1 import MessageEnd

OVERHEAD = 16  # chunk sizes, extensions and trailers, for each byte of body: 1-byte chunks have five


class ChunkedBody:
    """One body. `take` what has come of it until it `is_complete`.

    Attributes:
        content: what the chunks hold so far.
    """

    def __init__(self, head: bytes, end: MessageEnd) -> None:
        """
        Args:
            head: of the request; llhttp has accepted it already.
            end: is told by llhttp that the body is complete; nobody else may use it meanwhile.
        """
        self.content = bytearray()
        self._end = end
        self._wire_bytes = 0  # of the chunks, everything counted
        self._tail = b""  # the last bytes, which may be half of an empty line
        # The callbacks do not hold this object, or it and its parser would hold each other.
        self._feed: Any = HttpRequestParser(_Callbacks(self.content.extend, end.on_message_complete)).feed_data
        end.seen = False
        self._feed(heads.for_llhttp(head))

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "coming in"
        return f"<ChunkedBody {len(self.content)} bytes in {self._wire_bytes}, {state}>"

    @property
    def is_complete(self) -> bool:
        """The last chunk and the trailers have come."""
        return self._end.seen

    def take(self, data: bytes, at: int) -> int:
        """Takes of the body what `data` has from `at` on.

        Returns:
            Where it stopped: behind the body, or at the end of `data`.

        Raises:
            HttpParserError: these are no chunks. The rest of the connection cannot be read.
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
        """Whether chunk sizes, extensions and trailers are out of proportion; `free_bytes` of them always are not."""
        size = len(self.content)
        return self._wire_bytes - size > free_bytes + OVERHEAD * size


class _Callbacks:
    """What llhttp calls."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, on_body: Callable[[bytes], object], on_message_complete: Callable[[], object]) -> None:
        self.on_body = on_body
        self.on_message_complete = on_message_complete
