"""The last result of each scenario, kept in a file beside this one, and the table that docs/guarantees.md shows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from fastgw import __version__
from tests.faults.play import HEAD, Report, row
from tests.faults.scenarios import SCENARIOS

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
MARKS = "<!-- faults -->", "<!-- /faults -->"


def load(path: Path = RESULTS) -> dict[str, dict[str, object]]:
    """Scenario -> what `save` was given last, in the order of the table."""
    if not path.exists():
        return {}
    known = json.loads(path.read_text())
    return {scenario.name: known[scenario.name] for scenario in SCENARIOS if scenario.name in known}


def save(report: Report, path: Path = RESULTS) -> None:
    """Takes the place of the last result of the same scenario; those of scenarios that are no more go."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}"
    new = {report.scenario: {**report.as_dict(), "version": __version__, "machine": machine}}
    path.write_text(json.dumps(load(path) | new, indent=1) + "\n")


def table(reports: Iterable[Report]) -> str:
    """Reports as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *map(row, reports)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def saved_reports(path: Path = RESULTS) -> list[Report]:
    """The saved results as reports, without their verdicts."""
    fields = Report.__dataclass_fields__
    return [
        Report(**{name: value for name, value in {"verdict": "", **saved}.items() if name in fields})  # type: ignore[arg-type]
        for saved in load(path).values()
    ]


def show_on_page(page: Path = PAGE, path: Path = RESULTS) -> None:
    """Writes the saved results between the marks on the page."""
    before, begin, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{begin}\n{table(saved_reports(path))}\n{end}{after}")
