"""Scenarios in which a process of the gateway dies, hangs or runs out of memory."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from fastgw.supervisor.times import TIMES
from tests.faults.clients import Habits
from tests.faults.echo_service import ASTRAY as ASTRAY_MANNER
from tests.faults.oracle import CUT, REFUSED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage, wait
from tests.gateway.gateways import title_of
from tests.waiting import eventually

HOUSE = House(workers=4)
LOOP_SLOT = 3  # one that no scenario before has used up: the pause before a start grows with each short run
LARGE_HOUSE = House(workers=16, reply_partitions=32)  # each slot has a good run before its next turn
ASTRAY = HOUSE._replace(manners=(ASTRAY_MANNER,))
CONNECTIONS = Habits().connections
# Takes a worker more memory than it ever had; on new connections, so that among many workers it is met at all.
GREEDY = Habits(connections=32, body_bytes=900_000, fresh_each=True)
NOTICED_S, GRACE_S = 3.0, 1.0  # that a worker hangs; on a busy machine
LOOP_KILLS = 6  # a crash loop: by then the pause before the next start is 3.2 s
# A new connection must not have to wait as long for the slot in the loop. Half of this is what the supervisor promises;
# a busy machine may double it.
PATIENT_S = 2 * (TIMES.queue + TIMES.queue_more)


def killed_workers(stage: Stage) -> None:
    """SIGKILL at random moments, whatever the worker is doing."""
    for slot, pid in victims(stage):
        stage.some_moment()
        with stage.fault(lambda slot=slot, pid=pid: is_replaced(stage, slot, pid)):
            os.kill(pid, signal.SIGKILL)


def stopped_workers(stage: Stage) -> None:
    """SIGSTOP: the worker hangs, holds its connections, and says nothing."""
    for slot, pid in victims(stage):
        with stage.fault(lambda slot=slot, pid=pid: is_replaced(stage, slot, pid)) as fault:
            os.kill(pid, signal.SIGSTOP)
            eventually(lambda pid=pid: not title_of(pid), 30, "it was noticed and killed")
            noticed_s = time.monotonic() - fault.began_s
        stage.progress(f"noticed after {noticed_s:.2f} s")
        assert noticed_s < NOTICED_S + GRACE_S


def out_of_memory(stage: Stage) -> None:
    """A worker can map no more memory: it must not go on half-dead."""
    for slot, pid in victims(stage):
        with stage.fault(lambda slot=slot, pid=pid: is_replaced(stage, slot, pid)):
            # Of data and not of addresses: the heaps of threads have theirs from the start.
            _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
            resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes(pid), hard))
            with stage.also(GREEDY):
                eventually(lambda slot=slot, pid=pid: worker_in(stage, slot) != pid, 30, "it has ended")


def crash_loop(stage: Stage) -> None:
    """Whatever is started in a slot dies as soon as it is seen, again and again; the others serve."""
    with stage.fault():
        for _ in range(LOOP_KILLS):
            os.kill(eventually(lambda: worker_in(stage, LOOP_SLOT), 30, "somebody is in the slot"), signal.SIGKILL)
            eventually(lambda: worker_in(stage, LOOP_SLOT) == 0, 30, "it is gone")
        eventually(lambda: worker_in(stage, LOOP_SLOT), 30, "the next one is started")


def killed_in_reloads(stage: Stage) -> None:
    """SIGKILL for a worker at a random moment of its replacement, when two generations of it read the same."""
    for _ in range(stage.faults_wanted):
        done = stage.gateway.log_text.count('"reloaded"')
        slot, pid = some_worker(stage)
        with stage.fault(lambda slot=slot, pid=pid: is_replaced(stage, slot, pid)):
            stage.gateway.signal(signal.SIGHUP)
            eventually(lambda slot=slot: len(processes_in(stage, slot)) > 1, 30, "two generations")
            stage.some_moment(1.0)
            if title_of(pid):  # it may have ended in order
                os.kill(pid, signal.SIGKILL)
        eventually(lambda done=done: stage.gateway.log_text.count('"reloaded"') > done, 60, "the reload is over")


def dead_agents(stage: Stage) -> None:
    """SIGKILL for the agent: nobody notices."""
    for number in range(stage.faults_wanted):
        if number:
            wait(TIMES.good_run)  # after less, its successor has to wait
        pid = next(pid for pid, title in stage.gateway.children().items() if title.endswith(" agent"))
        with stage.fault(
            lambda pid=pid: any(title.endswith(" agent") for title in others(stage, pid)) and stage.all_ready()
        ):
            os.kill(pid, signal.SIGKILL)
        stage.clients.sent(100)


def dead_supervisor(stage: Stage) -> None:
    """SIGKILL for the supervisor: its children notice and end."""
    children = stage.gateway.children()
    stage.gateway.exit_code = -signal.SIGKILL
    with stage.fault(lambda: not any(map(title_of, children)), serves_on=False):
        stage.gateway.signal(signal.SIGKILL)


def data_bytes(pid: int) -> int:
    """How much private memory a process has mapped to write to."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def victims(stage: Stage) -> Iterator[tuple[int, int]]:
    """(slot, pid) of as many workers as faults are wanted.

    In turn: a slot that dies again after a short run is a crash loop, which is another scenario.
    """
    for number in range(stage.faults_wanted):
        slot = number % stage.furniture.house.workers
        yield slot, eventually(lambda slot=slot: worker_in(stage, slot), 30, f"a worker in slot {slot}")


