"""The steps whose instructions are counted: they run, and what valgrind says of them is read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bench.questions import instructions
from bench.rig import instructed
from bench.rig.processes import BenchError
from tests.places import REPOSITORY

VALGRIND = """#!/bin/sh
for rounds; do :; done
echo "==1== Collected : $((70000 + 25 * rounds))" >&2
"""


@pytest.mark.parametrize("step", instructed.STEPS)
def test_a_step_runs_again_and_again(step):
    subprocess.run([sys.executable, instructed.__file__, step, "3"], cwd=REPOSITORY, timeout=60, check=True)


def test_what_comes_before_the_first_round_does_not_count(tmp_path, monkeypatch):
    fake_valgrind(tmp_path, VALGRIND, monkeypatch)
    assert instructions.instructions(REPOSITORY, "front") == 25


def test_a_step_that_does_not_run_is_told(tmp_path, monkeypatch):
    fake_valgrind(tmp_path, "#!/bin/sh\necho no such module >&2\nexit 1\n", monkeypatch)
    with pytest.raises(BenchError, match="no such module"):
        instructions.instructions(REPOSITORY, "front")


def fake_valgrind(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "valgrind"
    program.write_text(script)
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
