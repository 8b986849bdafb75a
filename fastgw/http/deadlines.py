"""Things that may take only so long, without a timer for each: one sweep asks which have taken longer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

SWEEP_S = 0.25  # between two sweeps of the fronts: the precision of their deadlines

Thing = TypeVar("Thing", bound=Hashable)


class Deadlines(Generic[Thing]):
    """All its things get the same time, so the order in which they came is the order in which they go.

    A sweep costs what is late, not what waits.
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
        """Its time begins; `now` never goes back from one call to the next. It must not be in here already."""
        self._due[thing] = now + self.timeout_s

    def discard(self, thing: Thing) -> None:
        """It has no deadline any more; no harm if it had none."""
        self._due.pop(thing, None)

    def expire(self, now: float) -> None:
        """Forgets everything whose time has passed, calling `when_late` for each."""
        for thing in list(self._passed(now)):
            if self._due.pop(thing, None) is not None:  # the call for one may have ended another
                self._when_late(thing)

    def _passed(self, now: float) -> Iterator[Thing]:
        for thing, due in self._due.items():
            if due > now:
                return
            yield thing
