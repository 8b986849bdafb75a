"""Limits the memory for incoming request bodies, for each worker and for each connection.

A body is in memory from its first byte until it is complete and its record is in the Kafka client's queue, which has
its own limit. Without this limit, memory would be bounded only by connections times streams times `max_body`: a single
HTTP/2 connection can have 1,000 incoming bodies.

A body uses the bytes received so far, not its declared length. Otherwise 64 heads that declare 1 MiB each, without any
body, would keep out all other bodies until `body_timeout`. A body whose declared length does not fit at present is
refused at its head. There is no queue: a request whose next part does not fit is refused (503, not recorded), and can
be sent again.
"""

from __future__ import annotations

from collections.abc import Hashable


class BodyMemory:
    """The incoming bodies of one worker, on all of its listeners."""

    __slots__ = ("_of_connections", "connection_max_bytes", "held_bytes", "max_bytes")

    def __init__(self, max_bytes: int, connection_max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.connection_max_bytes = connection_max_bytes
        self.held_bytes = 0
        self._of_connections: dict[Hashable, int] = {}

    def __repr__(self) -> str:
        return f"<BodyMemory {self.held_bytes} of {self.max_bytes} bytes, {len(self._of_connections)} connections>"

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
        if connection is not None and size_bytes:
            self._of_connections[connection] = self._of_connections.get(connection, 0) + size_bytes
        self.held_bytes += size_bytes
        return True

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
