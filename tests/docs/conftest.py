"""Tells at the end of a run which blocks of the pages are not run."""

from __future__ import annotations

import pytest

from tests.docs.pages import Block

LEFT_OUT = pytest.StashKey[list[Block]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, [])
    if left_out:
        terminalreporter.section("blocks of the documentation that are not run")
        for block in left_out:
            terminalreporter.write_line(f"{block}: {block.not_run}")
        terminalreporter.write_line(f"{len(left_out)} blocks")
