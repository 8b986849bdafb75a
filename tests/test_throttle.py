"""Lines that would repeat: the first of a kind at once, then one a period; a trouble that lasts once."""

from __future__ import annotations

import pytest

from fastgw.throttle import SharedThrottle, Throttle, Troubles

KIND, OTHER = ("expired", "POST /o"), ("expired", "POST /p")


@pytest.fixture(params=[Throttle, SharedThrottle])
def throttle(request: pytest.FixtureRequest) -> Throttle:
    """One with a period of 10 ns."""
    made: Throttle = request.param(10)
    return made


def test_the_first_of_a_kind_is_told_and_the_others_of_its_period_are_counted(throttle: Throttle) -> None:
    assert [throttle.admit(KIND, now_ns) for now_ns in (0, 1, 9, 10, 11, 20)] == [0, -1, -1, 2, -1, 1]


def test_kinds_do_not_hold_each_other_back(throttle: Throttle) -> None:
    assert [throttle.admit(kind, 0) for kind in (KIND, OTHER, KIND)] == [0, 0, -1]


def test_what_was_held_back_last_is_told_when_its_period_has_passed_and_only_once(throttle: Throttle) -> None:
    for _ in range(3):
        throttle.admit(KIND, 0)
    throttle.admit(OTHER, 0)
    assert throttle.holds()
    assert throttle.overdue(9) == []
    assert throttle.overdue(10) == [(KIND, 2)]
    assert not throttle.holds()
    assert throttle.overdue(20) == []
    assert throttle.admit(KIND, 21) == 0


def test_at_the_end_everything_that_was_held_back_is_told(throttle: Throttle) -> None:
    for _ in range(3):
        throttle.admit(KIND, 0)
    assert throttle.rest() == [(KIND, 2)]
    assert throttle.rest() == []


def test_a_trouble_is_told_when_it_begins_and_when_it_becomes_another_one() -> None:
    troubles = Troubles()
    told = [troubles.begins(("a",), trouble) for trouble in ("", "x", "x", "y", "", "y", "y")]
    assert told == [False, True, False, True, False, True, False]
    assert troubles.begins(("b",), "y"), "each of its own"
    assert (troubles.of(("a",)), troubles.of(("c",))) == ("y", "")
