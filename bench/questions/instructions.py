"""How many instructions does a plain request execute in a worker?

    python -m bench.questions.instructions
    FASTGW_BEFORE=CHECKOUT python -m bench.questions.instructions    # and there, built in place: the ratio

Unlike a time, a number of instructions does not depend on what else the machine does: two runs differ by less than one
in a thousand. Without kernel, librdkafka and event loop, which `phases` has; in the core the actors of the tests count
as well. Prints a JSON line for each step. Needs valgrind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.rig import instructed
from bench.rig.commands import run
from bench.rig.gateways import BEFORE_VARIABLE
from bench.rig.processes import BenchError

HERE = Path(__file__).resolve().parents[2]
FEW, MANY = 1000, 3000  # rounds; what both runs have, such as imports, is not in the difference
TIMEOUT_S = 300
COLLECTED = re.compile(r"Collected : (\d+)")


def instructions(checkout: Path, step: str) -> float:
    """Instructions of one round of a step.

    Raises:
        BenchError: the step does not run there.
    """
    few, many = (_collected(checkout, step, rounds) for rounds in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _collected(checkout: Path, step: str, rounds: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, instructed.__file__]
    # The same hashes in each run, and so the same collisions.
    environ = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, step, str(rounds)], cwd=checkout, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    found = COLLECTED.search(done.stderr)
    if done.returncode != 0 or found is None:
        raise BenchError(f"{step} in {checkout} failed: {done.stderr.strip().splitlines()[-1:]}")
    return int(found.group(1))


def main(
    steps: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(instructed.STEPS)}; all if none")] = None,
) -> None:
    """Count the instructions of a plain request."""
    if shutil.which("valgrind") is None:
        raise BenchError("expected valgrind, got none (Debian: apt-get install valgrind)")
    before = os.environ.get(BEFORE_VARIABLE)
    for step in steps or instructed.STEPS:
        line: dict[str, object] = {"bench": "instructions", "step": step, "now": round(instructions(HERE, step))}
        if before:
            then = instructions(Path(before).resolve(), step)
            line |= {"before": round(then), "ratio": round(float(str(line["now"])) / then, 4)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
