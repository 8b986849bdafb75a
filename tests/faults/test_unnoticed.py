"""The comparison of plain requests with and without a fault can say no."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.unnoticed_scenarios import TIMES, noise_of, ratio

CALM = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 0.98, 1.0, 5.0]


def noise(chance: int = 1) -> float:
    return noise_of(CALM, CALM[::-1], Random(chance))


@pytest.mark.parametrize(("times", "is_noticed"), [(1.0, False), (0.5, False), (1.3, True), (3.0, True)])
def test_what_is_slower_by_more_than_the_noise_is_noticed(times: float, is_noticed: bool) -> None:
    faulty = [times * one for one in CALM]
    assert (ratio(faulty, CALM) > TIMES * noise()) is is_noticed


def test_one_bad_round_moves_nothing_and_noise_is_at_least_none() -> None:
    assert ratio([*CALM[:-1], 500.0], CALM) == 1.0
    assert 1.0 <= noise() < 1.15
    assert noise_of([2 * one for one in CALM], CALM, Random(1)) == 2.0, "in either direction"
    assert noise_of(CALM, [2 * one for one in CALM], Random(1)) == 2.0
