"""Exponential back-off: each pause is twice as long as the previous one, up to a limit. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass
class BackOff:
    """When the next attempt is due. All values are seconds; `now` comes from the clock of the caller.

    Attributes:
        due_at: infinity if no attempt is planned.
        pause_s: the last pause; 0 if there was none since the last success.
    """

    first_s: float
    last_s: float
    due_at: float = inf
    pause_s: float = 0.0

    def failed(self, now: float) -> None:
        """An attempt has failed: the next attempt is due after the next pause."""
        self.pause_s = min(max(self.first_s, 2 * self.pause_s), self.last_s)
        self.due_at = now + self.pause_s

    def succeeded(self, now: float) -> None:
        """The last attempt worked long enough: the next one is due at once, and the pauses start again."""
        self.pause_s = 0.0
        self.due_at = now

    def cancel(self) -> None:
        self.due_at = inf

    def due(self, now: float) -> bool:
        """Whether the next attempt is due; returns True only once."""
        if now < self.due_at:
            return False
        self.cancel()
        return True
