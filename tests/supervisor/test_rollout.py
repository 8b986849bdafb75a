"""A reload as decisions: whose turn it is, which configuration each worker gets, and how it ends."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config import Config
from fastgw.state_file import OK, REFUSED, UNDONE
from fastgw.supervisor.rollout import TRANSITIONS, ConfigVersion, Event, Rollout, Stage, Step

OLD, NEW = (ConfigVersion(cast(Config, name), fd) for fd, name in enumerate(("old", "new")))


def begun() -> Rollout:
    rollout = Rollout(OLD)
    rollout.begin()
    rollout.fresh = NEW
    return rollout


def forward(workers: int = 3, replaced: int = 0) -> Rollout:
    rollout = begun()
    rollout.passed_check(workers)
    for _ in range(replaced):
        assert rollout.replaced() == Step()
    return rollout


def versions(rollout: Rollout, workers: int = 3) -> list[ConfigVersion]:
    return [rollout.version_of(worker) for worker in range(workers)]


def test_every_stage_but_idle_passes_or_fails_and_idle_begins() -> None:
    for stage in Stage:
        events = {event for event in Event if (stage, event) in TRANSITIONS}
        assert events == ({Event.BEGINS} if stage is Stage.IDLE else {Event.PASSES, Event.FAILS})


def test_a_reload_has_a_result_when_it_is_over_and_never_before() -> None:
    for stage, result in TRANSITIONS.values():
        assert (stage is Stage.IDLE) is bool(result)


def test_workers_are_replaced_one_after_the_other() -> None:
    rollout = forward(3)
    turns = []
    while rollout.turn is not None:
        assert rollout.target is NEW
        turns.append(rollout.turn)
        last = rollout.replaced()
    assert turns == [0, 1, 2]
    assert last == Step(OK, unused=OLD)
    assert (rollout.stage, rollout.current, rollout.fresh) == (Stage.IDLE, NEW, None)
    assert versions(rollout) == [NEW, NEW, NEW]


def test_a_successor_half_way_gets_what_its_worker_has() -> None:
    assert versions(Rollout(OLD)) == versions(begun()) == [OLD, OLD, OLD]
    assert versions(forward(3, replaced=2)) == [NEW, NEW, OLD]


@pytest.mark.parametrize("fresh", [NEW, None], ids=["checked", "not even read"])
def test_what_the_check_finds_refuses_it(fresh: ConfigVersion | None) -> None:
    rollout = begun()
    rollout.fresh = fresh
    assert rollout.failed("no such topic") == Step(REFUSED, "no such topic", fresh)
    assert (rollout.stage, rollout.current, rollout.fresh, rollout.turn) == (Stage.IDLE, OLD, None, None)


def test_when_a_worker_fails_those_before_it_go_back() -> None:
    rollout = forward(3, replaced=2)
    assert rollout.failed("worker 2: died") == Step(unused=NEW)
    assert (rollout.stage, rollout.turn, rollout.target) == (Stage.BACK, 0, OLD)
    assert versions(rollout) == [OLD, OLD, OLD], "a successor meanwhile has the old one, too"
    assert rollout.replaced() == Step()
    assert rollout.replaced() == Step(UNDONE, "worker 2: died")
    assert (rollout.stage, rollout.current) == (Stage.IDLE, OLD)


def test_when_the_first_worker_fails_nobody_has_to_go_back() -> None:
    assert forward(3).failed("worker 0: died") == Step(UNDONE, "worker 0: died", NEW)


def test_when_a_worker_fails_on_the_way_back_both_reasons_are_told() -> None:
    rollout = forward(3, replaced=1)
    rollout.failed("worker 1: died")
    assert rollout.failed("worker 0: died too") == Step(UNDONE, "worker 1: died; on the way back, worker 0: died too")


def test_the_reason_of_an_earlier_reload_is_forgotten() -> None:
    rollout = begun()
    rollout.failed("no such topic")
    rollout.begin()
    rollout.fresh = NEW
    rollout.passed_check(1)
    assert rollout.replaced() == Step(OK, unused=OLD)


@pytest.mark.parametrize("replaced", [0, 1])
def test_the_end_of_the_service_ends_it(replaced: int) -> None:
    rollout = forward(3, replaced)
    assert rollout.cancel() == Step(unused=NEW)
    assert (rollout.stage, rollout.turn) == (Stage.IDLE, None)
    assert versions(rollout) == [OLD, OLD, OLD]
    assert rollout.cancel() == Step()


def test_two_reloads_at_once_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        begun().begin()


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=20))
def test_every_version_but_the_current_one_is_given_up_once(workers: int, outcomes: list[bool]) -> None:
    """Whoever holds its memory must close it, and not twice."""
    rollout, made, given_up = Rollout(OLD), [OLD], []
    for passes in outcomes:
        if rollout.stage is Stage.IDLE:
            rollout.begin()
            rollout.fresh = ConfigVersion(cast(Config, "new"), len(made))
            made.append(rollout.fresh)
        if not passes:
            step = rollout.failed("why")
        elif rollout.stage is Stage.CHECKING:
            rollout.passed_check(workers)
            step = Step()
        else:
            step = rollout.replaced()
        given_up += [step.unused] if step.unused else []
        assert bool(step.result) is (rollout.stage is Stage.IDLE)
    last = rollout.cancel().unused
    given_up += [last] if last else []
    assert sorted([*given_up, rollout.current], key=lambda version: version.fd) == made
