"""Throttling of repeated log lines. Time is an argument."""

from __future__ import annotations

import threading

PERIOD_NS = 10_000_000_000

Kind = tuple[str, ...]
"""Lines of equal kind are throttled together."""

_END_NS = 1 << 63


class Throttle:
    """Admits the first line of each kind at once, then at most one per period; counts the rest. For one thread."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._period_ns = period_ns
        self._kinds: dict[Kind, list[int]] = {}  # end of the period, number of lines held back

    def __repr__(self) -> str:
        return f"<Throttle {len(self._kinds)} kinds>"

    def admit(self, kind: Kind, now_ns: int) -> int:
        """The number of lines held back since the last line of this kind; -1: hold this line back too."""
        known = self._kinds.get(kind)
        if known is None:
            self._kinds[kind] = [now_ns + self._period_ns, 0]
            return 0
        if now_ns < known[0]:
            known[1] += 1
            return -1
        held_back, known[1] = known[1], 0
        known[0] = now_ns + self._period_ns
        return held_back

    def overdue(self, now_ns: int) -> list[tuple[Kind, int]]:
        """The kinds whose period has passed, with the number of their lines held back; they are forgotten."""
        ended = [(kind, known[1]) for kind, known in self._kinds.items() if known[0] <= now_ns]
        for kind, _ in ended:
            del self._kinds[kind]
        return [(kind, held_back) for kind, held_back in ended if held_back]

    def rest(self) -> list[tuple[Kind, int]]:
        """All kinds with lines held back, and their numbers; for the end of a process."""
        return self.overdue(_END_NS)

    def holds(self) -> bool:
        """Whether any lines are held back."""
        return any(held_back for _, held_back in self._kinds.values())


class SharedThrottle(Throttle):
    """A `Throttle` that any thread may call."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        super().__init__(period_ns)
        self._guard = threading.Lock()

    def admit(self, kind: Kind, now_ns: int) -> int:
        with self._guard:
            return super().admit(kind, now_ns)

    def overdue(self, now_ns: int) -> list[tuple[Kind, int]]:
        with self._guard:
            return super().overdue(now_ns)

    def holds(self) -> bool:
        with self._guard:
            return super().holds()


class Troubles:
    """Lasting problems: each is reported when it begins or changes, and not again while it stays the same."""

    def __init__(self) -> None:
        self._of: dict[Kind, str] = {}

    def __repr__(self) -> str:
        return f"<Troubles {self._of}>"

    def of(self, about: Kind) -> str:
        """The present problem with something; empty if there is none."""
        return self._of.get(about, "")

    def begins(self, about: Kind, trouble: str) -> bool:
        """Sets the problem with something (empty: none); True if it is new and must be reported."""
        before, self._of[about] = self.of(about), trouble
        return trouble not in ("", before)
