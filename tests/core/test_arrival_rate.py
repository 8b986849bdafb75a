"""Whether a request comes alone: judged by the window before and by what has come in this one."""

from __future__ import annotations

import pytest

from fastgw.core.arrival_rate import RARE_MAX, WINDOW_BITS, ArrivalRate

WINDOW_NS = 1 << WINDOW_BITS


def at_even_distances(pace, windows, a_window):
    """Of requests that come at even distances, `a_window` of them in each of `windows`: how many come alone."""
    gap_ns = WINDOW_NS // a_window
    return sum(pace.is_alone(number * gap_ns) for number in range(windows * a_window))


@pytest.mark.parametrize("a_window", [1, RARE_MAX])
def test_few_requests_come_alone_each_of_them(a_window):
    assert at_even_distances(ArrivalRate(), windows=10, a_window=a_window) == 10 * a_window


@pytest.mark.parametrize("a_window", [RARE_MAX + 1, 2 * RARE_MAX, 100 * RARE_MAX])
def test_of_many_only_the_first_few_do_for_they_cannot_know_what_comes(a_window):
    assert at_even_distances(ArrivalRate(), windows=10, a_window=a_window) == RARE_MAX


def test_a_burst_out_of_nothing_pays_for_a_few_that_go_alone():
    pace = ArrivalRate()
    assert pace.is_alone(0)
    assert sum(pace.is_alone(5 * WINDOW_NS) for _ in range(1000)) == RARE_MAX


def test_when_the_load_has_gone_the_next_one_goes_at_once():
    pace = ArrivalRate()
    at_even_distances(pace, windows=3, a_window=10 * RARE_MAX)
    assert not pace.is_alone(3 * WINDOW_NS)
    assert pace.is_alone(5 * WINDOW_NS), "a window without any lies between"


def test_a_window_with_few_is_believed_in_the_next():
    pace = ArrivalRate()
    at_even_distances(pace, windows=3, a_window=10 * RARE_MAX)
    assert not pace.is_alone(3 * WINDOW_NS)
    assert pace.is_alone(4 * WINDOW_NS)
