"""A wall clock that is ahead, for the processes of one node.

All that the gateway knows of the wall clock it asks from `time`. librdkafka is left alone: it also waits by the wall
clock, and the kernel that wakes it has another one here.
"""

from __future__ import annotations

from pathlib import Path

AHEAD = """
import time

_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {seconds}
time.time_ns = lambda: _time_ns() + {seconds} * 1_000_000_000
"""


def ahead(seconds: int, folder: Path) -> dict[str, str]:
    """The environment of Python processes whose clock is so many seconds ahead."""
    place = folder / f"ahead-{seconds}"
    place.mkdir()
    (place / "sitecustomize.py").write_text(AHEAD.format(seconds=seconds))
    return {"PYTHONPATH": str(place)}
