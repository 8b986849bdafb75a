"""How many deferred requests of each route this node has taken whose status URLs are still valid.

A reply does not name its route. So the worker that takes a request names it, and the count is that of its node since
the store has started. A request whose worker connects again while it waits is counted twice.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

STEP_MS: Final = 10_000  # requests of so many milliseconds are forgotten together


class Deferred:
    """The counts. Times are those of this node, in ms since 1970."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._steps: deque[tuple[int, Counter[str]]] = deque()  # each with its beginning, the oldest first

    def __repr__(self) -> str:
        return f"<Deferred {self._counts.total()} of {len(self._counts)} routes>"

    def __getitem__(self, route: str) -> int:
        return self._counts[route]

    def add(self, route: str, now_ms: int) -> None:
        """A request was taken."""
        if not self._steps or now_ms >= self._steps[-1][0] + STEP_MS:
            self._steps.append((now_ms, Counter()))
        self._steps[-1][1][route] += 1
        self._counts[route] += 1

    def forget(self, until_ms: int) -> None:
        """Forget what was taken before, but at most `STEP_MS` too much is remembered."""
        while self._steps and self._steps[0][0] + STEP_MS <= until_ms:
            self._counts -= self._steps.popleft()[1]
