"""A store can do nothing for a while, and plain requests must not notice: they are as fast as before.

Rounds with the fault and rounds without it alternate, and clients of plain requests send at the same rate in all of
them. Of each kind of round the p99 is taken, and two p99 are compared: with the fault and without it. How much two
rounds differ in which nothing happens is measured in the same way: that is the noise of the machine.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from random import Random
from statistics import median
from time import monotonic
from typing import NamedTuple

from tests.faults.clients import Clients, Habits, ending_of
from tests.faults.key_clients import KeyClients
from tests.faults.oracle import ANSWERED, AS_ASKED, Told
from tests.faults.play import Scenario
from tests.faults.stage import House, Stage, wait
from tests.faults.ticket_scenarios import NO_STORE, P99_MORE_S, P99_TIMES, has_store, p99_s, store_of

HOUSE = House(defers=True)
KEYS_ON_DISKS = House(keys=True, own_disks=True)
ON_DISKS = HOUSE._replace(own_disks=True)
# So few that neither core is busy: what stands still must not make the others faster.
STEADY = Habits(connections=8, rate=200.0)
KEPT = Habits(connections=8, rate=40.0, defers=True, body_bytes=2000, silent_after_s=20.0)
WITH_KEYS = Habits(connections=16, rate=150.0, keys=True, silent_after_s=30.0)
OF_KEYS = {"claim_late", "key_busy", "expired"}  # how a request with a key may end if the store is late
ROUND_S = 3.0  # longer than a look into the store may take
AFTER_S = 0.5  # between two rounds
ROUNDS_MIN = 10  # of each kind, for more than a look for disasters
TIMES = 1.10
DRAWINGS = 1000
CALM, CALM_TOO, FAULT = "calm", "calm too", "fault"

Fault = Callable[[Stage], AbstractContextManager[None]]


class Round(NamedTuple):
    """What was done, and from when to when (monotonic)."""

    kind: str
    began_s: float
    ended_s: float


def unnoticed(inject: Fault, endings: frozenset[str]) -> Callable[[Stage], None]:
    """The scenario with this fault.

    Args:
        endings: those of deferred requests that show that it was one; empty: none is refused.
    """

    def play(stage: Stage) -> None:
        rounds: list[Round] = []
        with stage.also(STEADY) as plain:
            for _ in range(stage.faults_wanted):
                kinds = [CALM, CALM_TOO, FAULT]
                stage.chance.shuffle(kinds)
                rounds += [_round(stage, kind, inject) for kind in kinds]
        assert {one.ending for one in plain.told} == {ANSWERED}, "plain requests do not notice"
        told = endings_of(stage.clients)
        assert told <= {*AS_ASKED, *NO_STORE, *OF_KEYS}, f"expected documented endings, got {told}"
        assert not endings or told & endings, f"expected that some deferred requests are told of {endings}, got {told}"
        _compare(stage, plain.told, rounds)

    play.__doc__ = inject.__doc__
    return play


def endings_of(clients: Clients) -> set[str]:
    """How requests that need the store ended, one by one."""
    if not isinstance(clients, KeyClients):
        return {one.ending for one in clients.told}
    return {ANSWERED if one.is_of_service else ending_of(json.loads(one.body)) for one in clients.heard}


def _round(stage: Stage, kind: str, inject: Fault) -> Round:
    if kind != FAULT:
        began_s = monotonic()
        wait(ROUND_S)
        done = Round(kind, began_s, monotonic())
    else:
        with stage.fault(lambda: has_store(stage.gateway)), inject(stage):
            began_s = monotonic()
            wait(ROUND_S)
            done = Round(kind, began_s, monotonic())
    wait(AFTER_S)
    return done


def _compare(stage: Stage, told: list[Told], rounds: list[Round]) -> None:
    p99s = {kind: [p99_of(told, one) for one in rounds if one.kind == kind] for kind in (CALM, CALM_TOO, FAULT)}
    calm = [min(pair) for pair in zip(p99s[CALM], p99s[CALM_TOO], strict=True)]
    if len(calm) < ROUNDS_MIN:
        assert median(p99s[FAULT]) < P99_TIMES * median(calm) + P99_MORE_S, f"{p99s}"
        return
    noise = noise_of(p99s[CALM_TOO], p99s[CALM], stage.chance)
    times = (ratio(p99s[FAULT], p99s[CALM]) * ratio(p99s[FAULT], p99s[CALM_TOO])) ** 0.5
    stage.notes.append(f"p99 of plain requests: {times:.3f} times that of calm rounds; these differ by {noise:.3f}")
    assert times <= TIMES * noise, f"{p99s}"


def p99_of(told: list[Told], during: Round) -> float:
    """The p99 of the requests that began in this round, in seconds."""
    return p99_s([one for one in told if during.began_s <= one.began_s < during.ended_s])


def ratio(some: list[float], others: list[float]) -> float:
    """How much longer these took than those of the same number: the median, which one bad round does not move."""
    return median(one / other for one, other in zip(some, others, strict=True))


def noise_of(some: list[float], others: list[float], chance: Random) -> float:
    """How far `ratio` is from 1, in either direction, in 19 of 20 drawings of as many pairs of calm rounds."""
    pairs = list(zip(some, others, strict=True))
    drawn = [chance.choices(pairs, k=len(pairs)) for _ in range(DRAWINGS)]
    ratios = [ratio([one for one, _ in pairs], [other for _, other in pairs]) for pairs in drawn]
    return sorted(max(one, 1 / one) for one in ratios)[DRAWINGS * 19 // 20]


@contextmanager
def frozen_store(stage: Stage) -> Iterator[None]:
    """SIGSTOP for the store."""
    pid = store_of(stage.gateway)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen_disk(stage: Stage) -> Iterator[None]:
    """The store's disk is frozen: whoever writes to it waits."""
    with stage.furniture.disks[0].frozen():
        yield


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """The store's disk is full."""
    with stage.furniture.disks[0].full():
        yield


def _row(
    name: str, house: House, inject: Fault, habits: Habits = KEPT, endings: frozenset[str] = frozenset()
) -> Scenario:
    return Scenario(name, house, unnoticed(inject, endings), NO_STORE, long=40, habits=habits)


SCENARIOS = [
    _row("deferred answers: store frozen", HOUSE, frozen_store),
    _row("deferred answers: disk frozen", ON_DISKS, frozen_disk),
    _row("deferred answers: disk full", ON_DISKS, full_disk, endings=frozenset(NO_STORE)),
]

KEY_SCENARIOS = [
    replace(_row("keys: store frozen", KEYS_ON_DISKS, frozen_store, WITH_KEYS), only_soak=True),
    replace(_row("keys: disk frozen", KEYS_ON_DISKS, frozen_disk, WITH_KEYS), only_soak=True),
    _row("keys: disk full", KEYS_ON_DISKS, full_disk, WITH_KEYS, frozenset(NO_STORE)),
]
