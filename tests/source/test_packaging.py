"""What is handed out: `make wheel` makes an sdist with everything, and from it a wheel that installs and runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

from fastgw import __version__
from tests.places import PACKAGE, REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(700),
]

BUILD_TIMEOUT_S = 600  # 30 s on two idle cores
QUICKLY = "-O0 -g0"  # a sixth of the time of -O3; what is judged here is that everything is there and compiles
REGISTRY_TIMEOUT_S = 15
REGISTRY_IS_AWAY = re.compile(r"Retrying|from versions: none")  # a bound that nothing meets lists the versions


def run(*command: str | Path, cwd: Path = REPOSITORY, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, without this checkout on its path; stdout and stderr come as one text."""
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | {"PYTHONPATH": ""} | environ, timeout=BUILD_TIMEOUT_S,
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


class Made(NamedTuple):
    """The two files that `make wheel` makes."""

    folder: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    dist = tmp_path_factory.mktemp("packaging") / "dist"
    # The environment is the one that runs the tests, and not to be built again meanwhile.
    done = run(
        "make", f"--assume-old={sys.prefix}/built", "wheel", f"VENV={sys.prefix}", f"BIN={sys.prefix}/bin",
        f"DIST={dist}", FASTGW_CFLAGS=QUICKLY,
    )  # fmt: skip
    assert done.returncode == 0, f"\n{done.stdout}"
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return Made(dist, sdist, wheel)


def names_in(sdist: Path) -> set[str]:
    """Its files, as they are named in the checkout."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_the_sdist_has_every_file_of_the_checkout(made: Made) -> None:
    # safe.directory: a build machine may check out as another user than it tests as.
    listed = run("git", "-c", "safe.directory=*", "ls-files")
    assert listed.returncode == 0, listed.stdout
    ours = {name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()}
    missing = ours - names_in(made.sdist)
    assert not missing, "MANIFEST.in leaves out:\n" + "\n".join(sorted(missing))


def test_the_sdist_has_nothing_that_a_build_makes(made: Made) -> None:
    made_by_builds = re.compile(r"fastgw/.*\.(c|so)|build/.*|\.venv.*|.*\.pyc")
    assert not [name for name in names_in(made.sdist) if made_by_builds.fullmatch(name)]


def compiled_modules() -> set[str]:
    """The native modules, and the Python modules that Cython compiles because a .pxd stands beside them."""
    native = set(PACKAGE.rglob("*.pyx"))
    python = {path for path in PACKAGE.rglob("*.pxd") if path.with_suffix(".py").exists()}
    assert native, "fastgw has native modules"
    assert python, "fastgw has compiled Python modules"
    return {path.relative_to(REPOSITORY).with_suffix("").as_posix() for path in native | python}


def test_the_wheel_has_every_module_compiled(made: Made) -> None:
    names = zipfile.ZipFile(made.wheel).namelist()
    assert {name.partition(".")[0] for name in names if name.endswith(".so")} == compiled_modules()
    sources = {path.relative_to(REPOSITORY).as_posix() for path in PACKAGE.rglob("*.py")}
    assert sources | {"fastgw/py.typed"} <= set(names)


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(zipfile.ZipFile(wheel).read(f"fastgw-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_tells_its_version_and_license(made: Made) -> None:
    told = metadata(made.wheel)
    assert (told["Version"], told["License-Expression"], told["License-File"]) == (__version__, "Apache-2.0", "LICENSE")
    assert f"fastgw-{__version__}.dist-info/licenses/LICENSE" in zipfile.ZipFile(made.wheel).namelist()


def test_the_wheel_has_the_name_in_the_page_about_deployment(made: Made) -> None:
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    names = set(re.findall(r"\S+\.whl", page))
    assert names, "the page says how a wheel is installed"
    for name in names:
        named = re.sub(r"\d+\.\d+\.\d+", __version__, name)
        assert list(made.folder.parent.glob(named)) == [made.wheel], f"{name} is not the name of {made.wheel.name}"


class Installed(NamedTuple):
    """A virtual environment that has the wheel and nothing of this checkout."""

    folder: Path
    site: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"


@pytest.fixture(scope="module")
def installed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """As the page about deployment installs it, behind a link."""
    there = tmp_path_factory.mktemp("opt")
    done = run(sys.executable, "-m", "venv", there / "fastgw-0")
    assert done.returncode == 0, done.stdout
    (there / "fastgw").symlink_to("fastgw-0")
    (site,) = (there / "fastgw-0").glob("lib/python*/site-packages")
    installed = Installed(there / "fastgw", site)
    install(installed, made.wheel)
    return installed


def install(into: Installed, wheel: Path) -> None:
    """With the packages that its metadata asks for; those of this environment where no registry answers."""
    pip = [into.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if constraints := os.environ.get("FASTGW_CONSTRAINTS"):
        pip += ["--constraint", REPOSITORY / constraints]
    done = run(*pip, "--retries=1", f"--timeout={REGISTRY_TIMEOUT_S}", wheel)
    if done.returncode != 0 and REGISTRY_IS_AWAY.search(done.stdout):
        done = run(*pip, "--no-index", "--no-deps", wheel)
        (into.site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    assert done.returncode == 0, done.stdout


def test_an_installed_wheel_runs(installed: Installed, tmp_path: Path) -> None:
    fastgw = installed.folder / "bin/fastgw"
    assert run(fastgw, "--version", cwd=tmp_path).stdout == f"fastgw {__version__}\n"
    shutil.copy(REPOSITORY / "examples/shop.toml", tmp_path)
    done = run(fastgw, "check", "shop.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_an_installed_wheel_runs_its_own_modules(installed: Installed, tmp_path: Path) -> None:
    question = "from fastgw import _ctable; print(_ctable.__file__)"
    where = run(installed.python, "-c", question, cwd=tmp_path).stdout
    assert where.strip().endswith(".so")
    assert Path(where).resolve().is_relative_to(installed.site.resolve())
