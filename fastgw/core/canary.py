"""The canary: a record that a worker sends itself through Kafka, to know that replies can reach it.

Nothing else notices a deleted response topic or a partition without leader: a consumer on assigned partitions just
hears nothing. One record a second on the home partition; silence for two and a half means that the reply path is down,
which is said before the third second is over. A slow path is no silence: every record that comes back counts, however
long it took, as long as the home is still the one that it was sent on.
"""

from __future__ import annotations

SLOT = (1 << 20) - 1  # canary ids carry a slot that the table never hands out
PERIOD_NS = 1_000_000_000
SILENCE_NS = 2_500_000_000
SILENCE_MAX_NS = 20_000_000_000  # what a home is given at most to be heard, when one after the other was silent
SLEPT_NS = 500_000_000  # the worker asks forty times a second
UNDER_WAY_MAX = 32


class Canary:
    """Whether the reply path of one worker works. Starts as not working, until the first canary is back."""

    def __init__(self) -> None:
        self.alive = False
        self.round_trip_ns = 0  # of the last one that came back
        self._under_way: dict[int, int] = {}  # tag -> when it was sent, oldest first
        self._next_ns = 0
        self._quiet_since_ns = -1  # nothing heard since; -1: nothing sent yet
        self._patience_ns = SILENCE_NS
        self._looked_ns = -1

    def __repr__(self) -> str:
        return f"<Canary {'alive' if self.alive else 'not heard'}, {len(self._under_way)} under way>"

    def due(self, now_ns: int) -> bool:
        """Whether the next one is to be sent."""
        return now_ns >= self._next_ns

    def sent(self, tag: int, now_ns: int) -> None:
        """One was sent, with this tag in its id."""
        if self._quiet_since_ns < 0:
            self._quiet_since_ns = now_ns
        if len(self._under_way) >= UNDER_WAY_MAX:
            del self._under_way[next(iter(self._under_way))]
        self._under_way[tag] = now_ns
        self._next_ns = now_ns + PERIOD_NS

    def seen(self, tag: int, now_ns: int) -> bool:
        """One came back; True if it says something about the present home."""
        sent_ns = self._under_way.pop(tag, None)
        if sent_ns is None:
            return False
        self.round_trip_ns = now_ns - sent_ns
        self._quiet_since_ns = now_ns
        self._patience_ns = SILENCE_NS
        self.alive = True
        return True

    def is_silent(self, now_ns: int) -> bool:
        """Whether nothing was heard for too long, so that another home should be tried; says so once.

        Each home that is tried in vain makes the next one's time longer: perhaps the path is just slow. Time in which
        nobody asked, because this process was stopped, is not counted: it could not hear anything then.
        """
        looked_ns, self._looked_ns = self._looked_ns, now_ns
        slept_ns = now_ns - looked_ns
        if looked_ns >= 0 and slept_ns > SLEPT_NS:
            self._quiet_since_ns += slept_ns
        if self._quiet_since_ns < 0 or now_ns - self._quiet_since_ns < self._patience_ns:
            return False
        self.alive = False
        self._quiet_since_ns = now_ns
        self._patience_ns = min(2 * self._patience_ns, SILENCE_MAX_NS)
        return True

    def restart(self) -> None:
        """The home has moved: what is under way belongs to the old one, the next is sent at once."""
        self._under_way.clear()
        self._next_ns = 0
