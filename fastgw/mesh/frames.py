"""Frames between the workers of one node: how a reply travels over a Unix socket to the worker that waits for it.

`framing` has the format of a frame. Numbers are big-endian.

    REPLY body:
      u16 arrival partition | i64 offset | u16 header count
      u8 id length | correlation id
      for each header: u16 name length, name, u32 value length, value
      u32 value length | value
    STATUS has no body: `status` has the answer.

This module handles bytes; `links` has the sockets.
"""

from __future__ import annotations

import struct
from typing import Final

from fastgw.mesh.framing import MAX_FRAME_BYTES, FrameError, FrameReader
from fastgw.mesh.status import STATUS
from fastgw.messages import Reply

REPLY: Final = 1
ASKED: Final = Reply(b"", -1, -1, [], b"")  # what a STATUS frame is read as

_REPLY_HEAD = struct.Struct(">BHqH")  # kind, partition, offset, header count
_PREFIXED_HEAD = struct.Struct(">IBHqHB")  # frame length, the same fields, id length, packed in one call
_ID_LENGTH = struct.Struct(">B")
_NAME_LENGTH = struct.Struct(">H")
_VALUE_LENGTH = struct.Struct(">I")
_MIN_REPLY_BYTES = _REPLY_HEAD.size + _ID_LENGTH.size + _VALUE_LENGTH.size


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


def reader(max_frame_bytes: int = MAX_FRAME_BYTES) -> FrameReader[Reply]:
    """A reader of the frames between workers."""
    return FrameReader({REPLY: _decode, STATUS: lambda _frame: ASKED}, max_frame_bytes)


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
