"""The store as a child: when a reload waits for it, and when no longer."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace

import pytest

from fastgw.supervisor.children import State
from fastgw.supervisor.store_child import StoreChild
from fastgw.supervisor.times import TIMES


class Process(SimpleNamespace):
    """A store process, as far as `StoreChild` looks at it."""

    def __init__(self) -> None:
        super().__init__(state=State.STARTING, started_at=5.0, stopped=0)

    def stop(self, _kill_at: float) -> None:
        self.state = State.STOPPING
        self.stopped += 1


@pytest.fixture
def store() -> StoreChild:
    return StoreChild(Process, TIMES)  # type: ignore[arg-type]


def test_nobody_waits_for_a_store_unless_a_reload_needs_it(store: StoreChild) -> None:
    store.want(True)
    store.start_if_due(inf)
    assert not store.is_awaited(0.0, lambda _started_at: False)


def test_a_reload_waits_until_the_new_store_can_answer_or_for_so_long(store: StoreChild) -> None:
    store.await_next(until=20.0)
    assert store.is_awaited(10.0, lambda _started_at: True), "it has not started"
    store.start_if_due(inf)
    assert store.is_awaited(11.0, lambda _started_at: True), "it starts"
    assert store.child is not None
    store.child.state = State.READY
    assert store.is_awaited(12.0, lambda _started_at: False), "it reads its topic"
    assert not store.is_awaited(13.0, lambda started_at: started_at == 5.0)
    store.await_next(until=20.0)
    assert not store.is_awaited(20.0, lambda _started_at: False), "requests get 503 meanwhile"


def test_a_store_with_other_parts_is_stopped_and_its_successor_is_waited_for(store: StoreChild) -> None:
    store.want(True)
    store.start_if_due(inf)
    before = store.child
    assert before is not None
    before.state = State.READY
    store.await_next(until=20.0)
    assert before.state is State.STOPPING
    assert store.is_awaited(10.0, lambda _started_at: True)
    store.ended(ran_s=100.0)
    store.start_if_due(inf)
    assert store.child is not before
