"""Faults while answers are streamed: no stream lies, and nothing fails that may not."""

from __future__ import annotations

import pytest

from tests.faults import stream_scenarios
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(stream_scenarios.SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)
