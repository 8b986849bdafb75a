"""The resource usage of a process, from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# proc_pid_stat(5): fields 14 and 15; the first two are cut off together with the command's name.
_UTIME, _STIME = 14 - 3, 15 - 3


class Usage(NamedTuple):
    """One process at one moment."""

    resident_bytes: int
    cpu_s: float  # user and system, since its start
    open_fds: int


def usage_of(pid: int) -> Usage | None:
    """The present usage; None if the process has ended or belongs to another user."""
    process = Path("/proc", str(pid))
    try:
        resident_pages = int((process / "statm").read_bytes().split()[1])
        # The name is in parentheses and may contain parentheses itself.
        fields = (process / "stat").read_bytes().rpartition(b") ")[2].split()
        open_fds = len(os.listdir(process / "fd"))
    except OSError:
        return None
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return Usage(resident_pages * _PAGE_BYTES, ticks / _TICKS_PER_S, open_fds)
