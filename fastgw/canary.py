"""The canary: a record that a worker sends itself through Kafka, to know that replies can reach it.

Nothing else notices a deleted response topic or a partition without leader: a consumer on assigned partitions just
hears nothing. One record a second on the home partition; three in a row missing mean that the reply path is down.
"""

from __future__ import annotations

SLOT = (1 << 20) - 1  # canary ids carry a slot that the table never hands out
PERIOD_NS = 1_000_000_000
MISSED_MAX = 3


class Canary:
    """Whether the reply path of one worker works. Starts as not working, until the first canary is back."""

    def __init__(self) -> None:
        self.alive = False
        self.missed = 0
        self.round_trip_ns = 0  # of the last one that came back
        self._awaited: int | None = None  # the tag of the one that is under way
        self._sent_ns = 0
        self._next_ns = 0

    def __repr__(self) -> str:
        return f"<Canary {'alive' if self.alive else 'not heard'}, {self.missed} missed>"

    def due(self, now_ns: int) -> bool:
        """Whether the next one is to be sent; the one before counts as missed if it is not back by now."""
        if now_ns < self._next_ns:
            return False
        if self._awaited is not None:
            self.missed += 1
            if self.missed >= MISSED_MAX:
                self.alive = False
        return True

    def sent(self, tag: int, now_ns: int) -> None:
        """One was sent, with this tag in its id."""
        self._awaited = tag
        self._sent_ns = now_ns
        self._next_ns = now_ns + PERIOD_NS

    def seen(self, tag: int, now_ns: int) -> bool:
        """One came back; True if it is the one awaited (an earlier one says nothing about the present)."""
        if tag != self._awaited:
            return False
        self.round_trip_ns = now_ns - self._sent_ns
        self._awaited = None
        self.missed = 0
        self.alive = True
        return True

    def restart(self) -> None:
        """The home has moved: what is under way belongs to the old one, the next is sent at once."""
        self._awaited = None
        self._next_ns = 0
