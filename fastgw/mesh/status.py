"""What a worker says about its streams when it is asked: the frames STATUS and STREAMS.

    admin port                       worker, on the socket for its siblings
      STATUS                ──>
                            <──      STREAMS   MessagePack of `OpenStreams`

A connection carries either one question or the replies of a sibling. The admin port asks all workers at the same time,
and does without those that do not answer in time: it works while workers hang.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from fastgw.mesh import unix_sockets
from fastgw.mesh.framing import LENGTH, FrameError, FrameReader
from fastgw.open_streams import OpenStreams

STATUS: Final = 4  # the kinds 1 to 15 are for the sockets of workers
STREAMS: Final = 5
READ_BYTES = 256 << 10

QUESTION: Final = LENGTH.pack(1) + bytes((STATUS,))

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(OpenStreams).decode


def encode(streams: OpenStreams) -> bytes:
    """The answer, a STREAMS frame."""
    body = _pack(streams)
    return b"".join((LENGTH.pack(1 + len(body)), bytes((STREAMS,)), body))


def reader() -> FrameReader[OpenStreams]:
    """A reader of answers."""
    return FrameReader({STREAMS: _decode})


def _decode(frame: memoryview) -> OpenStreams:
    try:
        return _unpack(frame[1:])
    except (msgspec.DecodeError, ValueError) as error:
        raise FrameError(f"streams: {error}") from error


def ask(paths: Sequence[Path], limit_s: float) -> list[OpenStreams | None]:
    """Ask the workers that listen at these paths; None: there is no answer, or none within `limit_s`."""
    questions = [_Question(path) for path in paths]
    ends_s = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        for question in questions:
            if question.stream is not None:
                selector.register(question.stream, selectors.EVENT_READ, question)
        while selector.get_map() and (left_s := ends_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                if key.data.is_over():
                    selector.unregister(key.fileobj)
    for question in questions:
        question.close()
    return [question.answer for question in questions]


class _Question:
    """A question to one worker."""

    def __init__(self, path: Path) -> None:
        self.answer: OpenStreams | None = None
        self.stream: socket.socket | None = None
        self._reader = reader()
        try:
            self.stream = unix_sockets.connected(path)
            self.stream.send(QUESTION)
        except OSError:
            self.close()  # it has ended, or will be asked in vain

    def is_over(self) -> bool:
        """Read what has come. True: nothing more will."""
        assert self.stream is not None, "it was asked"
        try:
            data = self.stream.recv(READ_BYTES)
            answers = self._reader.feed(data)
        except (OSError, FrameError):
            return True
        if answers:
            self.answer = answers[0]
        return bool(answers) or not data

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
