"""Faults while answers are deferred: no status URL lies, and nothing fails that may not."""

from __future__ import annotations

import pytest

from tests.faults import ticket_scenarios, unnoticed_scenarios
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(ticket_scenarios.SCENARIOS, unnoticed_scenarios.SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)
