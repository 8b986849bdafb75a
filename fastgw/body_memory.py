"""Limits the memory for bodies in transit, for each worker and for each connection: request bodies, and answers.

A request body is in memory from its first byte until it is complete and its record is in the Kafka client's queue,
which has its own limit. Without this limit, memory would be bounded only by connections times streams times `max_body`:
a single HTTP/2 connection can have 1,000 incoming bodies.

A body uses the bytes received so far, not its declared length. Otherwise 64 heads that declare 1 MiB each, without any
body, would keep out all other bodies until `body_timeout`. A body whose declared length does not fit at present is
refused at its head. There is no queue: a request whose next part does not fit is refused (503, not recorded), and can
be sent again.

An answer is in memory until its client has read it, or until the kernel has the rest. Without a limit, a client that
sends 1,000 requests on one HTTP/2 connection and reads nothing would use 1,000 times `max_reply`. So a large reply that
does not fit beside the unread answers is dropped, and its client is told so (502, recorded).
"""

from __future__ import annotations

import sys
from collections.abc import Hashable

# Smaller answers are always sent: they are bounded by their number. The fronts say how: `express.py`, `granian.py`.
LARGE_ANSWER_BYTES = 16_384


class BodyMemory:
    """The incoming bodies of one worker, on all of its listeners."""

    __slots__ = ("_of_connections", "connection_max_bytes", "held_bytes", "max_bytes")

    def __init__(self, max_bytes: int, connection_max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.connection_max_bytes = connection_max_bytes
        self.held_bytes = 0
        self._of_connections: dict[Hashable, int] = {}

    def __repr__(self) -> str:
        held = f"{self.held_bytes} of {self.max_bytes} bytes, {len(self._of_connections)} connections"
        return f"<{type(self).__name__} {held}>"

    def has_room(self, size_bytes: int, connection: Hashable = None) -> bool:
        """Whether this many more bytes would fit now."""
        if self.held_bytes + size_bytes > self.max_bytes:
            return False
        return connection is None or self._of_connections.get(connection, 0) + size_bytes <= self.connection_max_bytes

    def take(self, size_bytes: int, connection: Hashable = None) -> bool:
        """Reserves memory for a part of a body; False if there is not enough. `give` releases it.

        Args:
            size_bytes: size of the part.
            connection: identifies the connection if it can carry several bodies at once; else None.
        """
        if not self.has_room(size_bytes, connection):
            return False
        self.hold(size_bytes, connection)
        return True

    def hold(self, size_bytes: int, connection: Hashable = None) -> None:
        """Counts memory that is in use already, whether there is room for it or not. `give` releases it."""
        if connection is not None and size_bytes:
            self._of_connections[connection] = self._of_connections.get(connection, 0) + size_bytes
        self.held_bytes += size_bytes

    def give(self, size_bytes: int, connection: Hashable = None) -> None:
        """Releases reserved memory, at once or in parts."""
        self.held_bytes -= size_bytes
        if connection is not None:
            left = self._of_connections[connection] - size_bytes
            if left:
                self._of_connections[connection] = left
            else:
                del self._of_connections[connection]

    def why_full(self, size_bytes: int, connection: Hashable = None) -> str:
        """The problem detail for a body of this size that does not fit."""
        if self.held_bytes + size_bytes > self.max_bytes:
            return f"this worker holds at most {self.max_bytes} bytes of request bodies at once; send it again later"
        assert connection is not None, "a connection with one body has no limit of its own"
        limit = f"one connection may send at most {self.connection_max_bytes} bytes of request bodies at once"
        return f"{limit}; send it again later"


class AnswerMemory(BodyMemory):
    """The answers of one worker that their clients have not read, on all of its listeners."""

    __slots__ = ()

    def __init__(self, max_bytes: int = sys.maxsize, connection_max_bytes: int = sys.maxsize) -> None:
        super().__init__(max_bytes, connection_max_bytes)

    def why_full(self, size_bytes: int, connection: Hashable = None) -> str:
        """The problem detail for an answer of this size that does not fit."""
        if self.held_bytes + size_bytes > self.max_bytes:
            limit = f"this worker holds at most {self.max_bytes} bytes of answers that clients have not read"
        else:
            assert connection is not None, "a connection with one answer has no limit of its own"
            limit = f"one connection may have at most {self.connection_max_bytes} bytes of answers that are not read"
        return f"{limit}; a reply of {size_bytes} bytes did not fit and was dropped"
