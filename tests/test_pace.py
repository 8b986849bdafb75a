"""How long to wait for others: judged by the window before and by what has come in this one."""

from __future__ import annotations

from collections import Counter

import pytest

from fastgw.pace import BRISK_MIN, MANY_MIN, RARE_MAX, WINDOW_BITS, Linger, Pace

WINDOW_NS = 1 << WINDOW_BITS


def at_even_distances(pace, windows, a_window):
    """The lingers of requests that come at even distances, `a_window` of them in each of `windows`, counted."""
    gap_ns = WINDOW_NS // a_window
    return Counter(pace.linger(number * gap_ns) for number in range(windows * a_window))


@pytest.mark.parametrize(
    ("a_window", "linger"),
    [
        (1, Linger.NONE),
        (RARE_MAX, Linger.NONE),
        (2 * RARE_MAX, Linger.FULL),
        (BRISK_MIN + 10, Linger.HALF),
        (MANY_MIN - 10, Linger.HALF),
        (2 * MANY_MIN, Linger.FULL),
    ],
)
def test_requests_at_one_pace_get_one_linger_after_the_first_window(a_window, linger):
    pace = Pace()
    counted = at_even_distances(pace, windows=10, a_window=a_window)
    assert counted[linger] >= 9 * a_window
    assert counted[Linger.NONE] >= min(a_window, RARE_MAX), "the first few cannot know what comes"


def test_a_burst_out_of_nothing_pays_for_a_few_that_go_alone():
    pace = Pace()
    assert pace.linger(0) == Linger.NONE
    counted = Counter(pace.linger(5 * WINDOW_NS) for _ in range(1000))
    brisk = MANY_MIN - BRISK_MIN
    assert counted == {Linger.NONE: RARE_MAX, Linger.HALF: brisk, Linger.FULL: 1000 - RARE_MAX - brisk}


def test_when_the_load_has_gone_the_next_one_goes_at_once():
    pace = Pace()
    at_even_distances(pace, windows=3, a_window=2 * MANY_MIN)
    assert pace.linger(3 * WINDOW_NS) == Linger.FULL
    assert pace.linger(5 * WINDOW_NS) == Linger.NONE, "a window without any lies between"


def test_a_window_with_few_is_believed_in_the_next():
    pace = Pace()
    at_even_distances(pace, windows=3, a_window=2 * MANY_MIN)
    assert pace.linger(3 * WINDOW_NS) == Linger.FULL
    assert pace.linger(4 * WINDOW_NS) == Linger.NONE
