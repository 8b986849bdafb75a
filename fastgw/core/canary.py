"""The canary: a record that a worker sends to itself through Kafka, to check that replies can reach it.

Nothing else detects a deleted response topic or a partition without a leader: a consumer on assigned partitions just
receives nothing. The worker sends one record a second to its home partition. If none comes back for 2.5 seconds, the
reply path is down; this is reported before the third second is over. A slow path is not a lost one: every record that
comes back counts, however long it took, unless the home partition has changed since it was sent.
"""

from __future__ import annotations

SLOT = (1 << 20) - 1  # canary ids carry a slot that the table never hands out
PERIOD_NS = 1_000_000_000
SILENCE_NS = 2_500_000_000
SILENCE_MAX_NS = 20_000_000_000  # the limit after several home partitions in a row were silent
# The worker checks 40 times a second: a longer pause between two checks means that the process was stopped.
SLEPT_NS = 500_000_000
UNDER_WAY_MAX = 32


class Canary:
    """Whether the reply path of one worker works. It counts as down until the first canary is back."""

    def __init__(self) -> None:
        self.alive = False
        self.round_trip_ns = 0  # of the last canary that came back
        self._under_way: dict[int, int] = {}  # tag -> when it was sent, oldest first
        self._next_ns = 0
        self._quiet_since_ns = -1  # when the last canary came back; -1: none was sent yet
        self._patience_ns = SILENCE_NS
        self._looked_ns = -1

    def __repr__(self) -> str:
        return f"<Canary {'alive' if self.alive else 'not heard'}, {len(self._under_way)} under way>"

    def due(self, now_ns: int) -> bool:
        """Whether the next canary is to be sent."""
        return now_ns >= self._next_ns

    def sent(self, tag: int, now_ns: int) -> None:
        """A canary was sent with this tag in its id."""
        if self._quiet_since_ns < 0:
            self._quiet_since_ns = now_ns
        if len(self._under_way) >= UNDER_WAY_MAX:
            del self._under_way[next(iter(self._under_way))]
        self._under_way[tag] = now_ns
        self._next_ns = now_ns + PERIOD_NS

    def seen(self, tag: int, now_ns: int) -> bool:
        """A canary came back. False: it was sent to an earlier home partition and does not count."""
        sent_ns = self._under_way.pop(tag, None)
        if sent_ns is None:
            return False
        self.round_trip_ns = now_ns - sent_ns
        self._quiet_since_ns = now_ns
        self._patience_ns = SILENCE_NS
        self.alive = True
        return True

    def is_silent(self, now_ns: int) -> bool:
        """Whether no canary came back for too long, so that another home partition should be tried. True only once.

        Each silent home partition doubles the time that the next one gets, because the path may just be slow. Time in
        which this process was stopped does not count: it could not receive anything.
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
        """The home partition has changed: forget the canaries of the old one; the next canary is due at once."""
        self._under_way.clear()
        self._next_ns = 0
