"""Whether a route's records without key stay together on one partition or go to all of them.

Together is cheaper: a batch is one produce, one fetch and one wake-up. But while a batch sits on one partition one
consumer of the service does all of it and its siblings wait. So what counts is how long the service takes for one
request, and that shows in the replies: of the time between acknowledgement and reply a part is Kafka's own round trip,
which the canary measures without any service, and the rest is spent waiting for the requests in front. With
`waiting` requests there at once (Little's law: their times added up, by the length of the window) a request costs

    (mean time from acknowledgement to reply - Kafka's round trip) / waiting

of a consumer's time, or that divided by the number of consumers once the records are spread.
"""

from __future__ import annotations

WINDOW_NS = 5_000_000_000
WAITING_MIN = 2.0  # fewer at once have nobody to wait for
# Measured on the design's prototype: above about a millisecond the siblings' help is worth more than the batches. The
# way back is that much lower because the work of a service with many consumers looks smaller once they share it.
SPREAD_FROM_NS = 1_000_000
BATCH_BELOW_NS = 50_000


class Spread:
    """Decides for one service; used by one thread, time is an argument."""

    def __init__(self, setting: str) -> None:
        """`setting`: "batch", "even" or "auto"."""
        self.even = setting == "even"
        self._fixed = setting != "auto"
        self._begun_ns = 0
        self._replies = 0
        self._waited_ns = 0

    def __repr__(self) -> str:
        return f"<Spread {'even' if self.even else 'batch'}{', as configured' if self._fixed else ''}>"

    def observe(self, ack_to_reply_ns: int) -> None:
        """A reply came, this long after the acknowledgement of its request."""
        self._replies += 1
        self._waited_ns += ack_to_reply_ns

    def decide(self, now_ns: int, round_trip_ns: int) -> bool:
        """Judges what was observed, at most once a window; True when `even` has changed.

        Args:
            now_ns: monotonic.
            round_trip_ns: of a record through Kafka and back, without any service.
        """
        window_ns = now_ns - self._begun_ns
        if self._fixed or window_ns < WINDOW_NS:
            return False
        replies, waited_ns = self._replies, self._waited_ns
        self._begun_ns, self._replies, self._waited_ns = now_ns, 0, 0
        waiting = waited_ns / window_ns
        if waiting < WAITING_MIN:
            return False
        cost_ns = (waited_ns / replies - round_trip_ns) / waiting
        wanted = cost_ns > (BATCH_BELOW_NS if self.even else SPREAD_FROM_NS)
        changed, self.even = wanted != self.even, wanted
        return changed
