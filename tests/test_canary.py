"""The canary: alive when it is heard, not alive after three in a row are missing."""

from __future__ import annotations

from fastgw.canary import MISSED_MAX, PERIOD_NS, Canary


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


def test_it_dies_after_three_in_a_row_are_missing_and_lives_again_with_the_next_that_is_heard():
    canary = Canary()
    canary.sent(0, 0)
    canary.seen(0, now_ns=9)
    now = 0
    for number in range(1, MISSED_MAX + 1):
        now += PERIOD_NS
        canary.due(now)
        canary.sent(number, now)
        assert canary.alive
    now += PERIOD_NS
    canary.due(now)
    assert not canary.alive
    canary.sent(99, now)
    assert canary.seen(99, now_ns=9)
    assert canary.alive
    assert canary.missed == 0


def test_an_old_one_that_comes_late_proves_nothing():
    canary = Canary()
    canary.sent(1, 0)
    canary.due(PERIOD_NS)
    canary.sent(2, PERIOD_NS)
    assert not canary.seen(1, now_ns=9)
    assert not canary.alive


def test_after_the_home_moved_the_next_is_sent_at_once_and_the_old_one_is_forgotten():
    canary = Canary()
    canary.sent(1, 0)
    canary.restart()
    assert canary.due(1)
    assert canary.missed == 0
    assert not canary.seen(1, now_ns=9)


def test_the_last_round_trip_is_known():
    canary = Canary()
    canary.sent(7, now_ns=100)
    canary.seen(6, now_ns=110)
    assert canary.round_trip_ns == 0
    canary.seen(7, now_ns=130)
    assert canary.round_trip_ns == 30
