"""The shared table: creates it, attaches to it, and defines which process uses which part.

The supervisor creates the table and passes its fd to every process that it starts. Then

    supervisor  reclaims the slots of dead workers; sets the service to draining
    agent       writes the partition map, and positions of partitions that the node gains; reads everything for /readyz,
                /metrics and /status
    worker      registers itself, writes its own record, its counters, and the positions of the partitions that it
                reads for the node; claims in its own range of slots

The memory has no name in the file system: the kernel frees it with the last process that uses it.
"""

from __future__ import annotations

import fcntl
import os
import zlib

from fastgw._ctable import NOT_READING, UNKNOWN_POSITION, SlotRange, Table, format, layout_size
from fastgw.errors import TableError

__all__ = [
    "NOT_READING",
    "UNKNOWN_POSITION",
    "SlotRange",
    "Table",
    "attach",
    "create",
    "log_of",
    "process_index",
    "processes_of",
    "worker_of",
]

# If the table could shrink, readers of the removed pages would die of SIGBUS.
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


def log_of(bootstrap: str, topic: str) -> int:
    """16 bits that name the response topic of a Kafka, so that a position is not taken for one of another log.

    A reload may change `kafka.bootstrap`. Then the processes before and after it read different logs.
    """
    brokers = sorted(broker.strip() for broker in bootstrap.split(","))
    return zlib.crc32("\n".join([topic, *brokers]).encode()) & 0xFFFF


def create(node: int, workers: int, slots_per_process: int) -> tuple[int, Table]:
    """A new table in a sealed memfd.

    Args:
        node: 24 random bits that name this start of the service.
        workers: worker slots, 1..255.
        slots_per_process: requests that one worker process can have in flight.

    Returns:
        The fd (close-on-exec; pass it on by inheritance, or close it) and the attached table.

    Raises:
        TableError: the number of slots exceeds the 20 bits that an id has for a slot.
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
        TableError: it is not a table, has another layout version or a wrong size, or is not sealed against resizing.
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
