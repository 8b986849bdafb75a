"""One line of each kind in a while, and a count of those that were held back. Time is an argument."""

from __future__ import annotations

PERIOD_NS = 10_000_000_000

Kind = tuple[str, ...]
"""What makes two lines alike."""


class Throttle:
    """One line of each kind at once, then one a period at most; what is held back is counted."""

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

    def holds(self) -> bool:
        """Whether there are lines that nobody has been told of."""
        return any(held_back for _, held_back in self._kinds.values())
