"""The store's folder may lie in memory only if the store stays small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.store_folder import file_system_of, why_unsuitable

GIB = 1 << 30


@pytest.fixture
def mounts(tmp_path):
    """A list of mounts by which the folder `tmp_path` lies on the kind of file system that is given."""

    def make(kind):
        device = tmp_path.stat().st_dev
        place = tmp_path / "mountinfo"
        place.write_text(
            "22 27 0:1 / /sys rw,nosuid - sysfs sysfs rw\n"
            f"30 27 {os.major(device)}:{os.minor(device)} / /var/my\\040data rw shared:5 - {kind} /dev/x rw,size=1k\n"
        )
        return place

    return make


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_file_system_in_memory_is_refused_from_a_tenth_of_the_memory(tmp_path, mounts, kind):
    why = why_unsuitable(tmp_path, 2 * GIB, 20 * GIB, mounts(kind))
    assert f"is on a {kind}" in why
    assert "below 2147483648" in why
    assert not why_unsuitable(tmp_path, 2 * GIB - 1, 20 * GIB, mounts(kind))


def test_a_disk_is_never_refused(tmp_path, mounts):
    assert not why_unsuitable(tmp_path, 1000 * GIB, 1 * GIB, mounts("ext4"))


def test_a_folder_that_does_not_exist_yet_is_where_the_first_folder_above_it_is(tmp_path, mounts):
    assert file_system_of(tmp_path / "not" / "there", mounts("xfs")) == "xfs"


def test_a_device_that_no_mount_shows_is_no_reason_to_refuse(tmp_path):
    nothing = tmp_path / "mountinfo"
    nothing.write_text("22 27 0:1 / /sys rw - sysfs sysfs rw\n")
    assert file_system_of(tmp_path, nothing) == ""
    assert not why_unsuitable(tmp_path, 1000 * GIB, 1 * GIB, nothing)


def test_this_machine_tells_its_own_memory_and_mounts():
    shm = Path("/dev/shm")
    if file_system_of(shm) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    assert why_unsuitable(shm / "store", 1 << 60)
    assert not why_unsuitable(shm / "store", 1 << 20)
