"""`make leaks`: half an hour of mixed load and faults; memory, descriptors, threads, slots stay as they were.

    make leaks                           # 30 minutes
    make leaks ARGS="--minutes 5"

Round after round: clients that are answered, that leave, and that get late, forged, cut and poisonous replies; the
broker frozen, now and then for so long that producers are given up; the worker in slot 1 killed. Supervisor, agent and
the worker in slot 0 live through all of it and are looked at after each round, when nothing is under way. Prints a line
a round, then a table that compares the rounds of the second quarter with those of the last (medians; the first quarter
warms up). Exit status 1: something has grown, or a slot was not given back.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from tests.brokers.kafka_server import LASTING, RealKafka
from tests.faults import reply_scenarios
from tests.faults.clients import Clients, Habits
from tests.faults.echo_service import SLOW
from tests.faults.kafkas import Kafka
from tests.faults.stage import Furniture, House, Stage, open_house, wait
from tests.faults.worker_scenarios import is_replaced
from tests.waiting import eventually

HOUSE = House(workers=2)
FAULTS_A_ROUND = 3
FROZEN_S = 1.5
LATE_S = 6.0  # longer than a producer is given
LEFT_BEHIND_S = 0.2
MEMORY_MORE = 1.05  # of the second quarter ...
MEMORY_MORE_MB = 1.5  # ... or so much: what allocators do


class Look(NamedTuple):
    """One process after one round."""

    memory_mb: float
    files: int
    threads: int


def look_at(pid: int) -> Look:
    """Its memory (what it would give back if it ended), open descriptors and threads."""
    rollup = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    own_kb = sum(int(rollup[name].split()[0]) for name in ("Private_Clean", "Private_Dirty", "Swap"))
    return Look(own_kb / 1000, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))


def impatient_clients(stage: Stage) -> None:
    """Clients that leave before their answer; it comes all the same, and is counted before others ask for late ones."""
    gateway = stage.gateway
    before = gateway.replies("late")
    clients = stage.also(Habits(connections=50, manners=(SLOW,), silent_after_s=LEFT_BEHIND_S))
    with clients:
        clients.sent(100)
    eventually(lambda: gateway.replies("late") == before + len(clients.told), 30, "each is counted as late")


def frozen_broker(stage: Stage) -> None:
    freeze(stage, FROZEN_S)


def late_broker(stage: Stage) -> None:
    """Producers get successors and are put away."""
    freeze(stage, LATE_S)


def freeze(stage: Stage, for_s: float) -> None:
    with stage.fault():
        stage.broker.freeze()
        wait(for_s)
        stage.broker.thaw()


def killed_worker(stage: Stage) -> None:
    """Never the one in slot 0, which is looked at."""
    pid = stage.gateway.worker_pid(1)
    with stage.fault(lambda: is_replaced(stage, 1, pid)):
        os.kill(pid, signal.SIGKILL)


FAULTS: Sequence[Callable[[Stage], None]] = (
    reply_scenarios.late,
    reply_scenarios.twice,
    reply_scenarios.forged,
    reply_scenarios.poison,
    reply_scenarios.truncated,
    reply_scenarios.other_nodes,
    impatient_clients,
    frozen_broker,
    late_broker,
    killed_worker,
)


def play_round(furniture: Furniture, fault: Callable[[Stage], None]) -> int:
    """One fault under load, and silence after it; how many requests it was."""
    clients = Clients(furniture.ports, f"/{furniture.requests}", Habits(connections=24))
    stage = Stage(furniture, clients, Habits(), FAULTS_A_ROUND, lambda _: None, random.Random())
    with clients:
        clients.sent(1000)
        fault(stage)
    gateway = furniture.gateways[0]
    eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 30, "nothing is in flight: every slot is back")
    return sum(len(group.told) for group in (clients, *stage.more_clients))


def long_lived(furniture: Furniture) -> dict[str, int]:
    """Those that live through all rounds."""
    gateway = furniture.gateways[0]
    agent = next(pid for pid, title in gateway.children().items() if title.endswith(" agent"))
    assert gateway.process is not None
    return {"supervisor": gateway.process.pid, "agent": agent, "worker 0": gateway.worker_pid(0)}


def judge(looks: Sequence[Look]) -> list[tuple[str, float, float, bool]]:
    """(what, before, after, whether it has grown) of one process."""
    quarter = len(looks) // 4
    found = []
    for number, what in enumerate(Look._fields):
        before = statistics.median(look[number] for look in looks[quarter : 2 * quarter])
        after = statistics.median(look[number] for look in looks[-quarter:])
        allowed = max(before * MEMORY_MORE, before + MEMORY_MORE_MB) if what == "memory_mb" else before
        found.append((what, before, after, after > allowed))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make leaks", description="Mixed load and faults; does anything grow?")
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    with (
        RealKafka(java_options=LASTING) as broker,
        tempfile.TemporaryDirectory(prefix="fastgw-leaks-") as folder,
        open_house(HOUSE, Kafka("own", broker.bootstrap, broker.bootstrap, broker), Path(folder)) as furniture,
    ):
        return report(*play_for(furniture, 60 * minutes))


def play_for(furniture: Furniture, seconds: float) -> tuple[dict[str, list[Look]], int]:
    """Round after round, each fault twice at least: what was seen of each process, and how many requests it was."""
    processes = long_lived(furniture)
    looks: dict[str, list[Look]] = {name: [] for name in processes}
    requests, ends_s = 0, time.monotonic() + seconds
    for number, fault in enumerate(cycle(FAULTS), 1):
        requests += play_round(furniture, fault)
        for name, pid in processes.items():
            looks[name].append(look_at(pid))
        told = ", ".join(f"{name} {of[-1].memory_mb:.1f} MB {of[-1].files} files" for name, of in looks.items())
        print(f"round {number}, {fault.__name__}: {requests:,} requests, {told}", flush=True)
        if time.monotonic() > ends_s and number >= 2 * len(FAULTS):
            break
    assert long_lived(furniture) == processes, "one of those that should have lived through it has died"
    return looks, requests


def report(looks: dict[str, list[Look]], requests: int) -> int:
    """Prints the table; the exit status."""
    rounds = len(next(iter(looks.values())))
    print(f"\n{requests:,} requests in {rounds} rounds, every slot given back\n\n| process | what | before | after |")
    print("| --- | --- | --- | --- |")
    grown = False
    for name, of in looks.items():
        for what, before, after, has_grown in judge(of):
            grown |= has_grown
            print(f"| {name} | {what} | {before:.1f} | {after:.1f}{' GROWN' if has_grown else ''} |")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
