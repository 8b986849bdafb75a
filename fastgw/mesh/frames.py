"""Frames between the workers of one node: how a reply travels over a Unix socket to the worker that waits for it.

    u32 length of what follows | u8 kind | body                      all numbers big-endian

    REPLY body:
      u16 arrival partition | i64 offset | u16 header count
      u8 id length | correlation id
      for each header: u16 name length, name, u32 value length, value
      u32 value length | value

This module handles bytes; `links` has the sockets. Both ends are processes of one installation. Still the reader trusts
nothing: it checks each length against the frame that contains it before it copies anything.

During a reload the two ends can have different versions. So the reader skips and counts frames of an unknown kind; a
frame's length says where the next frame begins.
"""

from __future__ import annotations

import struct
from typing import Final

from fastgw.errors import FastgwError
from fastgw.messages import Reply

REPLY: Final = 1

MAX_FRAME_BYTES: Final = 16 << 20  # brokers refuse records of this size unless configured otherwise (default 1 MB)

_LENGTH = struct.Struct(">I")
_REPLY_HEAD = struct.Struct(">BHqH")  # kind, partition, offset, header count
_PREFIXED_HEAD = struct.Struct(">IBHqHB")  # frame length, the same fields, id length, packed in one call
_ID_LENGTH = struct.Struct(">B")
_NAME_LENGTH = struct.Struct(">H")
_VALUE_LENGTH = struct.Struct(">I")
_MIN_FRAME_BYTES = 1  # the kind
_MIN_REPLY_BYTES = _REPLY_HEAD.size + _ID_LENGTH.size + _VALUE_LENGTH.size


class FrameError(FastgwError):
    """A malformed frame; the text says what was expected, what was got, and where.

    `before` holds the replies that were complete before the malformed frame: they are valid and must be handled.
    """

    def __init__(self, text: str, before: list[Reply] | None = None) -> None:
        super().__init__(text)
        self.before = before or []


def encode(reply: Reply, max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Return the REPLY frame for `reply`, its length included.

    Raises:
        FrameError: the reply does not fit the format (id above 255 bytes, partition above 65535, a header name above
            65535 bytes, more than 65535 headers) or its frame would be longer than `max_frame_bytes`.
    """
    parts = [b"", reply.correlation_id]  # the head is filled in last, when the length is known
    for name, value in reply.headers:
        name_bytes = name.encode()
        if len(name_bytes) > 0xFFFF:
            raise FrameError(f"header name: expected at most 65535 bytes, got {len(name_bytes)}")
        parts += (_NAME_LENGTH.pack(len(name_bytes)), name_bytes, _VALUE_LENGTH.pack(len(value)), value)
    parts += (_VALUE_LENGTH.pack(len(reply.value)), reply.value)
    length = _REPLY_HEAD.size + _ID_LENGTH.size + sum(map(len, parts))
    if length > max_frame_bytes:
        raise FrameError(f"frame length: expected at most {max_frame_bytes} bytes, got {length}")
    try:
        parts[0] = _PREFIXED_HEAD.pack(
            length, REPLY, reply.partition, reply.offset, len(reply.headers), len(reply.correlation_id)
        )
    except struct.error as error:
        raise FrameError(
            "head: expected partition and header count in 0..65535, id length in 0..255,"
            f" got partition {reply.partition}, {len(reply.headers)} headers, id of {len(reply.correlation_id)} bytes"
        ) from error
    return b"".join(parts)


class FrameReader:
    """Decodes a byte stream, received in pieces of any size, into replies. One reader per connection.

    Attributes:
        skipped: frames of an unknown kind so far.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.skipped = 0
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # the start of a frame whose end has not come yet
        self._broken: str | None = None

    def __repr__(self) -> str:
        return f"<FrameReader pending={len(self._pending)} skipped={self.skipped} broken={self._broken!r}>"

    def feed(self, data: bytes) -> list[Reply]:
        """Take the next bytes of the stream; return the replies that are now complete, in order.

        Raises:
            FrameError: a frame is malformed. Its `before` holds the valid replies of these bytes. There is no way to
                find the next frame, so every later call raises, too: close the connection.
        """
        if self._broken is not None:
            raise FrameError(self._broken)
        self._pending += data
        replies: list[Reply] = []
        done = 0
        try:
            with memoryview(self._pending) as view:
                while (end := self._frame_end(view, done)) is not None:
                    start = done + _LENGTH.size
                    if view[start] == REPLY:
                        replies.append(_decode(view[start:end]))
                    else:
                        self.skipped += 1
                    done = end
        except FrameError as error:
            self._broken = str(error)
            self._pending = bytearray()  # a new object: the traceback still holds a view of the old one
            raise FrameError(self._broken, before=replies) from error
        del self._pending[:done]
        return replies

    def _frame_end(self, view: memoryview, start: int) -> int | None:
        """Where the frame at `start` ends; None while it is not complete."""
        if len(view) - start < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(view, start)
        # Checked before the frame is complete: a peer must not make this process wait for and store 4 GiB.
        if not _MIN_FRAME_BYTES <= length <= self._max_frame_bytes:
            raise FrameError(
                f"frame length: expected {_MIN_FRAME_BYTES} to {self._max_frame_bytes} bytes, got {length}"
            )
        end: int = start + _LENGTH.size + length
        return end if end <= len(view) else None


def _decode(frame: memoryview) -> Reply:
    if len(frame) < _MIN_REPLY_BYTES:
        raise FrameError(f"reply: expected at least {_MIN_REPLY_BYTES} bytes, got {len(frame)}")
    _kind, partition, offset, header_count = _REPLY_HEAD.unpack_from(frame)
    correlation_id, at = _take(frame, _REPLY_HEAD.size, _ID_LENGTH, "correlation id")
    headers: list[tuple[str, bytes]] = []
    for _ in range(header_count):
        name, at = _take(frame, at, _NAME_LENGTH, "header name")
        value, at = _take(frame, at, _VALUE_LENGTH, "header value")
        try:
            headers.append((name.decode(), value))
        except UnicodeDecodeError as error:
            raise FrameError(f"header name: expected UTF-8, got {name[:40]!r}") from error
    value, at = _take(frame, at, _VALUE_LENGTH, "value")
    if at != len(frame):
        raise FrameError(f"frame: expected its end after {at} bytes, got {len(frame) - at} more")
    return Reply(correlation_id, partition, offset, headers, value)


def _take(frame: memoryview, at: int, length_field: struct.Struct, what: str) -> tuple[bytes, int]:
    """Read a length at `at` and that many bytes after it; return the bytes and the position after them."""
    start = at + length_field.size
    if start > len(frame):
        raise FrameError(f"{what}: expected its length at byte {at}, got the end of the frame at {len(frame)}")
    (length,) = length_field.unpack_from(frame, at)
    end = start + length
    if end > len(frame):
        raise FrameError(f"{what}: expected {length} bytes at byte {start}, got {len(frame) - start}")
    return bytes(frame[start:end]), end
