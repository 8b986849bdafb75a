"""Small file systems for the stores of scenarios: they can be frozen and filled. Only root can make one.

A limit on the size of files (RLIMIT_FSIZE) would need no root, but it fails with another error than a full disk, and
nothing like it freezes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

DISK_BYTES = 48 << 20
BALLAST_BYTES = 1 << 16  # at once
TOOLS = ("mkfs.ext4", "mount", "umount", "fsfreeze")


class Disk:
    """A mounted file system, ext4 in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, whoever writes to it waits."""
        _run("fsfreeze", "--freeze", str(self.folder))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.folder))

    @contextmanager
    def full(self) -> Iterator[None]:
        """Inside, it has no room left."""
        try:
            with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:  # ENOSPC, at some time
                while ballast.write(bytes(BALLAST_BYTES)) == BALLAST_BYTES:
                    os.fsync(ballast)
            yield
        finally:
            self._ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Makes a file system and mounts it at this place, which must not exist yet."""
    image = folder.with_suffix(".image")
    with image.open("wb") as opened:
        opened.truncate(DISK_BYTES)
    folder.mkdir()
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield Disk(folder)
    finally:
        _run("umount", str(folder))


@cache
def why_no_disks() -> str:
    """Why there can be none here; empty: there can."""
    if os.geteuid() != 0:
        return "only root can mount a disk of its own"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"expected the programs {', '.join(TOOLS)}, {', '.join(missing)} is missing"
    try:
        with TemporaryDirectory(prefix="fastgw-disk-") as folder, small_disk(Path(folder) / "disk"):
            return ""
    except subprocess.CalledProcessError as refused:
        return f"{refused.cmd[0]}: {refused.stderr.decode().strip()}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
