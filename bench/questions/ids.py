"""What does a correlation id cost? Run `python bench/questions/ids.py`; it prints one JSON line a measurement.

An `owner` is a worker, of any node, that reads the response topic: with 4 owners and 16 partitions each reads 4. The
search for the salt gets dearer with each owner while the service's partitioner is unknown ("any"), and hardly at all
once it is known. Each figure is the best and the median of the runs, call from Python included.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import fastgw
from fastgw.ids import IdMaker, Partitioner, explains, parse

OWNERS = (1, 2, 4, 8, 16)
PARTITIONS_PER_OWNER = 4
RUNS = 7
CALLS_PER_RUN = 20_000


def measure_us(call: Callable[[int], object], calls: int = CALLS_PER_RUN) -> list[float]:
    """Give the time of one call in microseconds, once for each run."""
    runs = []
    for _ in range(RUNS):
        started_ns = time.perf_counter_ns()
        for i in range(calls):
            call(i)
        runs.append((time.perf_counter_ns() - started_ns) / calls / 1000)
    return runs


def maker_for(owners: int) -> IdMaker:
    """Give a maker that reads every owners-th of the partitions, as the agent hands them out."""
    partition_count = owners * PARTITIONS_PER_OWNER
    maker = IdMaker(node=0x123456, worker=0, generation=1)
    maker.set_ownership(partition_count, range(0, partition_count, owners), home=0)
    return maker


def report(what: str, runs_us: list[float], **details: object) -> None:
    """Print one measurement with what is needed to compare it with another day's."""
    line = {
        "bench": "ids",
        "what": what,
        "us_best": round(min(runs_us), 3),
        "us_median": round(statistics.median(runs_us), 3),
        **details,
        "fastgw": fastgw.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}",
    }
    print(json.dumps(line), flush=True)


def cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def make_runs(partitioner: Partitioner, owners: int) -> tuple[list[float], float]:
    """Microseconds of one id, once for each run, and the share of ids that do not land where they should."""
    maker, known = maker_for(owners), int(partitioner)
    calls = CALLS_PER_RUN if owners < 16 else CALLS_PER_RUN // (4 * owners // 16)

    def make(slot: int) -> bytes:
        return maker.make(slot, known)

    runs_us = measure_us(make, calls)
    return runs_us, round(maker.missed / (calls * RUNS), 4)


def main() -> None:
    report("empty call", measure_us(lambda i: i))
    for partitioner in Partitioner:
        for owners in OWNERS:
            runs_us, missed = make_runs(partitioner, owners)
            report("make", runs_us, partitioner=partitioner.name.lower(), owners=owners, missed=missed)
    raw = maker_for(4).make(1, Partitioner.ANY)
    report("parse", measure_us(lambda _: parse(raw)))
    report("parse of a foreign key", measure_us(lambda _: parse(b"550e8400-e29b-41d4-a716-446655440000")))
    report("explains", measure_us(lambda _: explains(raw, 16, 4)))


if __name__ == "__main__":
    main()
