"""How many bytes of request bodies one worker holds while they come in, and how many of one connection.

A body is in memory from its first byte until it is complete and its record is in the Kafka client's queue, which has a
limit of its own. Without this limit the product of connections, streams and `max_body` would be the limit: a single
HTTP/2 connection can have 1,000 bodies under way.

A body takes what has come of it, not what it declared: else 64 heads that declare 1 MiB each, and nothing behind them,
would keep every other body out for as long as `body_timeout`. A body that cannot fit even now is refused at its head.
There is no queue: the request whose next part does not fit is refused (503, nothing is recorded), and can be repeated.
"""

from __future__ import annotations

from collections.abc import Hashable


class BodyMemory:
    """The bodies that are coming in to one worker, on all of its listeners."""

    __slots__ = ("_of_connections", "connection_max_bytes", "held_bytes", "max_bytes")

    def __init__(self, max_bytes: int, connection_max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.connection_max_bytes = connection_max_bytes
        self.held_bytes = 0
        self._of_connections: dict[Hashable, int] = {}

    def __repr__(self) -> str:
        return f"<BodyMemory {self.held_bytes} of {self.max_bytes} bytes, {len(self._of_connections)} connections>"

    def has_room(self, size_bytes: int, connection: Hashable = None) -> bool:
        """Whether so much more would fit now."""
        if self.held_bytes + size_bytes > self.max_bytes:
            return False
        return connection is None or self._of_connections.get(connection, 0) + size_bytes <= self.connection_max_bytes

    def take(self, size_bytes: int, connection: Hashable = None) -> bool:
        """Takes room for a part of a body; False if there is none. `give` it back.

        Args:
            size_bytes: how much.
            connection: names the connection where several bodies can come in on one; None where only one can.
        """
        if not self.has_room(size_bytes, connection):
            return False
        if connection is not None and size_bytes:
            self._of_connections[connection] = self._of_connections.get(connection, 0) + size_bytes
        self.held_bytes += size_bytes
        return True

    def give(self, size_bytes: int, connection: Hashable = None) -> None:
        """Gives back what was taken, all at once or in parts."""
        self.held_bytes -= size_bytes
        if connection is not None:
            left = self._of_connections[connection] - size_bytes
            if left:
                self._of_connections[connection] = left
            else:
                del self._of_connections[connection]

    def why_full(self, size_bytes: int, connection: Hashable = None) -> str:
        """What to tell a client whose body of this size does not fit."""
        if self.held_bytes + size_bytes > self.max_bytes:
            return f"this worker takes in at most {self.max_bytes} bytes of request bodies at once; send it again later"
        assert connection is not None, "a connection with one body has no limit of its own"
        limit = f"one connection may send at most {self.connection_max_bytes} bytes of request bodies at once"
        return f"{limit}; send it again later"
