"""When the next attempt is due after some that failed."""

from __future__ import annotations

from math import inf

from fastgw.back_off import BackOff


def pauses(outcomes: list[bool]) -> list[float]:
    """The pause after each attempt, which has worked or failed."""
    back_off = BackOff(0.1, 10.0)
    waited = []
    for now, worked in enumerate(outcomes):
        (back_off.succeeded if worked else back_off.failed)(now)
        waited.append(round(back_off.due_at - now, 3))
    return waited


def test_the_pause_doubles_with_each_failure_up_to_its_bound() -> None:
    assert pauses([False] * 9) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_success_makes_the_next_attempt_due_at_once_and_the_pauses_short_again() -> None:
    assert pauses([False, False, True, False, True, False]) == [0.1, 0.2, 0.0, 0.1, 0.0, 0.1]


def test_an_attempt_is_due_once() -> None:
    back_off = BackOff(0.1, 10.0)
    assert not back_off.due(1e9), "nothing has failed yet"
    back_off.failed(100.0)
    assert not back_off.due(100.0)
    assert back_off.due(100.1)
    assert not back_off.due(200.0)
    back_off.failed(100.0)
    back_off.cancel()
    assert back_off.due_at == inf
