"""All targets, one after the other: `python -m tests.fuzz [--seconds 60] [TARGET ...]`.

What they find worth keeping goes to `.fuzz/TARGET`, where the next run starts from it; inputs that break a promise go
to `.fuzz/TARGET-crash-...`, to be given to the target again with `python -m tests.fuzz.one TARGET FILE`. Exit code 1
when there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

PLACE = Path(".fuzz")
INPUT_SECONDS_MAX = 5  # for one input: more is a hang
SLACK_S = 60
INPUT_BYTES_MAX = 4096
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_COVERAGE = re.compile(r"cov: (\d+)")


def run(name: str, seconds: int) -> tuple[int, bool]:
    """Fuzz one target; how many inputs it was given, and whether all promises held."""
    corpus = PLACE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].SEEDS:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS_MAX}", f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={PLACE}/{name}-", "-rss_limit_mb=2048", "-print_final_stats=1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *options, str(corpus)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=seconds + SLACK_S, check=False,
    )  # fmt: skip
    runs = _DONE.search(done.stdout)
    covered = _COVERAGE.findall(done.stdout)
    if done.returncode != 0 or runs is None:
        print(f"{name}: a promise is broken\n{done.stdout[-4000:]}")
        return int(runs[1]) if runs else 0, False
    print(f"| {name} | {int(runs[1]):,} | {runs[2]} s | {covered[-1] if covered else '?'} | 0 |", flush=True)
    return int(runs[1]), True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; without: all of them")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    options = parser.parse_args()
    print("| target | inputs | time | edges | broken promises |\n| --- | --- | --- | --- | --- |", flush=True)
    results = [run(name, options.seconds) for name in options.targets or TARGETS]
    return int(not all(held for _, held in results))


if __name__ == "__main__":
    sys.exit(main())
