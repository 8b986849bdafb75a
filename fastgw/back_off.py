"""Pauses between attempts that fail: each twice as long as the one before, up to a bound. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass
class BackOff:
    """When the next attempt is due. All values are seconds; `now` is of whatever clock the owner uses.

    Attributes:
        due_at: infinity: none is due.
        pause_s: the last pause; 0 when there was none since the last success.
    """

    first_s: float
    last_s: float
    due_at: float = inf
    pause_s: float = 0.0

    def failed(self, now: float) -> None:
        """An attempt has failed: the next one is due after the next pause."""
        self.pause_s = min(max(self.first_s, 2 * self.pause_s), self.last_s)
        self.due_at = now + self.pause_s

    def succeeded(self, now: float) -> None:
        """It worked for as long as can be asked: the next attempt is due at once, and the pauses begin anew."""
        self.pause_s = 0.0
        self.due_at = now

    def cancel(self) -> None:
        self.due_at = inf

    def due(self, now: float) -> bool:
        """Whether it is time for the next attempt; says so once."""
        if now < self.due_at:
            return False
        self.cancel()
        return True
