"""A test that cannot run on a machine is told at the end of the run, or fails where it has to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.places import REPOSITORY

NEEDY = "tests/deploy/test_deploy.py::test_the_service_is_locked_up"


CORPUS = "tests/fronts/test_corpus.py::test_every_file_of_the_corpus_has_a_row_and_every_row_a_file"


def run_without_an_index(place: Path, *options: str, **environ: str) -> str:
    """A test whose data would have to be fetched; what the run says."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, CORPUS],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, "FASTGW_CORPUS_CACHE": str(place), "PIP_NO_INDEX": "1", **environ},
    ).stdout  # fmt: skip


def test_collecting_fetches_nothing(tmp_path: Path) -> None:
    assert CORPUS in run_without_an_index(tmp_path, "--collect-only")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_fetched_is_told_like_what_is_missing(tmp_path: Path) -> None:
    said = run_without_an_index(tmp_path, FASTGW_REQUIRE_TOOLS="")
    assert "1 skipped" in said
    assert "not here: gunicorn-corpus" in said
    assert "1 tests did not run for want of it (pip download gunicorn" in said


def test_on_a_build_machine_what_cannot_be_fetched_fails_its_tests(tmp_path: Path) -> None:
    said = run_without_an_index(tmp_path, FASTGW_REQUIRE_TOOLS="1")
    assert "1 error" in said
    assert "needs gunicorn-corpus: " in said


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


def test_on_a_build_machine_that_says_it_cannot_have_it_it_is_left_out(tmp_path: Path) -> None:
    done = run_without_tools(tmp_path, FASTGW_REQUIRE_TOOLS="1", FASTGW_WITHOUT="docker systemd-analyze")
    assert "not here: systemd-analyze" in done.stdout
    assert "FAILED" not in done.stdout


def test_on_a_build_machine_it_fails(tmp_path: Path) -> None:
    done = run_without_tools(tmp_path, FASTGW_REQUIRE_TOOLS="1")
    assert done.returncode == 1
    assert "needs systemd-analyze (Debian: apt-get install systemd)" in done.stdout
