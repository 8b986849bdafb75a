"""Returns freed memory to the system.

glibc keeps freed memory that lies below a block still in use, and over time it keeps ever larger blocks. After a few
hundred bodies of 1 MiB a worker keeps most of the memory that it ever used. So the worker checks its size now and then;
while it is much larger than it once was, it tells glibc to return free memory (`malloc_trim`). That takes milliseconds,
too long for the loop, so it runs on a thread of its own, without the GIL. Other C libraries return memory by
themselves.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress

LOOK_EVERY_NS = 5_000_000_000
PAUSE_MAX_NS = 60_000_000_000
SPARE_BYTES = 16 << 20  # below it a trim costs more than it gives back

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The resident set size of this process."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES


def trim() -> None:
    """Call `malloc_trim` on a thread of its own, if the C library has it."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        with suppress(RuntimeError):  # no thread available: try again later. The loop must go on
            threading.Thread(target=malloc_trim, args=(0,), name="trim", daemon=True).start()


class MemoryTrim:
    """Decides when to trim: while the process is larger than it once was, but less and less often.

    Trimming less often is cheaper when the process really needs the memory.
    """

    def __init__(self, resident: Callable[[], int] = resident_bytes, trim: Callable[[], None] = trim) -> None:
        self._resident = resident
        self._trim = trim
        self._look_at_ns = 0
        self._pause_ns = LOOK_EVERY_NS
        self._least_bytes = 0  # the smallest size seen; 0: none yet

    def look(self, now_ns: int) -> None:
        """Check and trim if it is time. Takes the monotonic time; may be called as often as you like."""
        if now_ns < self._look_at_ns:
            return
        resident = self._resident()
        self._least_bytes = min(self._least_bytes or resident, resident)
        if resident - self._least_bytes < SPARE_BYTES:
            self._pause_ns = LOOK_EVERY_NS
        else:
            # Memory in use and memory that glibc keeps look the same here, so trim without knowing.
            self._trim()
            self._pause_ns = min(2 * self._pause_ns, PAUSE_MAX_NS)
        self._look_at_ns = now_ns + self._pause_ns
