"""The routes' shares of the slots, on their own: any takes and gives in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.core.plan import Plan, SlotQuota
from fastgw.core.spread import Spread
from fastgw.dialects.plain import ReplyWire, RequestWire
from tests.core.test_exchange import FakeLearner


def plans(count: int) -> list[Plan]:
    wire, reply_wire = RequestWire("replies", "/o", ["POST"], []), ReplyWire([], 1000)
    return [Plan(i, "POST /o", "o", wire, FakeLearner(), Spread("batch"), 100, reply_wire) for i in range(count)]


@given(
    slots=st.integers(1, 40),
    routes=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200),
)
def test_what_is_taken_and_what_is_left_always_add_up(slots: int, routes: int, steps: list[tuple[int, bool]]) -> None:
    quota, all_plans = SlotQuota(slots, routes), plans(routes)
    shared = quota.shared_left
    assert quota.own * routes + shared == slots
    for number, is_take in steps:
        plan = all_plans[number % routes]
        before = plan.in_flight
        if is_take:
            is_free = before < quota.own or quota.shared_left > 0
            assert quota.take(plan) is is_free
            assert plan.in_flight == before + is_free
        elif before:
            quota.give(plan)
        beyond = sum(max(0, plan.in_flight - quota.own) for plan in all_plans)
        assert quota.shared_left == shared - beyond
        assert beyond <= max(0, shared)
        if slots >= routes:
            assert sum(plan.in_flight for plan in all_plans) <= slots


@given(slots=st.integers(1, 40), routes=st.integers(1, 6), greedy=st.integers(0, 5))
def test_whatever_one_route_takes_each_other_still_has_its_own_part(slots: int, routes: int, greedy: int) -> None:
    quota, all_plans = SlotQuota(slots, routes), plans(routes)
    hungry = all_plans[greedy % routes]
    while quota.take(hungry):
        assert hungry.in_flight <= slots
    for plan in all_plans:
        if plan is not hungry:
            assert [quota.take(plan) for _ in range(quota.own + 1)] == [True] * quota.own + [False]


@given(slots=st.integers(1, 40), routes=st.integers(1, 6), takes=st.lists(st.integers(0, 5), max_size=60))
def test_when_all_have_gone_everything_is_as_it_was(slots: int, routes: int, takes: list[int]) -> None:
    quota, all_plans = SlotQuota(slots, routes), plans(routes)
    before = repr(quota)
    taken = [plan for plan in (all_plans[number % routes] for number in takes) if quota.take(plan)]
    for plan in taken:
        quota.give(plan)
    assert repr(quota) == before
    assert not any(plan.in_flight for plan in all_plans)


@pytest.mark.parametrize(
    ("slots", "routes", "own", "shared"), [(7, 1, 3, 4), (8, 2, 2, 4), (2, 3, 1, -1), (1, 1, 1, 0)]
)
def test_half_of_the_slots_are_divided_and_each_route_has_one_at_least(slots, routes, own, shared):
    quota = SlotQuota(slots, routes)
    assert (quota.own, quota.shared_left) == (own, shared)
