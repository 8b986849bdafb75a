"""The source checks itself: lint, format, types, a build without a warning, and nothing of one machine in git."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prepare import Environment, complaints, named
from tests.places import PACKAGE, REPOSITORY

pytestmark = pytest.mark.slow

# A path into somebody's home or into this very checkout works on one machine only.
ONE_MACHINE = re.compile(rf"(?<![\w.:/-])/(?:root|home|Users)/\w|{re.escape(str(REPOSITORY))}/")
MAY_NAME_PATHS = {"tests/source/test_source.py"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment to its end; stdout and stderr come as one text."""
    # cython-lint calls pycodestyle by its name, and only an activated environment has that on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command], cwd=REPOSITORY, env=os.environ | {"PATH": path}, timeout=170, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "tool",
    [
        "ruff check --no-cache --quiet",
        "ruff format --no-cache --check --quiet --diff",
        "mypy --no-error-summary",  # strict, by pyproject.toml
        "cython_lint.cython_lint fastgw",
    ],
)
def test_the_linters_find_nothing(tool: str) -> None:
    done = run(sys.executable, "-m", *tool.split())
    if done.returncode != 0:
        pytest.fail(f"{tool}:\n{done.stdout}", pytrace=False)


def log_of_the_last_build() -> str:
    """What the compilers said while `make` built the modules that this environment imports; see prepare.py."""
    log = Environment(Path(sys.prefix)).log
    if not log.exists():
        pytest.fail(f"{log} is missing: `make test` builds the modules and writes it", pytrace=False)
    newest = max(compiled_sources(), key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > log.stat().st_mtime:
        pytest.fail(f"{newest.name} was changed after the last build: `make test` builds it", pytrace=False)
    return log.read_text()


def compiled_sources() -> list[Path]:
    native = [path for ending in ("pyx", "pxd", "h") for path in PACKAGE.rglob(f"*.{ending}")]
    python = [path.with_suffix(".py") for path in native if path.suffix == ".pxd"]
    return native + [path for path in python if path.exists()]


def compiled_modules() -> set[Path]:
    python = {path for path in PACKAGE.rglob("*.pxd") if path.with_suffix(".py").exists()}
    return {path.relative_to(REPOSITORY) for path in {*PACKAGE.rglob("*.pyx"), *python}}


def test_the_extensions_compile_without_a_word() -> None:
    log = log_of_the_last_build()
    assert {path.with_suffix("").as_posix().replace("/", ".") for path in compiled_modules()} <= named(log)
    said = complaints(log)
    if said:
        pytest.fail("\n".join(said), pytrace=False)


def test_the_extensions_compile_with_all_warnings_on() -> None:
    flags = (REPOSITORY / "setup.py").read_text()
    assert '"-Wall", "-Wextra"' in flags


def test_no_file_in_git_names_a_path_of_one_machine() -> None:
    # safe.directory: a build machine may check out as another user than it tests as.
    listed = run("git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard")
    assert listed.returncode == 0, listed.stdout
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in listed.stdout.splitlines()
        if name not in MAY_NAME_PATHS and (REPOSITORY / name).is_file()
        for number, line in enumerate((REPOSITORY / name).read_text(errors="replace").splitlines(), 1)
        if ONE_MACHINE.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "machine_path"),
    [
        ("open('/home/ada/x')", True),
        ('cd "/root/fastgw"', True),
        (f"see {REPOSITORY}/README.md", True),
        ("GET /users/home/1", False),
        ("https://example.org/home/page", False),
        ("$HOME/.cache", False),
    ],
)
def test_a_path_of_one_machine_is_recognised(text: str, machine_path: bool) -> None:
    assert bool(ONE_MACHINE.search(text)) is machine_path
