"""Processes that keep a log in the tables are killed at random moments, and nothing is lost, doubled or mixed up.

The benchmark does this a thousand times; here it does it less often.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.slow

KILLS, DAMAGES = 40, 40


def bench(*arguments: str) -> dict[str, object]:
    """The line that the benchmark prints of the tables."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.questions.store", "--engines=tables", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_after_each_kill_the_tables_hold_what_the_log_says():
    line = bench("--parts=kills", f"--kills={KILLS}")
    assert line["kills"] == KILLS
    assert line["records"] > KILLS  # the kills met writers at work
    assert line["while_opening"] < KILLS / 2


def test_a_changed_bit_is_found_or_harmless_and_never_ends_the_process():
    line = bench("--parts=damage", f"--damages={DAMAGES}")
    assert line.get("found", 0) + line.get("missing", 0) + line.get("harmless", 0) == DAMAGES
    assert line["found"] > DAMAGES / 3


WRITING_SOMETHING_ELSE = """
import sys
from pathlib import Path
from bench.questions import store

def write_something_else(name, folder, progress, seed):
    store.ENGINES[name](folder).write([store.record(0)._replace(value=bytes(500))])
    progress.finished = progress.is_open = 1
    store.signal.pause()

store._write_until_killed = write_something_else
store.WHILE_WRITING = 1
store.kills("tables", Path(sys.argv[1]), 3, 1)
"""


def test_another_value_than_that_of_the_log_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WRITING_SOMETHING_ELSE, tmp_path], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert "another value at 0" in done.stderr
    assert "BenchError: tables: wrong after kill 1 with seed 1" in done.stderr
