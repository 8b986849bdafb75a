"""The folder of the store, as far as others ask about it: the check of the configuration, and the doctor."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})  # file systems whose files take memory
SHORT_AT, FULL_AT = 0.8, 0.9  # of max_bytes: from there on, large values stay in Kafka; and new requests get 503
MEMORY_SHARE = 10  # there, the store may take less than this part of the machine's memory


def why_unsuitable(folder: Path, max_bytes: int, memory_bytes: int | None = None, mounts: Path = MOUNTS) -> str:
    """Why the store must not keep up to `max_bytes` in this folder; "" if it may. The folder need not exist yet.

    A file system in memory is refused unless the store stays small: its files would take the memory of everything else
    on the machine.

    Args:
        memory_bytes: memory of the machine; None: ask the operating system.
        mounts: the list of mounts, as in proc(5), /proc/pid/mountinfo.
    """
    kind = file_system_of(folder, mounts)
    if kind not in IN_MEMORY:
        return ""
    memory_bytes = memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = memory_bytes // MEMORY_SHARE
    if max_bytes < most:
        return ""
    return (
        f"{folder} is on a {kind}, so the store's files would take memory: choose a folder on a disk, or max_bytes"
        f" below {most}, a tenth of this machine's memory (it is {max_bytes})"
    )


def file_system_of(folder: Path, mounts: Path = MOUNTS) -> str:
    """The kind of the file system on which the folder is or would be, such as "ext4"; "" if that cannot be found out.

    It is found by the number of its device. Some file systems (btrfs, overlay) show another one for their files.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    device = existing.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return ""
