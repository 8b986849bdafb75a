"""Faults of brokers and of the connections to them: no lie, and nothing fails that may not."""

from __future__ import annotations

import pytest

from tests.faults import broker_scenarios, stream_scenarios, ticket_scenarios
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(broker_scenarios.SCENARIOS, ticket_scenarios.WITH_BROKERS, stream_scenarios.WITH_BROKERS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)
