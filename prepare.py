"""Makes .venv ready for the Makefile, and shows how far it is. Needs Python alone.

    python3 prepare.py quick    what `make demo` needs: the packages that fastgw runs on, extensions compiled in a hurry
    python3 prepare.py full     what everything else needs: also the packages of the tests, extensions compiled well

Packages are installed while the extensions are compiled: the one waits for the network, the other for the cores.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]

# Markers: what was done stands in .venv beside the time when.
INSTALLED = VENV / "installed"
HURRIED = VENV / "hurried"  # some of the extensions are those of `quick`

# A third of the time that -O3 takes. A demo has no use for the rest.
HURRY = {"FASTGW_CFLAGS": "-O1 -g0"}
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 10.0  # where lines stay, as in a log


class Job:
    """A command that runs, and in a few words what it does at the moment."""

    def __init__(self, name: str, command: Sequence[str], words: Callable[[str], str], **environ: str) -> None:
        self.name = name
        self.doing = ""
        self.output: list[str] = []
        self._words = words
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environ, text=True, errors="replace",
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
        self._tell(f"{what}: {time.monotonic() - began:.0f} s", done=True)

    def _tell(self, text: str, *, done: bool = False) -> None:
        line = f"fastgw: [{self._step}/{self._count}] {time.monotonic() - self._began:3.0f} s  {text}"
        print(line if self._stays else f"\r\033[K{line[:150]}", end="\n" if self._stays or done else "", flush=True)


def pip_words(line: str) -> str:
    if found := re.match(r"(Collecting|Downloading|Building wheel for) ([A-Za-z0-9._-]+)", line):
        return f"{found[1].lower()} {found[2]}"
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return ""


def compiler_words(modules: int) -> Callable[[str], str]:
    begun: set[str] = set()

    def words(line: str) -> str:
        if found := re.match(r"building '(\S+)' extension", line):
            begun.add(found[1])
            return f"compiling {len(begun)} of {modules} modules"
        return "translating to C" if "Cythonizing" in line else ""

    return words


def compile_in_a_hurry() -> Job:
    HURRIED.touch()  # first: whoever interrupts it has modules that look as if they were compiled well
    return compile_extensions(**HURRY)


def compile_extensions(*options: str, **environ: str) -> Job:
    native = [path.with_suffix("") for path in (ROOT / "fastgw").rglob("*.pyx")]
    python = [path for path in (ROOT / "fastgw").rglob("*.pxd") if path.with_suffix(".py").exists()]
    command = [str(PYTHON), "setup.py", "build_ext", "--inplace", *options]
    return Job("compiling", command, compiler_words(len(native) + len(python)), **environ)


def install(*packages: str) -> Job:
    return Job("pip install", [*PIP, *packages], pip_words)


def is_newer(marker: Path, *others: str) -> bool:
    return marker.exists() and all(marker.stat().st_mtime >= (ROOT / other).stat().st_mtime for other in others)


def works(python: Path) -> bool:
    """It is there, and so is the Python that it was made with."""
    return python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def main(kind: str) -> None:
    in_a_hurry = kind == "quick"
    # What was compiled in a hurry is newer than its source, and has to be compiled again all the same.
    options = ["--force"] if not in_a_hurry and HURRIED.exists() else []
    build: Callable[[], Job] = compile_in_a_hurry if in_a_hurry else partial(compile_extensions, *options)
    if not in_a_hurry and is_newer(INSTALLED, "pyproject.toml", "setup.py"):
        Steps(1).run("compiling what has changed", [build])
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        needed = list(project["project"]["dependencies"])
        if not in_a_hurry:
            needed += project["project"]["optional-dependencies"]["dev"]
        is_new = not works(PYTHON)
        steps = Steps(3 + is_new)
        if is_new:
            venv = [sys.executable, "-m", "venv", "--clear", str(VENV)]
            steps.run(f"creating .venv with {sys.executable}", [lambda: Job("venv", venv, lambda _line: "")])
        # Not in pip's throw-away environment, whose Cython would compile everything a second time.
        steps.run("installing the compiler's tools", [lambda: install(*project["build-system"]["requires"])])
        steps.run("installing packages, compiling fastgw", [lambda: install(*needed), build])
        # The command `fastgw`. The extensions are there already; pip would compile them once more.
        command = [*PIP, "--no-deps", "--no-build-isolation", "--editable", "."]
        only_python = {"FASTGW_EXTENSIONS": "no"}
        steps.run("installing the command", [lambda: Job("pip install", command, pip_words, **only_python)])
        if not in_a_hurry:
            INSTALLED.touch()
    if not in_a_hurry:
        HURRIED.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
