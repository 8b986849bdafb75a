"""What a handler yields, as bytes for records."""

from __future__ import annotations

from typing import Any

import orjson

from fastgw.service.messages import BYTES, Reply, ReplyHeaders, reply_headers

_BYTES = (bytes, bytearray, memoryview)


class ItemEncoder:
    """Encodes the items of one run of a handler. The first item decides: a stream of bytes, or of JSON.

    The first value may be a `Reply`. Its status and headers are those of the answer. Its body, unless None, is the
    first item.

    Attributes:
        is_bytes: whether the items are bytes.
    """

    def __init__(self, correlation_id: bytes) -> None:
        self._correlation_id = correlation_id
        self._status = 200
        self._headers: ReplyHeaders | None = None
        self._has_begun = False
        self._has_items = False
        self.is_bytes = False

    def encode(self, yielded: Any) -> bytes:
        """One value; b"" if it holds no item.

        Raises:
            TypeError, ValueError: the value cannot be sent; the text says why.
        """
        if isinstance(yielded, Reply):
            self._take_head(yielded)
            if yielded.body is None:
                return b""
            yielded = yielded.body
        self._has_begun = True
        is_bytes = isinstance(yielded, _BYTES)
        if is_bytes is not self.is_bytes:
            self._decide(yielded)
        self._has_items = True
        return bytes(yielded) if is_bytes else orjson.dumps(yielded)

    def head(self, json_type: bytes) -> list[tuple[str, bytes]]:
        """The headers of the first record: those of an ordinary reply.

        Args:
            json_type: the content type of JSON items, unless the handler gave another one.
        """
        default = BYTES if self.is_bytes else json_type
        return reply_headers(self._correlation_id, default, self._status, self._headers)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self._status

    def _take_head(self, reply: Reply) -> None:
        if self._has_begun:
            raise TypeError("a Reply may only be the first value of a stream: its status and headers go out first")
        self._has_begun = True
        # A Reply without body has 204 by default, which would be an answer without items.
        self._status = 200 if reply.body is None and reply.status == 204 else reply.status
        self._headers = reply.headers
        self.head(b"")  # raises if they cannot be sent

    def _decide(self, item: Any) -> None:
        if self._has_items:
            expected = "bytes, like the items before" if self.is_bytes else "JSON values, like the items before"
            raise TypeError(f"a stream is either of bytes or of JSON: expected {expected}, got {type(item).__name__}")
        self.is_bytes = True
