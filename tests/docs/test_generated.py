"""What the code says stands in the pages as it is: configuration, outcomes, sizes, names, faults."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from fastgw import config, errors
from fastgw.kafka.properties import record_bytes
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


def test_the_largest_records_are_those_that_the_gateway_counts_with() -> None:
    rows = re.findall(r"^\| (\d+ [KM]iB)[^|]*\| ([\d,]+) \|$", (DOCS / "kafka.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    shop = (REPOSITORY / "examples/shop.toml").read_text()
    for body, shown in rows:
        loaded = config.loads(f'{shop}\n[limits]\nmax_body = "{body.replace(" ", "")}"\n')
        assert int(shown.replace(",", "")) == record_bytes(loaded.limits, loaded.routes[:1]), body


def test_the_calls_in_the_readme_are_where_it_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(fastgw/[\w/.]+)` \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    for call, file in rows:
        assert f"    def {call}(" in (REPOSITORY / file).read_text(), (call, file)


def test_the_coverage_on_the_page_is_the_least_that_passes() -> None:
    report = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["coverage"]["report"]
    assert f"at least {report['fail_under']} %, or it fails" in (DOCS / "contributing.md").read_text()


def test_the_recipes_know_how_much_room_the_table_has() -> None:
    header = (REPOSITORY / "fastgw/_ctable.h").read_text()
    page = (DOCS / "contributing.md").read_text()
    for name, sentence in (("CT_ENDINGS_MAX", "{} is the last number"), ("CT_TALLIES_MAX", "{} is the last one")):
        (room,) = re.findall(rf"{name} = (\d+),", header)
        assert sentence.format(int(room) - 1) in page, name


def test_the_table_of_faults_is_what_the_last_soak_found() -> None:
    assert part(DOCS / "guarantees.md", "faults") == results.table(results.saved_reports())


def test_the_readme_is_short_and_has_the_two_commands_on_the_first_screen() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES_MAX
    first_screen = "\n".join(lines[:FIRST_SCREEN])
    assert "make demo" in first_screen
    assert "make test" in first_screen
