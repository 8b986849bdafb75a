"""Scenarios of deferred answers: whatever dies, a status URL tells what was decided, and plain requests do not notice.

The clients follow status URLs (ticket_clients.py); others send plain requests beside them. A deferred request that got
its 202 may not fail: its client asks until it is told, on whatever node.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from mmap import PAGESIZE
from pathlib import Path

from tests.faults.clients import Clients, Habits
from tests.faults.oracle import ANSWERED, CUT, REFUSED, Told
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.faults.worker_scenarios import dead_agents, killed_workers
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

HOUSE = House(defers=True)
TWO_NODES = HOUSE._replace(nodes=2, cluster="static")
BROKERS = HOUSE._replace(kafka="cluster")

# Some replies come 2 s after their request, so that every fault meets requests that are deferred and not answered.
DEFERS = Habits(connections=24, defers=True, manners=(b"now",) * 7 + (b"slow",), silent_after_s=20.0)
TWICE = Habits(connections=24, defers=True, manners=(b"twice",), silent_after_s=20.0)
PLAIN = Habits(connections=4, rests=True)
CONNECTIONS = DEFERS.connections + PLAIN.connections
ENDED_S = 20.0
READ_AGAIN = "kept replies are read again"  # in the log

# What is refused before it is recorded: the store of a node is away for a while, and then reads its topic.
NO_STORE = {"store_down": ANY, "store_restoring": ANY, "store_behind": ANY}
NO_NODE = {**NO_STORE, CUT: CONNECTIONS, REFUSED: ANY, "not_ready": ANY}
NO_BROKER = {**NO_STORE, "not_ready": ANY, "not_sent": ANY, "send_unknown": ANY, "expired": ANY, "expired_unknown": ANY}

# Of p99 of requests while something else is slow: a busy machine can explain so much, a wait for it cannot.
P99_TIMES, P99_MORE_S = 3.0, 0.25
PLAIN_MIN = 50  # requests, for a p99

Play = Callable[[Stage], None]


def plain_too(play: Play) -> Play:
    """The scenario with clients of plain requests beside those of deferred ones."""

    def played(stage: Stage) -> None:
        with stage.also(PLAIN):
            play(stage)

    played.__doc__ = play.__doc__
    return played


def killed_stores(stage: Stage) -> None:
    """SIGKILL for the store: plain requests do not notice, deferred ones are refused or wait for its successor."""
    with stage.also(PLAIN) as plain:
        for _ in range(stage.faults_wanted):
            stage.some_moment()
            killed = store_of(stage.gateway)
            with stage.fault(lambda killed=killed: has_store(stage.gateway, killed)):
                os.kill(killed, signal.SIGKILL)
    assert {one.ending for one in plain.told} == {ANSWERED}, "plain requests do not notice"


def dead_supervisors(stage: Stage) -> None:
    """SIGKILL for the supervisor; its children end, and it is started again over the same store."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        node = stage.gateway
        children = node.children()
        with ending_by_force(node), stage.fault():
            node.signal(signal.SIGKILL)
            node.stop()
            eventually(lambda children=children: no_store_in(children), ENDED_S, "its store has ended")
            node.start()


def killed_nodes(stage: Stage) -> None:
    """SIGKILL for every process of one node; the other one answers for both meanwhile."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        node = stage.chance.choice(stage.gateways)
        with stage.fault():
            kill(node)
        with stage.fault():
            node.start()


def killed_everything(stage: Stage) -> None:
    """SIGKILL for every process of every node, then a start over the same stores."""
    for _ in range(stage.faults_wanted):
        _restart_all(stage, lambda _index: None)


def deleted_stores(stage: Stage) -> None:
    """The same, and the directories of the stores are deleted meanwhile: they are read again from the topic."""
    for _ in range(stage.faults_wanted):
        _restart_all(stage, lambda index: shutil.rmtree(stage.furniture.store_dir(index)))


def damaged_stores(stage: Stage) -> None:
    """The same, and the files of the stores are damaged meanwhile: that is noticed, reported and repaired."""
    for number in range(stage.faults_wanted):
        ways = dict(enumerate(islice(cycle(DAMAGES), number, number + len(stage.gateways))))
        reported = [node.log_text.count(READ_AGAIN) for node in stage.gateways]
        _restart_all(stage, lambda index, ways=ways: ways[index](data_file(stage.furniture.store_dir(index))))
        for index, node in enumerate(stage.gateways):
            if ways[index] is not overwrite_a_page:  # it may be one that nobody reads
                assert node.log_text.count(READ_AGAIN) > reported[index], f"a report after {ways[index].__name__}"


def _restart_all(stage: Stage, meanwhile: Callable[[int], object]) -> None:
    """One fault; `meanwhile` gets the number of each node while none runs."""
    stage.some_moment()
    with stage.fault():
        for node in stage.gateways:
            kill(node)
        for index, node in enumerate(stage.gateways):
            meanwhile(index)
            node.launch()
        for node in stage.gateways:
            node.await_ready()


def killed_brokers(stage: Stage) -> None:
    """SIGKILL for one of three brokers, with a share of all partitions; later it is started again."""
    brokers = stage.broker
    for number in range(stage.faults_wanted):
        victim = 1 + number % 3
        with stage.fault():
            brokers.kill(victim)
            stage.clients.sent(DEFERS.connections)
            brokers.start_node(victim)


def two_replies(stage: Stage) -> None:
    """Every request gets a second reply in its partition: the first one decides, before and after a new store."""
    for _ in range(stage.faults_wanted):
        stage.clients.sent(5 * DEFERS.connections)
        with stage.fault():
            kill(stage.gateway)
            stage.gateway.start()


def kill(node: Gateway) -> None:
    """SIGKILL for every process of a node."""
    with ending_by_force(node):
        node.signal_all(signal.SIGKILL)
        node.stop()


@contextmanager
def ending_by_force(node: Gateway) -> Iterator[None]:
    node.exit_code = -signal.SIGKILL
    yield
    node.exit_code = 0


def store_of(node: Gateway) -> int:
    """The pid of the node's store."""
    return eventually(
        lambda: next((pid for pid, title in node.children().items() if title.endswith(" store")), 0), 30, "a store"
    )


