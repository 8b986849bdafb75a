"""Who accepts connections and whose heart beats, as the shared table says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf
from typing import cast

import pytest

from fastgw import table
from fastgw.messages import StoreGauge
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.liveness import Liveness
from fastgw.supervisor.times import SupervisorTimes

TIMES = SupervisorTimes(hung=2.0, agent_hung=10.0, look=0.25)
NS = 1_000_000_000


class FakeChild:
    """Stands for a process."""

    def __init__(self, worker: int = -1, state: State = State.READY, ready_at: float = inf, kind: str = "") -> None:
        self.worker, self.generation, self.state, self.ready_at = worker, 0, state, ready_at
        self.kind = kind

    @property
    def is_worker(self) -> bool:
        return self.worker >= 0


def child(worker: int = -1, state: State = State.READY, ready_at: float = inf, kind: str = "agent") -> Child:
    return cast(Child, FakeChild(worker, state, ready_at, kind))


class Place:
    """A table with two workers, and the supervisor's eyes on it."""

    def __init__(self, shared: table.Table) -> None:
        self.table = shared
        self.liveness = Liveness(shared, TIMES)
        for worker in (0, 1):
            shared.register(table.process_index(worker, 0), os.getpid(), worker, 0)

    def beat(self, worker: int, at_s: float) -> None:
        self.table.heartbeat(table.process_index(worker, 0), int(at_s * NS), 0, -1, 0)

    def hung_after(self, one: Child, now: float) -> bool:
        """Whether it counts as hung, to somebody who has looked all the time."""
        self.liveness.hung([], now - TIMES.look)
        return self.liveness.hung([one], now) == [one]


@pytest.fixture
def place() -> Iterator[Place]:
    fd, shared = table.create(1, 2, 16)
    yield Place(shared)
    os.close(fd)


def test_a_worker_that_starts_accepts_once_it_says_so_in_the_table(place: Place) -> None:
    starting = child(0, State.STARTING)
    assert not place.liveness.accepts(starting)
    place.table.set_ready(table.process_index(0, 0), True)
    assert place.liveness.accepts(starting)


@pytest.mark.parametrize(("state", "accepts"), [(State.READY, True), (State.STOPPING, False)])
def test_a_worker_that_was_heard_accepts_while_it_is_ready(place: Place, state: State, accepts: bool) -> None:
    assert place.liveness.accepts(child(0, state)) is accepts


def test_a_worker_without_heartbeat_is_hung_after_its_time(place: Place) -> None:
    place.beat(0, 100)
    assert not place.hung_after(child(0), 102)
    assert place.hung_after(child(0), 102.1)
    assert not place.hung_after(child(0, State.STOPPING), 200), "it may take as long as its drain"


def test_a_worker_that_has_not_begun_is_not_hung(place: Place) -> None:
    assert not place.hung_after(child(0, State.STARTING), 1e9)


def test_the_agent_has_more_time_and_the_beat_of_the_one_before_it_counts_not(place: Place) -> None:
    place.table.agent_beats(100 * NS)
    assert not place.hung_after(child(ready_at=99), 110)
    assert place.hung_after(child(ready_at=99), 110.1)
    assert not place.hung_after(child(ready_at=105), 115)
    assert not place.hung_after(child(state=State.STARTING), 1e9)


def test_the_store_is_judged_by_its_own_beat(place: Place) -> None:
    place.table.agent_beats(200 * NS)
    place.table.store_beats(100 * NS)
    assert not place.hung_after(child(ready_at=99, kind="store"), 110)
    assert place.hung_after(child(ready_at=99, kind="store"), 110.1)


def test_nobody_is_blamed_when_the_supervisor_itself_stood_still(place: Place) -> None:
    place.beat(0, 100)
    one = child(0)
    place.liveness.hung([one], 100)
    assert place.liveness.hung([one], 110) == []
    assert place.liveness.hung([one], 110.5) == [], "it is given its time to show itself"
    for now in (111.0, 111.5):
        place.liveness.hung([], now)
    assert place.liveness.hung([one], 112.1) == [one]


def test_all_is_well_while_every_worker_that_became_ready_beats(place: Place) -> None:
    ready, other, starting = child(0, ready_at=100), child(1, ready_at=100), child(1, State.STARTING)
    assert not place.liveness.all_well([starting], 101), "nobody has become ready"
    assert place.liveness.all_well([ready, starting], 101)
    assert place.liveness.all_well([ready, other], 101)
    place.beat(0, 103)
    assert not place.liveness.all_well([ready, other], 103)


def test_a_store_can_answer_when_it_says_so_itself_and_not_the_one_before_it(place: Place) -> None:
    place.table.set_store_gauge(StoreGauge.READY, 1)
    place.table.store_beats(100 * NS)
    assert not place.liveness.store_serves(101.0), "the last one was ready"
    place.table.set_store_gauge(StoreGauge.READY, 0)
    place.table.store_beats(102 * NS)
    assert not place.liveness.store_serves(101.0), "it still reads"
    place.table.set_store_gauge(StoreGauge.READY, 1)
    assert place.liveness.store_serves(101.0)
