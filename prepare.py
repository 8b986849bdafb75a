"""Makes a virtual environment ready for the Makefile, and shows how far it is. Needs Python alone.

    python3 prepare.py quick .venv    what `make demo` needs: the packages that fastgw runs on, a quick compilation
    python3 prepare.py full .venv     what everything else needs: also the packages of the tests, optimized extensions
    python3 prepare.py pin .venv      write the newest versions of all these packages to .ci/constraints.txt

Packages are installed while the extensions are compiled: the former waits for the network, the latter for the cores.
FASTGW_CONSTRAINTS names a file of versions that pip keeps to; a build machine gives .ci/constraints.txt.

What the compilers say is kept in build.log of the environment, since the last time that everything was compiled. A log
with a warning, or without one of the modules, has the next build compile everything again: a log without a warning then
means that no module has one. tests/source/test_source.py judges it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"

# A third of the time that -O3 takes. A demo has no use for the rest.
HURRY = {"FASTGW_CFLAGS": "-O1 -g0"}
COMPLAINTS = ("warning:", "performance hint:")  # of the C compiler and of Cython
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 10.0  # where lines stay, as in a log


class Environment:
    """A virtual environment, and the files in it that tell what was done and when."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.installed = folder / "installed"
        self.hurried = folder / "hurried"  # some of the extensions are those of `quick`
        self.log = folder / "build.log"

    @property
    def works(self) -> bool:
        """It is there, and so is the Python that it was made with."""
        pip = [str(self.python), "-m", "pip", "--version"]
        return self.python.exists() and subprocess.run(pip, capture_output=True).returncode == 0

    def pip_install(self, *arguments: str) -> list[str]:
        options = ["--disable-pip-version-check", "--progress-bar=off"]
        if constraints := os.environ.get("FASTGW_CONSTRAINTS"):
            options += ["--constraint", constraints]
        return [str(self.python), "-m", "pip", "install", *options, *arguments]


class Job:
    """A command that runs, and in a few words what it does at the moment."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        words: Callable[[str], str],
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.name = name
        self.doing = ""
        self.output: list[str] = []
        self._words = words
        self._log = log
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | dict(environ or {}), text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            self.doing = self._words(line) or self.doing

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        """Ends this program when the command has failed, with all that it said."""
        self._reader.join()
        if self._process.returncode:
            sys.exit(f"{''.join(self.output)}\nfastgw: {self.name} failed; the reason stands above")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._log:
            self._reader.join()
            with self._log.open("a") as file:
                file.writelines(self.output)


class Steps:
    """Tells which step of how many it is, what it is at, and how long it takes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._step = 0
        self._began = time.monotonic()
        self._stays = not sys.stdout.isatty()

    def run(self, what: str, start: Sequence[Callable[[], Job]]) -> None:
        """Do these at the same time; returns when all are done."""
        self._step += 1
        jobs: list[Job] = []
        began = told = time.monotonic()
        used_before = cpu_seconds()
        self._tell(what)
        try:
            jobs += [one() for one in start]
            while not all(job.ended for job in jobs):
                time.sleep(LOOK_EVERY_S)
                if not self._stays or time.monotonic() - told >= TELL_EVERY_S:
                    told = time.monotonic()
                    doing = ", ".join(job.doing for job in jobs if job.doing and not job.ended)
                    self._tell(f"{what}: {doing}" if doing else what)
            for job in jobs:
                job.check()
        finally:
            for job in jobs:
                job.end()
        used = cpu_seconds() - used_before  # the rest of the time it waited: for the network, or for others
        self._tell(f"{what}: {time.monotonic() - began:.0f} s, {used:.0f} s of CPU", done=True)

    def _tell(self, text: str, *, done: bool = False) -> None:
        line = f"fastgw: [{self._step}/{self._count}] {time.monotonic() - self._began:3.0f} s  {text}"
        print(line if self._stays else f"\r\033[K{line[:150]}", end="\n" if self._stays or done else "", flush=True)


