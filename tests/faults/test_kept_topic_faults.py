"""Faults of the topic of kept replies: nobody is told what is not decided, and what is gone is said to be gone."""

from __future__ import annotations

import pytest

from tests.faults import kept_topic_scenarios
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(kept_topic_scenarios.SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)
