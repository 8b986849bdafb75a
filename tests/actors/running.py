"""Services for tests in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def running(command: Sequence[str], why_not: str) -> Iterator[subprocess.Popen]:
    """A process that has printed "ready"; killed on the way out. `why_not`: the failure if it prints anything else."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", why_not
        yield process
    finally:
        process.kill()
        process.wait()
