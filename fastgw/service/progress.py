"""The service's book-keeping: which offsets may be committed, and how many handlers run elsewhere."""

from __future__ import annotations

import threading
from collections import deque


class OffsetProgress:
    """Which records of one partition are settled: only what has no unsettled record before it may be committed.

    `start` and `committable` belong to the consumer's thread, `finish` to any.
    """

    __slots__ = ("_finished", "_next", "_open", "_stored")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # in order of offset, because records start in order
        self._finished: deque[int] = deque()
        self._next = -1
        self._stored = -1

    def start(self, offset: int) -> None:
        """A record is taken up; offsets only grow."""
        self._open[offset] = None
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """A record is settled: its reply is delivered, or it needs none."""
        self._finished.append(offset)

    def committable(self) -> int:
        """The offset to commit (that of the first record not settled), -1 when it is the same as last time."""
        while self._finished:
            self._open.pop(self._finished.popleft(), None)
        offset = next(iter(self._open), self._next)
        if offset == self._stored:
            return -1
        self._stored = offset
        return offset


class InHand:
    """Counts handlers that run elsewhere than on the consumer's thread, and lets that thread wait for them."""

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
        """How many more may start; 0 when nothing ended within the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit, timeout_s)
            return max(0, self._limit - self._count)

    def wait_until_none(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout_s)
