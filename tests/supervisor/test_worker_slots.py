"""One worker slot as the supervisor sees it: which generation comes next, and when."""

from __future__ import annotations

from math import inf
from typing import cast

import pytest

from fastgw.supervisor.children import Child, State
from fastgw.supervisor.worker_slots import BackOff, Slot, SupervisorTimes, deaf_slots


class FakeChild:
    """Stands for a process: a slot looks at nothing but these."""

    def __init__(self, generation: int, state: State = State.READY, started_at: float = 0.0) -> None:
        self.generation = generation
        self.state = state
        self.started_at = started_at


def child(generation: int) -> Child:
    return cast(Child, FakeChild(generation))


def slot(generation: int = -1, current: int | None = None, outgoing: tuple[int, ...] = ()) -> Slot:
    made = Slot(3, BackOff(SupervisorTimes()), generation)
    made.current = None if current is None else child(current)
    made.outgoing = [child(number) for number in outgoing]
    return made


def pauses(runs_s: list[float]) -> list[float]:
    """How long each successor waits after processes that ran this long."""
    back_off = BackOff(SupervisorTimes(retry_first=0.1, retry_last=10.0, good_run=10.0))
    waited = []
    for now, ran_s in enumerate(runs_s):
        back_off.ended(now, ran_s)
        waited.append(round(back_off.start_at - now, 3))
    return waited


def test_the_pause_doubles_with_each_short_run_up_to_its_bound() -> None:
    assert pauses([0.0] * 9) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_good_run_makes_the_next_start_immediate_and_the_pauses_small_again() -> None:
    assert pauses([0.0, 9.9, 10.0, 0.0, 3600.0, 0.5]) == [0.1, 0.2, 0.0, 0.1, 0.0, 0.1]


def test_a_successor_is_due_once() -> None:
    back_off = BackOff(SupervisorTimes())
    assert not back_off.due(1e9)
    back_off.ended(100.0, 0.0)
    assert not back_off.due(100.0)
    assert back_off.due(100.1)
    assert not back_off.due(200.0)
    back_off.ended(100.0, 0.0)
    back_off.cancel()
    assert back_off.start_at == inf


@pytest.mark.parametrize(
    ("given", "generation"),
    [
        (slot(), 0),
        (slot(0, current=0), 1),
        (slot(255, current=255), 0),
        (slot(254, current=254), 255),
        (slot(1, outgoing=(0,)), 3),  # 2 would share its range with 0, which drains
        (slot(255, outgoing=(254,)), 1),
        (slot(1, current=1, outgoing=(0,)), None),
    ],
)
def test_the_next_generation_is_the_first_whose_range_in_the_table_is_free(given: Slot, generation: int | None) -> None:
    assert given.next_generation() == generation


def test_the_incoming_process_takes_over_and_the_one_before_goes_out() -> None:
    rolled = slot(0, current=0)
    before, after = rolled.current, child(1)
    rolled.incoming = after
    assert rolled.succeed() is before
    assert (rolled.current, rolled.incoming, rolled.outgoing) == (after, None, [before])
    assert rolled.children() == [after, before]


def numbered(number: int, current: FakeChild | None = None, start_at: float = inf) -> Slot:
    made = Slot(number, BackOff(SupervisorTimes(), start_at))
    made.current = cast(Child, current)
    return made


def is_ready(process: Child) -> bool:
    return process.state is State.READY


NOW = 100.0
PATIENCE = SupervisorTimes(queue=0.5, queue_more=2.0)


@pytest.mark.parametrize(
    ("second", "deaf"),
    [
        (numbered(1, FakeChild(0)), []),
        (numbered(1, start_at=NOW + 0.4), []),  # short enough to wait in its queue
        (numbered(1, start_at=NOW + 0.6), [1]),
        (numbered(1, FakeChild(1, State.STARTING, NOW - 1.9)), []),
        (numbered(1, FakeChild(1, State.STARTING, NOW - 2.1)), [1]),
        (numbered(1, FakeChild(1, State.STOPPING, NOW - 60.0)), []),  # it hung, is killed, and its successor is near
    ],
)
def test_a_slot_that_accepts_nothing_for_a_while_is_deaf_if_another_serves(second: Slot, deaf: list[int]) -> None:
    assert deaf_slots([numbered(0, FakeChild(0)), second], NOW, PATIENCE, is_ready) == set(deaf)


def test_when_nobody_serves_no_slot_is_deaf() -> None:
    starting = numbered(0, FakeChild(1, State.STARTING, NOW - 20))
    assert deaf_slots([starting, numbered(1, start_at=NOW + 9)], NOW, PATIENCE, is_ready) == set()


def test_a_slot_whose_next_generation_is_ready_is_not_deaf() -> None:
    rolling = numbered(1, FakeChild(0, State.STOPPING))
    rolling.incoming = cast(Child, FakeChild(1))
    assert deaf_slots([numbered(0, FakeChild(0)), rolling], NOW, PATIENCE, is_ready) == set()


@pytest.mark.parametrize(
    "second",
    [numbered(1, start_at=NOW + 0.4), numbered(1, FakeChild(1, State.STARTING, NOW - 0.1)), numbered(1, FakeChild(1))],
)
def test_a_deaf_slot_stays_so_until_somebody_serves_in_it(second: Slot) -> None:
    served = second.current is not None and is_ready(second.current)
    deaf = deaf_slots([numbered(0, FakeChild(0)), second], NOW, PATIENCE, is_ready, deaf={1})
    assert deaf == (set() if served else {1})
