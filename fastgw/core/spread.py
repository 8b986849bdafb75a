"""Whether a route's records without a key are sent to one partition per batch, or spread over all partitions.

One partition per batch is cheaper: a batch is one produce, one fetch and one wake-up. But then one consumer of the
service works through the whole batch while the other consumers wait. So the decision depends on how long the service
takes for one request. This is estimated from the time between a record's acknowledgement and its reply. A part of that
time is Kafka's own round trip, which the canary measures without any service. In the rest, the record waits for the
requests in front of it. With `waiting` requests at the service at once (Little's law: the sum of their times, divided
by the length of the window) a request costs

    (mean time from acknowledgement to reply - Kafka's round trip) / waiting

of a consumer's time, or this divided by the number of consumers once the records are spread.
"""

from __future__ import annotations

WINDOW_NS = 5_000_000_000
WAITING_MIN = 2.0  # with fewer requests at once, none waits for another
# Measured on the design's prototype: above about 1 ms, work shared by several consumers saves more than batches do. The
# threshold for the way back is much lower, because requests look cheaper once several consumers share them.
SPREAD_FROM_NS = 1_000_000
BATCH_BELOW_NS = 50_000


class Spread:
    """Decides for one service. Used by one thread; time is an argument."""

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
        """A reply arrived this long after the acknowledgement of its request's record."""
        self._replies += 1
        self._waited_ns += ack_to_reply_ns

    def decide(self, now_ns: int, round_trip_ns: int) -> bool:
        """Evaluate the observations, at most once per window. True: `even` has changed.

        Args:
            now_ns: monotonic.
            round_trip_ns: the time of a record through Kafka and back, without any service.
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
