"""What the code says stands in the pages as it is: configuration, outcomes, faults."""

from __future__ import annotations

import re
import subprocess
import sys

from fastgw import errors
from tests.docs.pages import DOCS, REPOSITORY, part
from tests.faults import results

README_LINES_MAX = 150
FIRST_SCREEN = 24


def without_empty_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_configuration_reference_is_the_one_that_the_schema_prints() -> None:
    """Examples may stand between its sections, so it may be in several parts."""
    command = [sys.executable, "-m", "fastgw", "schema", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown = without_empty_lines(part(DOCS / "configuration.md", "config-reference"))
    assert shown == without_empty_lines(printed)


def test_the_outcome_table_has_every_ending_as_it_is() -> None:
    lines = part(DOCS / "outcomes.md", "outcomes").splitlines()[2:]
    rows = [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [row[:5] for row in rows] == [
        [row.name, str(row.status), row.outcome.value, "yes" if row.retryable else "no", row.title]
        for row in errors.ENDINGS
    ]


def test_the_table_of_faults_is_what_the_last_soak_found() -> None:
    assert part(DOCS / "guarantees.md", "faults") == results.table(results.saved_reports())


def test_the_readme_is_short_and_has_the_two_commands_on_the_first_screen() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES_MAX
    first_screen = "\n".join(lines[:FIRST_SCREEN])
    assert "make demo" in first_screen
    assert "make test" in first_screen
