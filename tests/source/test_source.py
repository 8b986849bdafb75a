"""The source checks itself: lint, format, types, a build without a warning, and nothing of one machine in git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from fastgw import __version__
from tests.places import PACKAGE, REPOSITORY

pytestmark = pytest.mark.slow

BUILD_TIMEOUT_S = 600  # 30 s on two idle cores
# The first level that looks at how values flow, for "may be used uninitialized"; a third of the time of -O3.
QUICKLY = "-O1 -g0"

# A path into somebody's home or into this very checkout works on one machine only.
ONE_MACHINE = re.compile(rf"(?<![\w.:/-])/(?:root|home|Users)/\w|{re.escape(str(REPOSITORY))}/")
MAY_NAME_PATHS = {"tests/source/test_source.py"}


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


class Built(NamedTuple):
    """A wheel that was built from nothing."""

    folder: Path
    said: str  # while the extensions were compiled
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """As `pip wheel` builds it, in a folder of its own; without pip, which hides what a build says."""
    there = tmp_path_factory.mktemp("build")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, there)
    (there / "fastgw").mkdir()
    for ending in ("py", "pyi", "pyx", "pxd", "h", "typed"):
        for source in PACKAGE.rglob(f"*.{ending}"):
            copy = there / source.relative_to(REPOSITORY)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    said = []
    for command in ("build_ext", "bdist_wheel"):  # the latter takes what the former has compiled
        done = run(sys.executable, "setup.py", command, cwd=there, timeout_s=BUILD_TIMEOUT_S, FASTGW_CFLAGS=QUICKLY)
        assert done.returncode == 0, f"\n{done.stdout}"
        said.append(done.stdout)
    (wheel,) = (there / "dist").iterdir()
    return Built(there, said[0], wheel)


def compiled_modules() -> set[str]:
    """The native modules, and the Python modules that Cython compiles because a .pxd stands beside them."""
    native = {source.stem for source in PACKAGE.rglob("*.pyx")}
    python = {source.stem for source in PACKAGE.rglob("*.py") if source.with_suffix(".pxd").exists()}
    assert native, "fastgw has native modules"
    assert python, "fastgw has compiled Python modules"
    return native | python


@pytest.mark.timeout(BUILD_TIMEOUT_S + 10)
def test_the_extensions_compile_with_all_warnings_on(built: Built) -> None:
    assert "-Wall" in built.said
    assert "-Wextra" in built.said
    names = zipfile.ZipFile(built.wheel).namelist()
    assert {Path(name).name.partition(".")[0] for name in names if name.endswith(".so")} == compiled_modules()


@pytest.mark.parametrize("what", ["warning:", "performance hint:"])
def test_the_extensions_compile_without_a_word(built: Built, what: str) -> None:
    said = [line for line in built.said.splitlines() if what in line]
    assert not said, "\n" + "\n".join(said)


def test_the_wheel_is_installed_as_the_page_about_production_says(built: Built, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    names = set(re.findall(r"\S+\.whl", page))
    assert names, "the page says how a wheel is installed"
    for name in names:
        named = re.sub(r"\d+\.\d+\.\d+", __version__, name)
        assert list(built.folder.glob(named)) == [built.wheel], f"{name} is not the name of {built.wheel.name}"
    opt = tmp_path / "fastgw-0"
    for command in (
        [sys.executable, "-m", "venv", opt],
        # The packages that it needs come from this environment, not from an index.
        [opt / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", built.wheel],
    ):
        done = run(*map(str, command), cwd=tmp_path, PYTHONPATH="")
        assert done.returncode == 0, done.stdout
    (site,) = opt.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "fastgw").symlink_to(opt.name)
    fastgw = str(tmp_path / "fastgw/bin/fastgw")
    assert run(fastgw, "--version", cwd=tmp_path, PYTHONPATH="").stdout == f"fastgw {__version__}\n"
    done = run(fastgw, "check", str(REPOSITORY / "examples/shop.toml"), cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stdout
    question = "from fastgw import _ctable; print(_ctable.__file__)"
    where = run(str(opt / "bin/python"), "-c", question, cwd=tmp_path, PYTHONPATH="")
    assert where.stdout.startswith(str(site))


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
