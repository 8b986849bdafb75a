"""The format of all frames between the processes of one node, and the reader of a stream of frames.

    u32 length of what follows | u8 kind | body                      the length is big-endian

Both ends of a connection are processes of one installation. Still the reader trusts nothing: it checks each length
against the frame that contains it before it copies anything.

During a reload the two ends can have different versions. So the reader skips and counts frames of an unknown kind; a
frame's length says where the next frame begins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from fastgw.errors import FastgwError

MAX_FRAME_BYTES: Final = 16 << 20  # brokers refuse records of this size unless configured otherwise (default 1 MB)

LENGTH: Final = struct.Struct(">I")
_MIN_FRAME_BYTES = 1  # the kind

Content = TypeVar("Content")


class FrameError(FastgwError):
    """A malformed frame; the text says what was expected, what was got, and where.

    `before` holds the contents of the frames before the malformed one: they are valid and must be handled.
    """

    def __init__(self, text: str, before: list[Any] | None = None) -> None:
        super().__init__(text)
        self.before = before or []


class FrameReader(Generic[Content]):
    """Decodes a byte stream, received in pieces of any size, into the contents of its frames. One per connection.

    Attributes:
        skipped: frames of an unknown kind so far.
    """

    def __init__(
        self, decoders: Mapping[int, Callable[[memoryview], Content]], max_frame_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        """
        Args:
            decoders: by kind; each gets the frame without its length, and raises FrameError.
        """
        self.skipped = 0
        self._decoders = decoders
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # the start of a frame whose end has not come yet
        self._broken: str | None = None

    def __repr__(self) -> str:
        return f"<FrameReader pending={len(self._pending)} skipped={self.skipped} broken={self._broken!r}>"

    def feed(self, data: bytes) -> list[Content]:
        """Take the next bytes of the stream; return what is now complete, in order.

        Raises:
            FrameError: a frame is malformed. Its `before` holds the contents of the valid frames of these bytes. There
                is no way to find the next frame, so every later call raises, too: close the connection.
        """
        if self._broken is not None:
            raise FrameError(self._broken)
        self._pending += data
        contents: list[Content] = []
        done = 0
        try:
            with memoryview(self._pending) as view:
                while (end := self._frame_end(view, done)) is not None:
                    start = done + LENGTH.size
                    decode = self._decoders.get(view[start])
                    if decode is not None:
                        contents.append(decode(view[start:end]))
                    else:
                        self.skipped += 1
                    done = end
        except FrameError as error:
            self._broken = str(error)
            self._pending = bytearray()  # a new object: the traceback still holds a view of the old one
            raise FrameError(self._broken, before=contents) from error
        del self._pending[:done]
        return contents

    def _frame_end(self, view: memoryview, start: int) -> int | None:
        """Where the frame at `start` ends; None while it is not complete."""
        if len(view) - start < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(view, start)
        # Checked before the frame is complete: a peer must not make this process wait for and store 4 GiB.
        if not _MIN_FRAME_BYTES <= length <= self._max_frame_bytes:
            raise FrameError(
                f"frame length: expected {_MIN_FRAME_BYTES} to {self._max_frame_bytes} bytes, got {length}"
            )
        end: int = start + LENGTH.size + length
        return end if end <= len(view) else None