def cpu_seconds() -> float:
    """What all commands that have ended used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pip_words(line: str) -> str:
    if found := re.match(r"(Collecting|Downloading|Building wheel for) ([A-Za-z0-9._-]+)", line):
        return f"{found[1].lower()} {found[2]}"
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return ""


def compiler_words(modules: int) -> Callable[[str], str]:
    begun: set[str] = set()

    def words(line: str) -> str:
        if found := named(line):
            begun.update(found)
            return f"compiling {len(begun)} of {modules} modules"
        return "translating to C" if "Cythonizing" in line else ""

    return words


def named(said: str) -> set[str]:
    """The modules that the compilers were given, such as "fastgw._ids"."""
    return set(re.findall(r"^building '(\S+)' extension", said, re.MULTILINE))


def complaints(said: str) -> list[str]:
    """The warnings and performance hints in what the compilers said."""
    return [line for line in said.splitlines() if any(sign in line for sign in COMPLAINTS)]


def compile_extensions(environment: Environment, *, in_a_hurry: bool) -> Job:
    command = [str(environment.python), "setup.py", "build_ext", "--inplace"]
    environ = HURRY if in_a_hurry else {}
    said = environment.log.read_text() if environment.log.exists() else ""
    if complaints(said) or modules() - named(said):
        environment.log.unlink(missing_ok=True)
        command.append("--force")
        environ = environ | {"CYTHON_FORCE_REGEN": "1"}
    elif not in_a_hurry and environment.hurried.exists():
        command.append("--force")  # these are newer than their sources, and have to be compiled again all the same
    if in_a_hurry:
        environment.hurried.touch()  # first: an interrupted build leaves modules that look like optimized ones
    return Job("compiling", command, compiler_words(len(modules())), environ, environment.log)


def modules() -> set[str]:
    """All that are compiled: the native ones, and Python modules with a .pxd beside them."""
    native = set((ROOT / "fastgw").rglob("*.pyx"))
    python = {path for path in (ROOT / "fastgw").rglob("*.pxd") if path.with_suffix(".py").exists()}
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in native | python}


def is_newer(marker: Path, *others: str) -> bool:
    return marker.exists() and all(marker.stat().st_mtime >= (ROOT / other).stat().st_mtime for other in others)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(*extras: str) -> list[str]:
    table = project()["project"]
    return [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]


def make_ready(environment: Environment, *, in_a_hurry: bool) -> None:
    build = partial(compile_extensions, environment, in_a_hurry=in_a_hurry)
    decides = ["pyproject.toml", "setup.py", *filter(None, [os.environ.get("FASTGW_CONSTRAINTS")])]
    if not in_a_hurry and is_newer(environment.installed, *decides):
        Steps(1).run("compiling what has changed", [build])
    else:
        install_all(environment, build, requirements() if in_a_hurry else requirements("dev"))
        if not in_a_hurry:
            environment.installed.touch()
    if not in_a_hurry:
        environment.hurried.unlink(missing_ok=True)


def install_all(environment: Environment, build: Callable[[], Job], needed: list[str]) -> None:
    def install(*arguments: str, **environ: str) -> Job:
        return Job("pip install", environment.pip_install(*arguments), pip_words, environ)

    is_new = not environment.works
    steps = Steps(3 + is_new)
    if is_new:
        venv = [sys.executable, "-m", "venv", "--clear", str(environment.folder)]
        creating = f"creating {environment.folder.name} with {sys.executable}"
        steps.run(creating, [lambda: Job("venv", venv, lambda _line: "")])
    # Not in pip's throw-away environment, whose Cython would compile everything a second time.
    steps.run("installing the compiler's tools", [lambda: install(*project()["build-system"]["requires"])])
    steps.run("installing packages, compiling fastgw", [lambda: install(*needed), build])
    # The command `fastgw`. The extensions are there already; pip would compile them once more.
    command = ["--no-deps", "--no-build-isolation", "--editable", "."]
    steps.run("installing the command", [lambda: install(*command, FASTGW_EXTENSIONS="no")])


def pin(environment: Environment) -> None:
    """Write what pip would install today, of all that the build, the tests and the benchmarks need."""
    os.environ.pop("FASTGW_CONSTRAINTS", None)  # the old versions
    report = environment.folder / "newest.json"
    needed = [*project()["build-system"]["requires"], *requirements("dev", "bench")]
    asking = environment.pip_install("--dry-run", "--ignore-installed", "--report", str(report), *needed)
    Steps(1).run("asking for the newest versions", [lambda: Job("pip install", asking, pip_words)])
    newest = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    lines = sorted(f"{package['name'].lower()}=={package['version']}" for package in newest)
    CONSTRAINTS.write_text("\n".join(["# Written by `make pin`, read by .ci/run.", *lines, ""]))


def main(kind: str, folder: str) -> None:
    environment = Environment(ROOT / folder)
    if kind == "pin":
        pin(environment)
    else:
        make_ready(environment, in_a_hurry=kind == "quick")


if __name__ == "__main__":
    main(*sys.argv[1:])
