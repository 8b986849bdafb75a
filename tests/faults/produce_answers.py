"""Kafka's answers to Produce requests, changed on their way: a broker that has written a batch and says otherwise.

Only what is needed to find the error code is read: frames, the head of a request, and the beginning of an answer
(KIP-482 has the encoding of "flexible" versions). librdkafka asks for one partition of one topic at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PRODUCE = 0  # Kafka's number of the request
FLEXIBLE, BY_TOPIC_ID = 9, 13  # versions of Produce: lengths become varints; topics are named by their id
HEAD = struct.Struct(">hhi")  # of a request: its kind, version, correlation id
LENGTH, CORRELATION_ID, ERROR = struct.Struct(">i"), struct.Struct(">i"), struct.Struct(">h")
PARTITION_BYTES = 4


class ProduceAnswers:
    """What the answers say; shared by all connections, and used by their thread.

    Attributes:
        topic: whose answers are changed.
        code: the error that they get, ...
        count: ... and how many of those still to come; more than will ever come means all.
    """

    def __init__(self) -> None:
        self.topic = ""
        self.code = 0
        self.count = 0

    def change(self, frame: bytes, version: int) -> bytes:
        """An answer to a Produce request, without its length, as it is to arrive."""
        topic, at = topic_and_error(frame, version)
        if self.count <= 0 or topic != self.topic:
            return frame
        self.count -= 1
        return frame[:at] + ERROR.pack(self.code) + frame[at + ERROR.size :]


class Conversation:
    """One connection: knows which answers are those to Produce requests."""

    def __init__(self, answers: ProduceAnswers) -> None:
        self._answers = answers
        self._asked, self._answered = Frames(), Frames()
        self._versions: dict[int, int] = {}  # correlation id of a Produce request -> its version

    def ask(self, data: bytes) -> None:
        """The client has sent this."""
        for frame in self._asked.take(data):
            kind, version, correlation_id = HEAD.unpack_from(frame)
            if kind == PRODUCE:
                self._versions[correlation_id] = version

    def answer(self, data: bytes) -> bytes:
        """What the client gets when the broker has sent this: whole frames."""
        return b"".join(LENGTH.pack(len(frame)) + self._changed(frame) for frame in self._answered.take(data))

    def _changed(self, frame: bytes) -> bytes:
        version = self._versions.pop(CORRELATION_ID.unpack_from(frame)[0], None)
        return frame if version is None else self._answers.change(frame, version)


class Frames:
    """Cuts a stream into what stands between two lengths."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while len(self._rest) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) < end:
                return
            frame, self._rest = self._rest[LENGTH.size : end], self._rest[end:]
            yield frame


def topic_and_error(frame: bytes, version: int) -> tuple[str, int]:
    """The first topic of an answer to a Produce request, and where the error code of its first partition stands."""
    assert version < BY_TOPIC_ID, f"Produce {version} is not known here"
    at = CORRELATION_ID.size
    if version < FLEXIBLE:
        at += LENGTH.size  # how many topics
        (size,) = ERROR.unpack_from(frame, at)
        at += ERROR.size
        behind_name = LENGTH.size
    else:
        at += 1  # no tagged fields
        _, at = varint(frame, at)  # how many topics
        size, at = varint(frame, at)
        size -= 1
        behind_name = 1  # how many partitions: few
    return frame[at : at + size].decode(), at + size + behind_name + PARTITION_BYTES


def varint(frame: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint, and where it ends."""
    value = shift = 0
    while True:
        byte = frame[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
