"""The source checks itself: lint, format, types, a build without a warning, and nothing of one machine in git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "fastgw"
BUILD_TIMEOUT_S = 600  # 30 s on two idle cores
# The first level that looks at how values flow, for "may be used uninitialized"; a third of the time of -O3.
QUICKLY = "-O1 -g0"

# A path into somebody's home or into this very checkout works on one machine only.
ONE_MACHINE = re.compile(rf"(?<![\w.:/-])/(?:root|home|Users)/\w|{re.escape(str(REPOSITORY))}/")
MAY_NAME_PATHS = {"tests/test_source.py"}


def run(
    *command: str, cwd: Path = REPOSITORY, timeout_s: float = 170, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment to its end; stdout and stderr come as one text."""
    # cython-lint calls pycodestyle by its name, and only an activated environment has that on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command], cwd=cwd, env=os.environ | {"PATH": path} | environment, timeout=timeout_s, check=False,
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


@pytest.fixture(scope="module")
def build_output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a build of the extensions from nothing prints, in a directory of its own."""
    there = tmp_path_factory.mktemp("build")
    shutil.copy(REPOSITORY / "setup.py", there)
    (there / "fastgw").mkdir()
    for ending in ("py", "pyx", "pxd", "h"):
        for source in PACKAGE.glob(f"*.{ending}"):
            shutil.copy(source, there / "fastgw")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "out"]
    done = run(*command, cwd=there, timeout_s=BUILD_TIMEOUT_S, FASTGW_CFLAGS=QUICKLY)
    assert done.returncode == 0, f"\n{done.stdout}"
    assert {built.name.partition(".")[0] for built in there.glob("out/fastgw/*.so")} == compiled_modules()
    return done.stdout


def compiled_modules() -> set[str]:
    """The native modules, and the Python modules that Cython compiles because a .pxd stands beside them."""
    native = {source.stem for source in PACKAGE.glob("*.pyx")}
    python = {source.stem for source in PACKAGE.glob("*.py") if source.with_suffix(".pxd").exists()}
    assert native, "fastgw has native modules"
    assert python, "fastgw has compiled Python modules"
    return native | python


@pytest.mark.timeout(BUILD_TIMEOUT_S + 10)
def test_the_extensions_compile_with_all_warnings_on(build_output: str) -> None:
    assert "-Wall" in build_output
    assert "-Wextra" in build_output


@pytest.mark.parametrize("what", ["warning:", "performance hint:"])
def test_the_extensions_compile_without_a_word(build_output: str, what: str) -> None:
    said = [line for line in build_output.splitlines() if what in line]
    assert not said, "\n" + "\n".join(said)


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
