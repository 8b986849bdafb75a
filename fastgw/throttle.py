"""Lines that would repeat: how often, and whether at all, each is told. Time is an argument."""

from __future__ import annotations

import threading

PERIOD_NS = 10_000_000_000

Kind = tuple[str, ...]
"""What makes two lines alike."""

_END_NS = 1 << 63


class Throttle:
    """One line of each kind at once, then one a period at most; what is held back is counted. For one thread."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._period_ns = period_ns
        self._kinds: dict[Kind, list[int]] = {}  # the end of its period, how many were held back

    def __repr__(self) -> str:
        return f"<Throttle {len(self._kinds)} kinds>"

    def admit(self, kind: Kind, now_ns: int) -> int:
        """How many of that kind were held back since its last line; -1: hold this one back as well."""
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
        """The kinds whose period has passed without a further line, and how many of each were held back."""
        ended = [(kind, known[1]) for kind, known in self._kinds.items() if known[0] <= now_ns]
        for kind, _ in ended:
            del self._kinds[kind]
        return [(kind, held_back) for kind, held_back in ended if held_back]

    def rest(self) -> list[tuple[Kind, int]]:
        """All kinds of which lines are held back, and how many; for the end of a process."""
        return self.overdue(_END_NS)

    def holds(self) -> bool:
        """Whether there are lines that nobody has been told of."""
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
    """Troubles that last: each is told when it begins or becomes another one, and not again while it stays the same."""

    def __init__(self) -> None:
        self._of: dict[Kind, str] = {}

    def __repr__(self) -> str:
        return f"<Troubles {self._of}>"

    def of(self, about: Kind) -> str:
        """The trouble with it; empty: none."""
        return self._of.get(about, "")

    def begins(self, about: Kind, trouble: str) -> bool:
        """Notes the trouble with something, or that there is none (empty); True when it is time to tell it."""
        before, self._of[about] = self.of(about), trouble
        return trouble not in ("", before)
