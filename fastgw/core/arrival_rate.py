"""Whether requests are rare, so that a record should be sent at once instead of waiting for a batch.

With many requests in flight, batches keep the cost of each request low. With few, waiting for a batch only adds a
millisecond. A record sent at once, relative to a record that waits (bench/README.md):

    connections   requests a second   time    CPU
    1             350                 0.60    0.74
    4             1,350               0.64    1.09
    8             2,600               0.70    2.98
"""

from __future__ import annotations

WINDOW_BITS = 24  # a window is 2^24 ns, 17 ms: short, so that a burst begins with few batches that are too small
RARE_MAX = 32  # requests in a window; 1,900 a second


class ArrivalRate:
    """The arrival rate of the requests of one process; used by one thread, time is an argument."""

    def __init__(self) -> None:
        self._window = 0
        self._count = 0
        self._was_rare = True  # in the window before this one

    def __repr__(self) -> str:
        return f"<ArrivalRate {self._count} in this window, {'few' if self._was_rare else 'many'} in the last>"

    def is_alone(self, now_ns: int) -> bool:
        """Count a request; return whether requests are rare.

        Requests are rare when both the last window and this one had few. So a burst is noticed at once, and its end one
        window later.

        Args:
            now_ns: monotonic.
        """
        window = now_ns >> WINDOW_BITS
        if window != self._window:
            self._was_rare = self._count <= RARE_MAX if window == self._window + 1 else True
            self._window, self._count = window, 0
        self._count = count = self._count + 1
        return self._was_rare and count <= RARE_MAX