def has_store(node: Gateway, other_than: int = 0) -> bool:
    """Whether a store of the node can answer, and is not that one."""
    return store_of(node) != other_than and node.status()["store"]["trouble"] is None and node.ready


def no_store_in(children: dict[int, str]) -> bool:
    """Whether the stores among these processes have ended."""
    return not any(Path(f"/proc/{pid}").exists() for pid, title in children.items() if title.endswith(" store"))


def data_file(folder: Path) -> Path:
    """The file of a store's tables."""
    (file,) = folder.rglob("data.mdb")
    return file


def cut_off(file: Path) -> None:
    """The second half is gone."""
    os.truncate(file, file.stat().st_size // 2)


def overwrite_the_rest(file: Path) -> None:
    """Only the two pages are left in which LMDB says where the others are."""
    with file.open("r+b") as opened:
        opened.seek(2 * PAGESIZE)
        opened.write(os.urandom(file.stat().st_size - 2 * PAGESIZE))


def overwrite_a_page(file: Path) -> None:
    """Any page but those two."""
    with file.open("r+b") as opened:
        opened.seek(random.randrange(2, file.stat().st_size // PAGESIZE) * PAGESIZE)
        opened.write(os.urandom(PAGESIZE))


DAMAGES = (cut_off, overwrite_a_page, overwrite_the_rest)


def during(clients: Clients, act: Callable[[], object]) -> list[Told]:
    """The requests of these clients that ended while something was done."""
    first = len(clients.told)
    act()
    clients.sent(max(0, PLAIN_MIN - (len(clients.told) - first)))
    return clients.told[first:]


def p99_s(told: list[Told]) -> float:
    """How long all but one of a hundred of these requests took at most."""
    return sorted(one.ended_s - one.began_s for one in told)[len(told) * 99 // 100]


def _row(
    name: str, house: House, play: Play, may_fail: dict[str, int], habits: Habits = DEFERS, only_soak: bool = False
) -> Scenario:
    return Scenario(f"deferred answers: {name}", house, play, may_fail, long=8, habits=habits, only_soak=only_soak)


SCENARIOS = [
    _row("worker killed", HOUSE, plain_too(killed_workers), {CUT: CONNECTIONS}),
    _row("store killed", HOUSE, killed_stores, NO_STORE),
    _row("agent killed", HOUSE, plain_too(dead_agents), {}, only_soak=True),
    _row("supervisor killed and started again", HOUSE, plain_too(dead_supervisors), NO_NODE),
    _row("two replies to each request", HOUSE, two_replies, NO_NODE, TWICE),
    _row("one of two nodes killed", TWO_NODES, plain_too(killed_nodes), NO_NODE, only_soak=True),
    _row("all processes killed", TWO_NODES, plain_too(killed_everything), NO_NODE),
    _row("all processes killed, stores deleted", TWO_NODES, plain_too(deleted_stores), NO_NODE),
    _row("all processes killed, stores damaged", TWO_NODES, plain_too(damaged_stores), NO_NODE),
]

# Played with the others that need three brokers.
WITH_BROKERS = [_row("broker killed", BROKERS, plain_too(killed_brokers), NO_BROKER, only_soak=True)]
