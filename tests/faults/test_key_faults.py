"""Faults while two nodes are asked for the same idempotency keys: no key has two answers, and each gets one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import key_scenarios, unnoticed_scenarios
from tests.faults.clock_ahead import ahead
from tests.faults.houses import Houses, for_tests
from tests.faults.play import Scenario, name_of

SCENARIOS = for_tests(key_scenarios.SCENARIOS, unnoticed_scenarios.KEY_SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_nobody_is_lied_to(scenario: Scenario, houses: Houses) -> None:
    houses.play(scenario)


def test_a_clock_can_be_ahead(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=ahead(60, tmp_path),
        capture_output=True,
        check=True,
    )
    assert 50 < float(told.stdout) - time.time() < 60.1
