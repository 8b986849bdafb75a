"""How many cores a process may use, from files as the kernel has them in containers and in units of systemd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.config.cpus import cores
from fastgw.config.schema import WORKERS_MAX, default_workers

MANY = 16  # cores that the process may run on


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(MANY)))


def cores_with(place: Path, groups: str, files: dict[str, str]) -> int:
    """The cores of a process that is in `groups`, where the control groups have these files."""
    (place / "proc/self").mkdir(parents=True)
    (place / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        file = place / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return cores(place / "proc", place / "cgroup")


UNIT = "0::/system.slice/fastgw.service\n"
V1 = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        # version 2
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, MANY),
        ("0::/\n", {"cpu.max": "399999 100000\n"}, 3),  # whole cores
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),  # and at least one
        ("0::/\n", {"cpu.max": "99900000 100000\n"}, MANY),  # no more than it may run on
        (UNIT, {"system.slice/fastgw.service/cpu.max": "300000 100000\n"}, 3),
        (UNIT, {"system.slice/cpu.max": "500000 100000\n", "system.slice/fastgw.service/cpu.max": "max 100000\n"}, 5),
        (UNIT, {"system.slice/cpu.max": "2 1\n", "system.slice/fastgw.service/cpu.max": "4 1\n"}, 2),
        (
            "0::/kubepods/pod1/c1\n",
            {"cpu.max": "400000 100000\n"},
            4,
        ),  # the path of the host, the files of the container
        ("0::/../other\n", {"cpu.max": "400000 100000\n"}, 4),
        # version 1
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "600000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 6),
        (V1, {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, MANY),
        # nothing to be read
        ("", {}, MANY),
        ("0::/\n", {}, MANY),
        ("nonsense", {"cpu.max": "200000 100000\n"}, MANY),
        ("0::/\n", {"cpu.max": ""}, MANY),
        ("0::/\n", {"cpu.max": "many 100000"}, MANY),
        ("0::/\n", {"cpu.max": "200000 0"}, MANY),
    ],
)
def test_the_quota_of_every_control_group_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    assert cores_with(tmp_path, groups, files) == expected


def test_a_system_without_control_groups_has_its_cores(tmp_path: Path) -> None:
    assert cores(tmp_path / "proc", tmp_path / "cgroup") == MANY


def test_there_are_no_more_workers_than_the_table_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(1000)))
    monkeypatch.setattr("fastgw.config.cpus._quotas", lambda *_: [])
    assert default_workers() == WORKERS_MAX
