"""Faults of workers, replies, drains and overload: no lie, and nothing fails that may not."""

from __future__ import annotations

import pytest

from tests.faults import (
    drain_scenarios,
    front_scenarios,
    overload_scenarios,
    protocol_scenarios,
    reply_scenarios,
    worker_scenarios,
)
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(
    worker_scenarios.SCENARIOS,
    reply_scenarios.SCENARIOS,
    protocol_scenarios.SCENARIOS,
    drain_scenarios.SCENARIOS,
    overload_scenarios.SCENARIOS,
    front_scenarios.SCENARIOS,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)
