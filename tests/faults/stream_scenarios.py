"""Scenarios of streams: whatever dies, nobody gets an item twice, misses one, or is told an end that is none.

The clients (stream_clients.py) ask for lines, arrays, bytes and events; those of events come back. Others send plain
requests beside them.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import replace

from tests.faults.broker_scenarios import frozen_broker
from tests.faults.clients import Habits
from tests.faults.drain_scenarios import reloads
from tests.faults.node_scenarios import rolling_restart
from tests.faults.oracle import ANSWERED, CUT, REFUSED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import IDLE_S, House, Stage, wait
from tests.faults.stream_oracle import streams_by_attempts
from tests.faults.ticket_scenarios import (
    NO_BROKER,
    NO_STORE,
    P99_MORE_S,
    P99_TIMES,
    PLAIN,
    Play,
    dead_supervisors,
    during,
    has_store,
    killed_brokers,
    killed_nodes,
    killed_stores,
    p99_s,
    plain_too,
    store_of,
)
from tests.faults.topic_slice import TopicSlice
from tests.faults.worker_scenarios import dead_agents, killed_workers
from tests.waiting import eventually

HOUSE = House(streams=True, timeout="20s")
TWO_NODES = HOUSE._replace(nodes=2, cluster="static")
BROKERS = HOUSE._replace(kafka="cluster")

# Some streams take a fifth of a second, and some fail because they are asked to.
STREAMS = Habits(connections=24, streams=True, manners=(b"", b"", b"pause=20", b"fail=2"), silent_after_s=60.0)
# Each of these streams is open for a while.
OPEN = Habits(connections=100, streams=True, manners=(b"pause=400",), items=6, silent_after_s=60.0)
MANY = replace(OPEN, connections=1000, manners=(b"pause=1000",))
SLOW_ITEMS, SLOW_ITEM_BYTES = 4000, 1000
SLOW = Habits(
    connections=1, streams=True, only_events=True, manners=(b"size=%d" % SLOW_ITEM_BYTES,), bytes_per_s=1000,
    silent_after_s=600.0, once=True,
)  # fmt: skip
CONNECTIONS = STREAMS.connections + PLAIN.connections
# Who connects anew at once may have to wait for the dead worker's successor, and is cut off when that takes too long.
TWICE_CUT = {CUT: 2 * CONNECTIONS}

# What has begun and cannot go on. The topic has to show that it is so.
BROKEN = {"stream_broken": ANY, "stream_idle": ANY}
NO_NODE = {**NO_STORE, **BROKEN, **TWICE_CUT, REFUSED: ANY, "not_ready": ANY, "draining": ANY}
NO_SERVICE = {**BROKEN, "expired": ANY, CUT: CONNECTIONS}  # arrays and bytes break off

FREEZES_S = IDLE_S + 2.0, IDLE_S + 15.0  # shorter than the supervisor waits for a store, and longer
BEFORE_S, SLOW_S = 1.0, 3.0
SOON_S = 30.0


def frozen_stores(stage: Stage) -> None:
    """SIGSTOP for the store, for longer than a stream may stand still: plain requests are as fast as before."""
    with stage.also(PLAIN) as plain:
        for number in range(stage.faults_wanted):
            before = during(plain, lambda: wait(BEFORE_S))
            frozen, freeze_s = store_of(stage.gateway), FREEZES_S[number % 2]
            with stage.fault(lambda: has_store(stage.gateway)):
                os.kill(frozen, signal.SIGSTOP)
                try:
                    meanwhile = during(plain, lambda freeze_s=freeze_s: wait(freeze_s))
                finally:
                    if frozen in stage.gateway.children():  # the supervisor has not replaced it
                        os.kill(frozen, signal.SIGCONT)
            assert p99_s(meanwhile) < P99_TIMES * p99_s(before) + P99_MORE_S
    assert {one.ending for one in plain.told} == {ANSWERED}, "plain requests do not notice"


def killed_services(stage: Stage) -> None:
    """SIGKILL for the service in the midst of its streams; its successor gets some of their requests once more."""
    furniture = stage.furniture
    records = TopicSlice(furniture.kafka.bootstrap, furniture.streams)
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            furniture.stream_service.kill()
            furniture.stream_service.wait()
            furniture.start_stream_service()
    by_attempts = streams_by_attempts(records.read())
    stage.progress(f"streams by the runs of their handler: {by_attempts}")
    assert sum(count for attempts, count in by_attempts.items() if attempts > 1), "a request came once more"


def slow_client(stage: Stage) -> None:
    """A client reads 1 kB/s of a large stream: the others are as fast as before, and in the end it has everything."""
    slow = replace(SLOW, items=SLOW_ITEMS * stage.faults_wanted)
    before = during(stage.clients, lambda: wait(BEFORE_S))
    with stage.also(slow), stage.fault():
        eventually(lambda: stage.gateway.metric("fastgw_store_follows_behind") >= 1, SOON_S, "it is behind")
        meanwhile = during(stage.clients, lambda: wait(SLOW_S * stage.faults_wanted))
        held = sum(worker["answer_bytes"] for worker in stage.gateway.status()["workers"])
    stage.progress(f"p99 of the others: {p99_s(before) * 1e3:.1f} ms before, {p99_s(meanwhile) * 1e3:.1f} ms meanwhile")
    assert p99_s(meanwhile) < P99_TIMES * p99_s(before) + P99_MORE_S
    assert held < SLOW_ITEMS * SLOW_ITEM_BYTES / 8, "the log is its buffer"


def many_open(play: Play) -> Play:
    """The scenario when all clients have a stream open."""

    def played(stage: Stage) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        many = stage.habits.connections
        opened = lambda: sum(node.metric("fastgw_streams") for node in stage.gateways)  # noqa: E731
        eventually(lambda: opened() >= many * 3 / 4, 2 * SOON_S, f"{many} streams are open")
        began_s = time.monotonic()
        play(stage)
        stage.progress(f"{many} streams, {time.monotonic() - began_s:.1f} s")

    played.__doc__ = play.__doc__
    return played


def _row(
    name: str,
    house: House,
    play: Play,
    may_fail: dict[str, int],
    habits: Habits = STREAMS,
    long_habits: Habits | None = None,
    long: int = 8,
    only_soak: bool = False,
) -> Scenario:
    return Scenario(
        f"streams: {name}", house, play, may_fail, long=long, habits=habits, long_habits=long_habits,
        only_soak=only_soak,
    )  # fmt: skip


SCENARIOS = [
    _row("worker killed", HOUSE, plain_too(killed_workers), TWICE_CUT),
    _row("store killed", HOUSE, killed_stores, NO_STORE),
    _row("store frozen", HOUSE, frozen_stores, {**NO_STORE, **BROKEN, CUT: CONNECTIONS}),
    _row("agent killed", HOUSE, plain_too(dead_agents), {}),
    _row("supervisor killed and started again", HOUSE, plain_too(dead_supervisors), NO_NODE),
    _row("service killed, requests redelivered", HOUSE, plain_too(killed_services), NO_SERVICE),
    _row("a client reads 1 kB/s", HOUSE, slow_client, {}, long=25),
    _row("reload with open streams", HOUSE, many_open(reloads), {}, OPEN, MANY),
    _row("one of two nodes killed", TWO_NODES, plain_too(killed_nodes), NO_NODE),
    _row("rolling restart with open streams", TWO_NODES, many_open(rolling_restart), NO_NODE, OPEN, MANY),
]

# Played with the others that need three brokers.
WITH_BROKERS = [
    _row("broker killed", BROKERS, plain_too(killed_brokers), {**NO_BROKER, **NO_SERVICE}, only_soak=True),
    _row("broker frozen", BROKERS, plain_too(frozen_broker), {**NO_BROKER, **NO_SERVICE}),
]
