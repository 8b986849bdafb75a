"""How long a record should wait for others to share its batch, by how fast requests come.

Batches decide what a request costs while many are under way; to one that has nobody to share with, the linger of a
producer is a millisecond of waiting and two wake-ups more. Measured against the full linger of 1 ms (bench/README.md):

    connections   requests a second   no linger: time, CPU    half of it: requests a second, CPU, broker's CPU
    1             350                 0.60, 0.74
    4             1,350               0.64, 1.09              0.98, 1.08, 1.05
    8             2,600               0.70, 2.98              1.00, 1.01, 1.02
    64            15,500                                      1.15, 1.02, 1.24
    256           31,000                                      0.93, 1.01, 1.36

Half of it is worth something only where four and more come in that time. One of several workers on a machine that has
no time left gets fewer, and half a millisecond would cost it 1.4 times the CPU.
"""

from __future__ import annotations

from enum import IntEnum

WINDOW_BITS = 24  # a window is 2^24 ns, 17 ms: short enough that a burst pays for few batches that are too small
RARE_MAX = 32  # requests in a window; 1,900 a second
BRISK_MIN = 136  # 8,100 a second: four in half a millisecond
MANY_MIN = 336  # 20,000 a second


class Linger(IntEnum):
    """How much of the configured linger a record waits."""

    NONE = 0
    HALF = 1
    FULL = 2


class Pace:
    """Of the requests of one process; used by one thread, time is an argument."""

    def __init__(self) -> None:
        self._window = 0
        self._count = 0
        self._before = 0  # Linger of the window before, as a plain number: asked for with each request

    def __repr__(self) -> str:
        return f"<Pace {self._count} in this window, {Linger(self._before).name.lower()} after the last>"

    def linger(self, now_ns: int) -> int:
        """Counts a request; the Linger of its record.

        What a window was like is believed in the next one; that few have become many, at once.

        Args:
            now_ns: monotonic.
        """
        window = now_ns >> WINDOW_BITS
        if window != self._window:
            self._before = _linger(self._count) if window == self._window + 1 else 0
            self._window, self._count = window, 0
        self._count = count = self._count + 1
        before = self._before
        return before if count <= RARE_MAX else before or _linger(count)


def _linger(count: int) -> int:
    """The linger for so many in a window."""
    if count <= RARE_MAX:
        return 0
    return 1 if BRISK_MIN <= count < MANY_MIN else 2
