"""A test that cannot run on a machine is told at the end of the run, or fails where it has to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.places import REPOSITORY

NEEDY = "tests/deploy/test_deploy.py::test_the_service_is_locked_up"


def run_without_tools(place: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", NEEDY],
        cwd=REPOSITORY, env={**os.environ, "PATH": str(place), **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_did_not_run_is_listed_with_the_way_to_get_what_it_needs(tmp_path: Path) -> None:
    said = run_without_tools(tmp_path, FASTGW_REQUIRE_TOOLS="").stdout
    assert "not here: systemd-analyze" in said
    assert "1 tests did not run for want of it (Debian: apt-get install systemd)" in said
    assert NEEDY in said


def test_on_a_build_machine_it_fails(tmp_path: Path) -> None:
    done = run_without_tools(tmp_path, FASTGW_REQUIRE_TOOLS="1")
    assert done.returncode == 1
    assert "needs systemd-analyze (Debian: apt-get install systemd)" in done.stdout
