"""One worker as the supervisor sees it: which generation comes next, when, and whether it accepts connections."""

from __future__ import annotations

from math import inf
from typing import cast

import pytest

from fastgw.back_off import BackOff
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.times import SupervisorTimes
from fastgw.supervisor.workers import Worker, back_off_of, not_accepting, run_ended


class FakeChild:
    """Stands for a process: a worker looks at nothing but these."""

    def __init__(self, generation: int, state: State = State.READY, started_at: float = 0.0) -> None:
        self.generation = generation
        self.state = state
        self.started_at = started_at


def child(generation: int) -> Child:
    return cast(Child, FakeChild(generation))


def worker(generation: int = -1, current: int | None = None, outgoing: tuple[int, ...] = ()) -> Worker:
    made = Worker(3, back_off_of(SupervisorTimes()), generation)
    made.current = None if current is None else child(current)
    made.outgoing = [child(number) for number in outgoing]
    return made


def test_a_good_run_makes_the_next_start_immediate_and_the_pauses_small_again() -> None:
    times = SupervisorTimes(retry_first=0.1, retry_last=10.0, good_run=10.0)
    back_off, waited = back_off_of(times), []
    for now, ran_s in enumerate([0.0, 9.9, 10.0, 0.0, 3600.0, 0.5]):
        run_ended(back_off, now, ran_s, times)
        waited.append(round(back_off.due_at - now, 3))
    assert waited == [0.1, 0.2, 0.0, 0.1, 0.0, 0.1]


@pytest.mark.parametrize(
    ("given", "generation"),
    [
        (worker(), 0),
        (worker(0, current=0), 1),
        (worker(255, current=255), 0),
        (worker(254, current=254), 255),
        (worker(1, outgoing=(0,)), 3),  # 2 would share its range with 0, which drains
        (worker(255, outgoing=(254,)), 1),
        (worker(1, current=1, outgoing=(0,)), None),
    ],
)
def test_the_next_generation_is_the_first_whose_range_in_the_table_is_free(
    given: Worker, generation: int | None
) -> None:
    assert given.next_generation() == generation


def test_the_incoming_process_takes_over_and_the_one_before_goes_out() -> None:
    rolled = worker(0, current=0)
    before, after = rolled.current, child(1)
    rolled.incoming = after
    assert rolled.succeed() is before
    assert (rolled.current, rolled.incoming, rolled.outgoing) == (after, None, [before])
    assert rolled.processes() == [after, before]


def numbered(number: int, current: FakeChild | None = None, due_at: float = inf) -> Worker:
    made = Worker(number, BackOff(0.1, 10.0, due_at))
    made.current = cast(Child, current)
    return made


def is_ready(process: Child) -> bool:
    return process.state is State.READY


NOW = 100.0
TIMES = SupervisorTimes(queue=0.5, queue_more=2.0)


@pytest.mark.parametrize(
    ("second", "away"),
    [
        (numbered(1, FakeChild(0)), []),
        (numbered(1, due_at=NOW + 0.4), []),  # short enough to wait in its queue
        (numbered(1, due_at=NOW + 0.6), [1]),
        (numbered(1, FakeChild(1, State.STARTING, NOW - 1.9)), []),
        (numbered(1, FakeChild(1, State.STARTING, NOW - 2.1)), [1]),
        (numbered(1, FakeChild(1, State.STOPPING, NOW - 60.0)), []),  # it hung, is killed, and its successor is near
    ],
)
def test_a_worker_that_accepts_nothing_for_a_while_is_named_if_another_does(second: Worker, away: list[int]) -> None:
    assert not_accepting([numbered(0, FakeChild(0)), second], NOW, TIMES, is_ready) == set(away)


def test_when_no_worker_accepts_all_queues_stay_open() -> None:
    starting = numbered(0, FakeChild(1, State.STARTING, NOW - 20))
    assert not_accepting([starting, numbered(1, due_at=NOW + 9)], NOW, TIMES, is_ready) == set()


def test_a_worker_whose_next_generation_is_ready_accepts() -> None:
    rolling = numbered(1, FakeChild(0, State.STOPPING))
    rolling.incoming = cast(Child, FakeChild(1))
    assert not_accepting([numbered(0, FakeChild(0)), rolling], NOW, TIMES, is_ready) == set()


@pytest.mark.parametrize(
    "second",
    [numbered(1, due_at=NOW + 0.4), numbered(1, FakeChild(1, State.STARTING, NOW - 0.1)), numbered(1, FakeChild(1))],
)
def test_a_worker_stays_among_them_until_it_accepts_again(second: Worker) -> None:
    served = second.current is not None and is_ready(second.current)
    away = not_accepting([numbered(0, FakeChild(0)), second], NOW, TIMES, is_ready, before={1})
    assert away == (set() if served else {1})
