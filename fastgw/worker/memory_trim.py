"""Gives memory that was freed back to the system.

glibc keeps what is freed below something that is still in use, and learns to keep ever larger blocks: after a few
hundred bodies of 1 MiB a worker keeps most of what it ever had. So its size is looked at now and then; while it is
larger than it need be, glibc is told to let go of what is free (`malloc_trim`). That takes milliseconds, which the loop
has not got: it happens on a thread of its own, without the GIL. A C library without the call gives back by itself.
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
    """How much of this process is in memory."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES


def trim() -> None:
    """Tells the C library, on a thread of its own."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        with suppress(RuntimeError):  # no thread to be had now: another time. It must not cost the loop its heartbeat
            threading.Thread(target=malloc_trim, args=(0,), name="trim", daemon=True).start()


class MemoryTrim:
    """When to trim: while the process is larger than it once was; ever more rarely, as it may need to be so large."""

    def __init__(self, resident: Callable[[], int] = resident_bytes, trim: Callable[[], None] = trim) -> None:
        self._resident = resident
        self._trim = trim
        self._look_at_ns = 0
        self._pause_ns = LOOK_EVERY_NS
        self._least_bytes = 0  # that it ever had; 0: it was not looked at yet

    def look(self, now_ns: int) -> None:
        """Called as often as one likes, with the monotonic time."""
        if now_ns < self._look_at_ns:
            return
        resident = self._resident()
        self._least_bytes = min(self._least_bytes or resident, resident)
        if resident - self._least_bytes < SPARE_BYTES:
            self._pause_ns = LOOK_EVERY_NS
        else:
            # What is free cannot be told from what is in use: neither changes the size.
            self._trim()
            self._pause_ns = min(2 * self._pause_ns, PAUSE_MAX_NS)
        self._look_at_ns = now_ns + self._pause_ns
