"""Deadlines without a timer for each: a periodic sweep finds the expired ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

SWEEP_S = 0.25  # between two sweeps of the fronts: the precision of their deadlines

Thing = TypeVar("Thing", bound=Hashable)


class Deadlines(Generic[Thing]):
    """A set of things with the same timeout, so they expire in the order in which they were added.

    The cost of a sweep depends on the number of expired things, not on the number of waiting ones.
    """

    __slots__ = ("_due", "_when_late", "timeout_s")

    def __init__(self, timeout_s: float, when_late: Callable[[Thing], None]) -> None:
        self.timeout_s = timeout_s
        self._when_late = when_late
        self._due: dict[Thing, float] = {}

    def __repr__(self) -> str:
        return f"<Deadlines {len(self._due)} things, {self.timeout_s:g} s each>"

    def __len__(self) -> int:
        return len(self._due)

    def add(self, thing: Thing, now: float) -> None:
        """Starts the deadline of a thing that has none; `now` never decreases from call to call."""
        self._due[thing] = now + self.timeout_s

    def discard(self, thing: Thing) -> None:
        """Removes the deadline of a thing, if it has one."""
        self._due.pop(thing, None)

    def expire(self, now: float) -> None:
        """Removes all expired things and calls `when_late` for each."""
        for thing in list(self._passed(now)):
            if self._due.pop(thing, None) is not None:  # a previous call may have removed it
                self._when_late(thing)

    def _passed(self, now: float) -> Iterator[Thing]:
        for thing, due in self._due.items():
            if due > now:
                return
            yield thing
