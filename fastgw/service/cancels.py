"""Cancelled requests that this process has not seen, or not yet."""

from __future__ import annotations

REMEMBERED_MAX = 10_000


class Cancels:
    """The ids of requests that must not begin. Time is an argument. Used by one thread.

    A cancel record follows its request in the same partition. So its id is unknown if the handler has ended, which is
    the usual case, or if the request comes again because its offset was not committed.
    """

    def __init__(self) -> None:
        self._until_ns: dict[bytes, int] = {}  # the oldest first

    def __repr__(self) -> str:
        return f"<Cancels {len(self._until_ns)} remembered>"

    def remember(self, correlation_id: bytes, until_ns: int, now_ns: int) -> None:
        """Remembers an id; if there are too many, the oldest is forgotten."""
        while self._until_ns and (oldest := next(iter(self._until_ns))):
            if len(self._until_ns) < REMEMBERED_MAX and self._until_ns[oldest] > now_ns:
                break
            del self._until_ns[oldest]
        self._until_ns.pop(correlation_id, None)  # to put it at the end
        self._until_ns[correlation_id] = until_ns

    def take(self, correlation_id: bytes, now_ns: int) -> bool:
        """Whether a request was cancelled; forgets it."""
        return self._until_ns.pop(correlation_id, 0) > now_ns
