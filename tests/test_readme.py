"""The README is true: its reference and its outcome table are what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastgw import errors
from tests.faults import results

README = (Path(__file__).parent.parent / "README.md").read_text()


def part(name: str) -> str:
    return README.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()


def test_the_configuration_reference_is_the_one_that_the_schema_prints():
    command = [sys.executable, "-m", "fastgw", "schema", "--markdown"]
    assert (
        part("config-reference") == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    )


def test_the_outcome_table_has_every_ending_as_it_is():
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in part("outcomes").splitlines()[2:]]
    assert rows == [
        [row.name, str(row.status), row.outcome.value, "yes" if row.retryable else "no", row.title]
        for row in errors.ENDINGS
    ]


def test_the_two_commands_are_on_the_first_screen():
    first_screen = "\n".join(README.splitlines()[:24])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_the_table_of_faults_is_what_the_last_soak_found():
    assert part("faults") == results.table(results.saved_reports())
