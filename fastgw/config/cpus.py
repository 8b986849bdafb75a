"""The number of cores that this process may use: its CPU affinity and the CPU quotas of its control groups.

A container with a CPU limit sees all cores of its machine. One worker for each of these cores would use up the quota
early in each period, and all workers would then be throttled until the next period.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """The whole cores that this process may use, at least 1.

    Args:
        proc: where procfs is mounted.
        cgroups: where the control groups are mounted.
    """
    usable = len(os.sched_getaffinity(0))
    return max(1, min([usable, *_quotas(proc, cgroups)]))


def _quotas(proc: Path, cgroups: Path) -> Iterator[int]:
    """The whole cores that each control group of this process allows."""
    for controllers, path in _groups_of_this_process(proc):
        if not controllers:
            yield from _quotas_of(cgroups, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            mounts = dict.fromkeys((cgroups / "cpu", cgroups / controllers))
            yield from (quota for mount in mounts for quota in _quotas_of(mount, path, _quota_v1))


def _groups_of_this_process(proc: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """The controllers of each hierarchy (empty for version 2), and this process's group in it (cgroups(7))."""
    for line in _text(proc / "self/cgroup").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # Paths start at the root of the cgroup namespace. Groups outside of it begin with ".." and are not mounted.
        if path.startswith("/"):
            yield controllers, PurePosixPath("/" if ".." in path else path)


def _quotas_of(mount: Path, path: PurePosixPath, quota_of: Callable[[Path], int | None]) -> Iterator[int]:
    """The quotas of a group and of its parents. Parents that are not mounted, as in a container, have no files."""
    for group in (path, *path.parents):
        quota = quota_of(mount / group.relative_to("/"))
        if quota is not None:
            yield quota


def _quota_v2(group: Path) -> int | None:
    quota_us, _, period_us = _text(group / "cpu.max").strip().partition(" ")
    return _whole_cores(quota_us, period_us)


def _quota_v1(group: Path) -> int | None:
    return _whole_cores(_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip())


def _whole_cores(quota_us: str, period_us: str) -> int | None:
    """None if there is no limit ("max", "-1") or the files cannot be read."""
    if not (quota_us.isdecimal() and period_us.isdecimal() and int(period_us)):
        return None
    return int(quota_us) // int(period_us)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
