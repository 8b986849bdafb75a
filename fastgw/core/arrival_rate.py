"""Whether a request comes alone: whether its record has anybody to share a batch with.

Batches decide what a request costs while many are under way; to one that has nobody to share with, waiting for others
is a millisecond lost. Measured, a record that goes at once against one that waits (bench/README.md):

    connections   requests a second   time    CPU
    1             350                 0.60    0.74
    4             1,350               0.64    1.09
    8             2,600               0.70    2.98
"""

from __future__ import annotations

WINDOW_BITS = 24  # a window is 2^24 ns, 17 ms: short enough that a burst pays for few batches that are too small
RARE_MAX = 32  # requests in a window; 1,900 a second


class ArrivalRate:
    """Of the requests of one process; used by one thread, time is an argument."""

    def __init__(self) -> None:
        self._window = 0
        self._count = 0
        self._was_rare = True  # the window before

    def __repr__(self) -> str:
        return f"<ArrivalRate {self._count} in this window, {'few' if self._was_rare else 'many'} in the last>"

    def is_alone(self, now_ns: int) -> bool:
        """Counts a request; whether few come.

        What a window was like is believed in the next one; that few have become many, at once.

        Args:
            now_ns: monotonic.
        """
        window = now_ns >> WINDOW_BITS
        if window != self._window:
            self._was_rare = self._count <= RARE_MAX if window == self._window + 1 else True
            self._window, self._count = window, 0
        self._count = count = self._count + 1
        return self._was_rare and count <= RARE_MAX