def some_worker(stage: Stage) -> tuple[int, int]:
    """(slot, pid) of any worker that serves."""
    slot = stage.chance.randrange(stage.furniture.house.workers)
    return slot, eventually(lambda: worker_in(stage, slot), 30, f"a worker in slot {slot}")


def worker_in(stage: Stage, slot: int) -> int:
    """The pid of the process in a slot; 0 when there is none."""
    workers = stage.gateway.status()["workers"]
    return next((worker["pid"] for worker in workers if worker["slot"] == slot), 0)


def processes_in(stage: Stage, slot: int) -> list[int]:
    """The pids of all processes in a slot."""
    return [worker["pid"] for worker in stage.gateway.status()["workers"] if worker["slot"] == slot]


def is_replaced(stage: Stage, slot: int, pid: int) -> bool:
    """Whether another process than this one serves in the slot."""
    workers = stage.gateway.status()["workers"]
    return any(worker["slot"] == slot and worker["pid"] != pid and worker["ready"] for worker in workers)


def others(stage: Stage, pid: int) -> set[str]:
    return {title for other, title in stage.gateway.children().items() if other != pid}


SCENARIOS = [
    Scenario(
        "worker killed",
        HOUSE,
        killed_workers,
        {CUT: CONNECTIONS},
        short=3,
        long=10_000,
        long_house=LARGE_HOUSE,
    ),
    Scenario("worker hangs", HOUSE, stopped_workers, {CUT: CONNECTIONS}, long=500, long_house=LARGE_HOUSE),
    Scenario(
        "worker out of memory",
        HOUSE,
        out_of_memory,
        {CUT: CONNECTIONS + GREEDY.connections},
        long=1000,
        long_house=LARGE_HOUSE,
    ),
    Scenario(
        "crash loop of one worker",
        HOUSE,
        crash_loop,
        {CUT: CONNECTIONS * LOOP_KILLS},
        long=1,
        habits=Habits(fresh_each=True, silent_after_s=PATIENT_S),
    ),
    # A reply that came while nobody read its partition is late, not lost: none of these may expire.
    Scenario("worker killed, replies anywhere", ASTRAY, killed_workers, {CUT: CONNECTIONS}, short=4, long=100),
    Scenario("worker hangs, replies anywhere", ASTRAY, stopped_workers, {CUT: CONNECTIONS}, long=100),
    Scenario("worker killed in a reload, replies anywhere", ASTRAY, killed_in_reloads, {CUT: CONNECTIONS}, short=4),
    Scenario("agent killed", HOUSE, dead_agents, long=200),
    # Each of the workers may have one connection of a client in its queue when it closes.
    Scenario(
        "supervisor killed",
        HOUSE,
        dead_supervisor,
        {CUT: HOUSE.workers * CONNECTIONS, REFUSED: ANY},
        long=1,
        ends_service=True,
    ),
]
