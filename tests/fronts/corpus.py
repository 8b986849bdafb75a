"""gunicorn's raw requests: what years of bug reports against an HTTP server have left behind.

They are taken from its source release on the package index when they are first needed, kept in a folder that git does
not see, and are no part of this repository. What each of our fronts says to each of them is, in corpus_statuses.txt.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tests.places import REPOSITORY

RELEASE = "gunicorn==27.0.1"
FETCH_TIMEOUT_S = 120

_HEX = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_ESCAPES = {b"\\r": b"\r", b"\\n": b"\n", b"\\t": b"\t", b"\\0": b"\0"}


class NoCorpus(Exception):
    """It is neither here nor to be had; the message says why."""


def folder() -> Path:
    """Where it is, or will be."""
    return Path(os.environ.get("FASTGW_CORPUS_CACHE") or REPOSITORY / ".corpus") / RELEASE.replace("==", "-")


def fetch() -> Path:
    """The folder with the source release in it, which is filled first if need be. Safe to call from several processes.

    Raises:
        NoCorpus: pip could not get it.
    """
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _release(place):
            _download(place)
    return place


def _release(place: Path) -> Path | None:
    return next(place.glob("gunicorn-*.tar.gz"), None)


def _download(place: Path) -> None:
    options = [
        "--no-binary",
        ":all:",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "-q",
        "--retries",
        "1",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(place), RELEASE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoCorpus(f"pip download did not end within {FETCH_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise NoCorpus((done.stderr.strip().splitlines() or ["pip download failed"])[-1])


def requests() -> Iterator[tuple[str, bytes]]:
    """Every file: its name ("invalid/001", "valid/001") and the bytes that it stands for."""
    release = _release(fetch())
    assert release is not None
    with tarfile.open(release) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.suffix == ".http" and path.parts[1:3] == ("tests", "requests"):
                file = archive.extractfile(member)
                assert file is not None
                yield f"{path.parent.name}/{path.stem}", decode(file.read())


def decode(written: bytes) -> bytes:
    """The bytes of a file in gunicorn's notation: its line ends are no part of it, those that are stand as escapes."""
    text = written.replace(b"\n", b"")
    for escape, byte in _ESCAPES.items():
        text = text.replace(escape, byte)
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), text)
