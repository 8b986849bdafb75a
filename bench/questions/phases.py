"""Where does a request's CPU go? By kind of thread, and by step of its way through the gateway.

    python -m bench.questions.phases --connections 64

The express front that answers at once (the HTTP floor) and the whole gateway, under the same load. One JSON line for
each kind of thread: CPU us a request and how often one went to sleep for it. Where perf is there and may look, one line
for each step as well: samples of whole call stacks, each counted for the innermost function that has a step's name, as
a share of what the threads took. Waking a thread is counted for the step in which it happens.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.questions.floors import start_all
from bench.rig.commands import run
from bench.rig.lineup import Lineup, empty_stage, warm_up
from bench.rig.load import closed_loop
from bench.rig.processes import BenchError, Work, tree, work_by_thread
from bench.rig.progress import say
from bench.rig.rounds import Subject

SUBJECTS = ("http express", "fastgw")
LITTLE_US = 0.05  # what takes less of a request is not told
SAMPLES_A_SECOND = 1999  # a prime: in step with no timer
STACK_BYTES = 16384  # perf copies as much of the stack with each sample, and finds the callers afterwards

# What is in the stack, from the inside out, and what it is done for. The first that fits counts. Cython numbers the
# functions that Python calls and leaves those that C calls without: both are meant.
STEPS = {
    r"UVStream_write": "answer: written to its socket",
    r"take_answer": "answer: made",
    r"Exchange_\d*resolve": "reply: its request found and ended",
    r"take_replies": "reply: taken from librdkafka",
    r"take_producers_events": "acknowledgements: taken from librdkafka",
    r"NativeLink_\d*send|RecordQueue_": "record: batched and given to librdkafka",
    r"(Exchange|GatewayDoor)_\d*open": "request: slot, id, headers, deadline",
    r"Router_": "request: routed and admitted",
    r"Connection_|RequestHead": "request: read and parsed",
    r"uv__read|uv_stream_on_read": "request: taken from its socket",
    r"TimerHandle__run": "tick",
    r"epoll_pwait|uv__io_poll|run_forever": "loop: waits and is woken",
}
STEP_OF = [(re.compile(pattern), step) for pattern, step in STEPS.items()]
LIBRDKAFKA, ELSE = "librdkafka's threads", "else"


def stacks(script: str) -> Iterator[tuple[str, list[str]]]:
    """Thread name and functions, innermost first, of each sample that `perf script` has printed."""
    for sample in filter(None, script.strip().split("\n\n")):
        head, *frames = sample.splitlines()
        thread = re.split(r"\s+\d+\s", head, maxsplit=1)[0].strip()
        yield thread, [frame.split(maxsplit=1)[-1].split("+0x")[0] for frame in frames]


def step_of(thread: str, functions: Sequence[str]) -> str:
    """The step that a sample counts for."""
    if thread.startswith("rdk:"):
        return LIBRDKAFKA
    for function in functions:
        for pattern, step in STEP_OF:
            if pattern.search(function):
                return step
    return ELSE


def sampled(pids: Sequence[int], seconds: float, folder: Path) -> subprocess.Popen[bytes]:
    """perf, at work on these processes for a while."""
    command = ["perf", "record", "--quiet", "-o", str(folder / "perf.data"), "-F", str(SAMPLES_A_SECOND)]
    command += ["--call-graph", f"dwarf,{STACK_BYTES}", "-p", ",".join(map(str, pids)), "--", "sleep", f"{seconds:g}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def shares(perf: subprocess.Popen[bytes], folder: Path) -> dict[str, float]:
    """Each step's share of all samples, once perf has ended.

    Raises:
        BenchError: perf may not look, or saw nothing.
    """
    _, complaint = perf.communicate()
    told = subprocess.run(
        ["perf", "script", "--no-inline", "-F", "comm,tid,ip,sym", "-i", str(folder / "perf.data")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    samples = Counter(step_of(*sample) for sample in stacks(told.stdout))
    if not samples:
        raise BenchError(f"perf saw nothing:\n{complaint.decode(errors='replace')}{told.stderr}")
    return {step: count / samples.total() for step, count in samples.items()}


def load(on_stage: Lineup, subject: Subject, count: int, seconds: float) -> int:
    """Requests answered."""
    return closed_loop(subject.gateway.port, count, seconds, on_stage.body_file, subject.path).requests


def threads(on_stage: Lineup, subject: Subject, count: int, seconds: float) -> dict[str, tuple[float, float]]:
    """CPU microseconds and sleeps a request of each kind of thread."""
    before = work_by_thread(subject.gateway.pid)
    requests = load(on_stage, subject, count, seconds)
    after = work_by_thread(subject.gateway.pid)
    work = {name: total - before.get(name, Work()) for name, total in after.items()}
    return {name: (one.cpu_us / requests, one.sleeps / requests) for name, one in work.items()}


def steps(on_stage: Lineup, subject: Subject, count: int, seconds: float) -> dict[str, float]:
    """The share of each step."""
    with sampled(tree(subject.gateway.pid), seconds, on_stage.stage.folder) as perf:
        load(on_stage, subject, count, seconds + 1)
        return shares(perf, on_stage.stage.folder)


def lines(
    subject: str, count: int, works: Mapping[str, tuple[float, float]], parts: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """What to print: the kinds of threads, then the steps, dearest first."""
    common = {"bench": "phases", "subject": subject, "connections": count}
    for name, (cpu_us, sleeps) in sorted(works.items(), key=lambda work: -work[1][0]):
        if cpu_us > LITTLE_US:
            yield {**common, "thread": name, "cpu_us": round(cpu_us, 2), "sleeps": round(sleeps, 3)}
    total_us = sum(cpu_us for cpu_us, _ in works.values())
    for step, share in sorted(parts.items(), key=lambda part: -part[1]):
        if total_us * share > LITTLE_US:
            yield {**common, "step": step, "cpu_us": round(total_us * share, 2)}


def main(
    connections: Annotated[str, typer.Option(help="Numbers of connections, with commas.")] = "64",
    seconds: Annotated[float, typer.Option(min=1, help="Length of each load.")] = 5.0,
    warm: Annotated[int, typer.Option(min=1, help="Seconds of load before, for the broker's compiler.")] = 30,
) -> None:
    if not shutil.which("perf"):
        say("SKIPPED steps: perf is not installed (Debian: linux-perf)")
    with empty_stage() as on_stage:
        subjects = [one for one in start_all(on_stage, ["fastgw"]) if one.name in SUBJECTS]
        warm_up(on_stage, warm)
        for count in (int(count) for count in connections.split(",")):
            for subject in subjects:
                say(f"{subject.name}, {count} at once")
                load(on_stage, subject, count, 1)
                works = threads(on_stage, subject, count, seconds)
                parts = steps(on_stage, subject, count, seconds) if shutil.which("perf") else {}
                for line in lines(subject.name, count, works, parts):
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
