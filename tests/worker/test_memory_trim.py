"""When freed memory is given back to the system, and that it is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

from fastgw.worker import memory_trim
from fastgw.worker.memory_trim import SPARE_BYTES, MemoryTrim

START = 100 << 20


S_NS = 1_000_000_000


def trims_of(size_at: Callable[[int], int], seconds: int) -> list[int]:
    """The seconds in which memory is given back, by a process that has this size at each second."""
    trims: list[int] = []
    watch = MemoryTrim(lambda: size_at(second), lambda: trims.append(second))
    for second in range(seconds):
        watch.look(second * S_NS)
    return trims


def test_a_process_that_has_not_grown_by_much_is_left_alone():
    assert trims_of(lambda second: START + (SPARE_BYTES - 1 if second else 0), 300) == []


def test_memory_is_given_back_until_the_process_is_small_again_and_soon_when_it_grows_anew():
    is_large = lambda second: 3 <= second < 20 or 100 <= second < 110  # noqa: E731
    assert trims_of(lambda second: START + SPARE_BYTES * is_large(second), 200) == [5, 15, 100]


def test_a_process_that_needs_to_be_large_is_trimmed_once_a_minute():
    assert trims_of(lambda second: START + SPARE_BYTES * bool(second), 300) == [5, 15, 35, 75, 135, 195, 255]


# Small blocks with one in a thousand that stays: nothing of it can go back without being told.
FRAGMENTED = """
import gc, time
from fastgw.worker import memory_trim
from fastgw.worker.memory_trim import resident_bytes, trim
blocks = [bytearray(8192) for _ in range(16384)]
kept = blocks[::1000]
grown = resident_bytes()
del blocks
gc.collect()
trim()
deadline = time.monotonic() + 10
while resident_bytes() > grown - (96 << 20):
    assert time.monotonic() < deadline, (grown, resident_bytes())
    time.sleep(0.01)
"""


def test_a_trim_gives_back_what_lies_between_blocks_in_use():
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_thread_to_be_had_it_is_left_for_another_time(monkeypatch):
    """On the loop's tick, before its heartbeat: an error would have the worker killed."""

    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    memory_trim.trim()
