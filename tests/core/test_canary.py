"""The canary: alive while it is heard, however slowly; not alive when nothing is heard for less than three seconds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fastgw.core.canary import PERIOD_NS, SILENCE_MAX_NS, SILENCE_NS, UNDER_WAY_MAX, Canary

TICK_NS = 25_000_000
SECOND_NS = 1_000_000_000


def heard(at_ns: int = 0) -> Canary:
    """A canary whose last sign of life was at that time."""
    canary = Canary()
    canary.sent(1 << 40, at_ns)
    assert canary.seen(1 << 40, at_ns)
    assert not canary.is_silent(at_ns)
    return canary


def silences(canary: Canary, from_ns: int, to_ns: int) -> list[int]:
    """When it asked for another home, while one was sent each period and none came back."""
    moments = []
    for now_ns in range(from_ns, to_ns, TICK_NS):
        if canary.is_silent(now_ns):
            moments.append(now_ns)
            canary.restart()
        if canary.due(now_ns):
            canary.sent(now_ns, now_ns)
    return moments


def test_it_is_not_alive_before_the_first_one_is_back():
    canary = Canary()
    assert canary.due(0)
    canary.sent(7, 0)
    assert not canary.alive
    assert canary.seen(7, now_ns=9)
    assert canary.alive


def test_one_is_due_each_period():
    canary = Canary()
    canary.sent(1, 100)
    assert not canary.due(100 + PERIOD_NS - 1)
    assert canary.due(100 + PERIOD_NS)


@pytest.mark.parametrize("since_the_last_one_ns", range(0, PERIOD_NS, PERIOD_NS // 7))
def test_whenever_the_path_breaks_it_is_known_within_three_seconds(since_the_last_one_ns: int):
    broken_ns = 100 * SECOND_NS
    last_ns = broken_ns - since_the_last_one_ns
    canary = heard(last_ns)
    (known_ns,) = silences(canary, last_ns, broken_ns + 3 * SECOND_NS)
    assert not canary.alive
    assert known_ns < broken_ns + 3 * SECOND_NS - TICK_NS


def test_it_lives_again_with_the_next_that_is_heard():
    canary = heard()
    assert silences(canary, 0, 3 * SECOND_NS)
    canary.sent(99, 3 * SECOND_NS)
    assert canary.seen(99, 3 * SECOND_NS + 9)
    assert canary.alive


@pytest.mark.parametrize("round_trip_ns", [PERIOD_NS // 5, PERIOD_NS, 4 * PERIOD_NS])
def test_a_slow_path_is_no_silence(round_trip_ns: int):
    canary, moments = heard(), []
    for now_ns in range(0, 60 * SECOND_NS, TICK_NS):
        canary.seen(now_ns - round_trip_ns, now_ns)
        if canary.is_silent(now_ns):
            moments.append(now_ns)
            canary.restart()
        if canary.due(now_ns):
            canary.sent(now_ns, now_ns)
    assert canary.alive
    assert canary.round_trip_ns == round_trip_ns
    assert all(moment < 3 * SECOND_NS for moment in moments), "only while it had just become slow"


def test_each_home_that_is_silent_gives_the_next_one_more_time():
    moments = [0, *silences(heard(), 0, 120 * SECOND_NS)]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits[0] == SILENCE_NS
    assert waits == [min(SILENCE_NS << number, SILENCE_MAX_NS) for number in range(len(waits))]


def test_a_first_home_that_is_never_heard_is_given_up_too():
    canary = Canary()
    assert silences(canary, 50 * SECOND_NS, 53 * SECOND_NS) == [50 * SECOND_NS + SILENCE_NS]


def test_after_the_home_moved_the_next_is_sent_at_once_and_the_old_one_is_forgotten():
    canary = Canary()
    canary.sent(1, 0)
    canary.restart()
    assert canary.due(1)
    assert not canary.seen(1, now_ns=9)
    assert not canary.alive


def test_one_that_was_never_sent_or_was_heard_already_proves_nothing():
    canary = heard()
    canary.sent(2, 10)
    assert not canary.seen(3, 20)
    assert canary.seen(2, 30)
    assert not canary.seen(2, 40)
    assert canary.round_trip_ns == 20


def test_what_never_comes_back_does_not_pile_up():
    canary = Canary()
    for number in range(1000):
        canary.sent(number, number)
    assert not canary.seen(1000 - UNDER_WAY_MAX - 1, 2000)
    assert canary.seen(1000 - UNDER_WAY_MAX, 2000)


def test_who_was_asleep_himself_has_not_missed_anything():
    canary = heard()
    assert silences(canary, 0, SECOND_NS) == []
    slept_until_ns = 60 * SECOND_NS
    (silent_ns,) = silences(canary, slept_until_ns, slept_until_ns + 3 * SECOND_NS)
    assert silent_ns >= slept_until_ns + SECOND_NS
