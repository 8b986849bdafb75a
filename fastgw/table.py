"""Owns the shared segment: creates it, attaches to it, and says who uses which part of it.

The supervisor creates the table and hands its fd to every process it starts. From there on

    supervisor  reclaims the range of a worker that died; says that the service drains
    agent       writes the partition map; reads everything for /readyz, /metrics and /status
    worker      registers itself, writes its own record and counters, and claims in its own range of slots

The memory has no name in the file system: it lives as long as one process holds it, and there is nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os

from fastgw._ctable import NOT_READING, SlotRange, Table, format, layout_size
from fastgw.errors import TableError

__all__ = ["NOT_READING", "SlotRange", "Table", "attach", "create", "process_index", "processes_of", "worker_of"]

# A table that cannot shrink cannot take pages away under a reader, who would die of SIGBUS.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def process_index(worker: int, generation: int) -> int:
    """The slot range of a process: two for each worker slot, so that two generations of it never share one."""
    return worker * 2 + (generation & 1)


def processes_of(worker: int) -> tuple[int, int]:
    """The two slot ranges of a worker slot; see `process_index`."""
    return worker * 2, worker * 2 + 1


def worker_of(process: int) -> int:
    """The worker slot that a slot range belongs to."""
    return process // 2


def create(node: int, workers: int, slots_per_process: int) -> tuple[int, Table]:
    """A new table in a sealed memfd.

    Args:
        node: 24 random bits that name this start of the service.
        workers: worker slots, 1..255.
        slots_per_process: requests that one worker process can have in flight.

    Returns:
        The fd (close-on-exec; pass it on by inheritance, or close it) and the attached table.

    Raises:
        TableError: the sizes do not fit into the 20 bits that an id has for a slot.
    """
    try:
        total_bytes = layout_size(workers, slots_per_process)
    except ValueError as error:
        raise TableError(str(error)) from None
    fd = os.memfd_create("fastgw-table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, total_bytes)
        format(fd, node, workers, slots_per_process)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd, Table(fd)
    except BaseException:
        os.close(fd)
        raise


def attach(fd: int) -> Table:
    """The table behind an inherited fd; the fd may be closed afterwards.

    Raises:
        TableError: it is no table, not of this layout version, not of the size it says, or could still be resized.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise TableError(f"table fd {fd}: expected a sealed memfd, got {error.strerror}") from None
    if seals & _SEALS != _SEALS:
        raise TableError(f"table fd {fd}: expected seals {_SEALS:#x} against resizing, got {seals:#x}")
    try:
        return Table(fd)
    except ValueError as error:
        raise TableError(str(error)) from None
