"""Bookkeeping of the service: which offsets may be committed, and how many handlers run on other threads."""

from __future__ import annotations

import threading
from collections import deque


class OffsetProgress:
    """The settled records of one partition. Only records without an unsettled record before them may be committed.

    Only the consumer's thread may call `start` and `committable`; any thread may call `finish`.
    """

    __slots__ = ("_finished", "_next", "_open", "_stored")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # in order of offset, because records start in order
        self._finished: deque[int] = deque()
        self._next = -1
        self._stored = -1

    def start(self, offset: int) -> None:
        """The work on a record begins; offsets only grow."""
        self._open[offset] = None
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """A record is settled: its reply is delivered, or it needs no reply."""
        self._finished.append(offset)

    def committable(self) -> int:
        """The offset to commit (that of the first record not settled), -1 if it has not changed."""
        while self._finished:
            self._open.pop(self._finished.popleft(), None)
        offset = next(iter(self._open), self._next)
        if offset == self._stored:
            return -1
        self._stored = offset
        return offset


class InHand:
    """Counts the handlers on other threads, so that the consumer's thread can wait for them."""

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._count = 0  # guarded by _changed

    def enter(self) -> None:
        with self._changed:
            self._count += 1

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def wait_for_room(self, timeout_s: float) -> int:
        """Waits until handlers may start and returns how many; 0 after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit, timeout_s)
            return max(0, self._limit - self._count)

    def wait_until_none(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout_s)
