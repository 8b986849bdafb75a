"""Scenarios in which a process of the gateway dies, hangs or runs out of memory."""

from __future__ import annotations

import os
import signal

from tests.faults.oracle import CUT
from tests.faults.play import Scenario
from tests.faults.stage import House, Stage

HOUSE = House(workers=3)


def killed_workers(stage: Stage) -> None:
    """SIGKILL at random moments, whatever the worker is doing: starting, draining, serving."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        slot = stage.chance.randrange(stage.furniture.house.workers)
        pid = stage.gateway.worker_pid(slot)
        with stage.fault(lambda slot=slot, pid=pid: replaced(stage, slot, pid)):
            os.kill(pid, signal.SIGKILL)


def replaced(stage: Stage, slot: int, pid: int) -> bool:
    """Whether another process than this one serves in the slot."""
    workers = stage.gateway.status()["workers"]
    return any(worker["slot"] == slot and worker["pid"] != pid and worker["ready"] for worker in workers)


SCENARIOS = [
    Scenario("worker killed", HOUSE, killed_workers, {CUT: 12}, short=3, long=10_000),
]
