"""What `make` shows while it installs and compiles: which step of how many, what it is at, how long it takes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

import prepare
from prepare import Environment, Job, Steps, compile_extensions, compiler_words, is_newer, modules, pip_words


def python(source: str) -> Job:
    return Job("the job", [sys.executable, "-c", source], lambda line: line.strip())


def test_each_step_is_told_with_its_number_what_it_is_at_and_its_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(prepare, "TELL_EVERY_S", 0.02)
    slowly = "import time; print('half way', flush=True); time.sleep(0.5)"
    steps = Steps(2)
    steps.run("fetching", [partial(python, slowly), partial(python, "")])
    steps.run("compiling", [partial(python, "")])
    told = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"fastgw: \[[12]/2\] +\d+ s  (fetching|compiling).*", line) for line in told)
    assert any(line.endswith("fetching: half way") for line in told)
    ends = [line for line in told if re.search(r" s  (fetching|compiling): \d+ s, \d+ s of CPU$", line)]
    assert len(ends) == 2


def test_a_step_that_fails_ends_with_all_that_its_command_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Steps(1).run("compiling", [partial(python, "print('line 1'); print('line 2'); raise SystemExit(3)")])
    assert str(ended.value).startswith("line 1\nline 2\n")
    assert str(ended.value).endswith("fastgw: the job failed; the reason stands above")


def test_what_pip_says_is_condensed() -> None:
    assert pip_words("Collecting uvloop>=0.22 (from -r x)\n") == "collecting uvloop"
    assert pip_words("Installing collected packages: a, b, c\n") == "unpacking 3 packages"
    assert pip_words("  Using cached a.whl (1 kB)\n") == ""


def test_modules_are_counted_as_their_compilation_begins() -> None:
    words = compiler_words(16)
    assert words("[1/2] Cythonizing fastgw/_ids.pyx\n") == "translating to C"
    assert words("building 'fastgw._ids' extension\n") == "compiling 1 of 16 modules"
    assert words("building 'fastgw.core.arrival_rate' extension\n") == "compiling 2 of 16 modules"
    assert words("cc -O1 ...\n") == ""


def test_a_marker_is_newer_than_what_it_stands_for_or_is_none(tmp_path: Path) -> None:
    marker, other = tmp_path / "marker", tmp_path / "other"
    other.touch()
    assert not is_newer(marker, str(other))
    marker.touch()
    os.utime(other, (1, 1))
    assert is_newer(marker, str(other))
    os.utime(marker, (0, 0))
    assert not is_newer(marker, str(other))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment whose last build was a full one without a complaint."""
    made = Environment(tmp_path)
    made.log.write_text("".join(f"building '{module}' extension\n" for module in modules()))
    return made


class Begun(NamedTuple):
    """A build as it would be started."""

    forced: bool
    regenerates: bool
    hurried: bool


@pytest.fixture
def begin(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Begun]:
    def start(_name: str, command: list[str], _words: object, environ: Mapping[str, str], _log: Path) -> Begun:
        return Begun("--force" in command, "CYTHON_FORCE_REGEN" in environ, environment.hurried.exists())

    monkeypatch.setattr(prepare, "Job", start)
    return lambda in_a_hurry: compile_extensions(environment, in_a_hurry=in_a_hurry)  # type: ignore[return-value]


def test_a_build_compiles_what_has_changed(begin: Callable[[bool], Begun]) -> None:
    assert begin(False) == Begun(forced=False, regenerates=False, hurried=False)


def test_modules_of_a_quick_build_are_marked_before_the_first_is_there_and_compiled_again(
    begin: Callable[[bool], Begun],
) -> None:
    """An interrupted `make demo` would otherwise leave them to `make test` and to every benchmark."""
    assert begin(True) == Begun(forced=False, regenerates=False, hurried=True)
    assert begin(False) == Begun(forced=True, regenerates=False, hurried=True)


@pytest.mark.parametrize("said", [None, "x.c:1:2: warning: unused\n", "performance hint: x.pyx:1:2: noexcept\n"])
def test_after_a_complaint_or_without_a_log_everything_is_compiled_again(
    environment: Environment, begin: Callable[[bool], Begun], said: str | None
) -> None:
    environment.log.unlink() if said is None else environment.log.write_text(environment.log.read_text() + said)
    assert begin(False) == Begun(forced=True, regenerates=True, hurried=False)


def test_what_no_build_has_named_yet_has_everything_compiled_again(
    environment: Environment, begin: Callable[[bool], Begun]
) -> None:
    """After a build that was interrupted, or with a new module."""
    environment.log.write_text("".join(environment.log.read_text().splitlines(keepends=True)[1:]))
    assert begin(False) == Begun(forced=True, regenerates=True, hurried=False)
    assert not environment.log.exists(), "a new log begins"


@pytest.mark.parametrize("code", [0, 1])
def test_a_log_is_that_of_all_builds_since_everything_was_compiled(tmp_path: Path, code: int) -> None:
    log = tmp_path / "build.log"
    log.write_text("old\n")
    command = [sys.executable, "-c", f"print('new'); raise SystemExit({code})"]
    with nullcontext() if code == 0 else pytest.raises(SystemExit):
        Steps(1).run("compiling", [lambda: Job("the job", command, str.strip, log=log)])
    assert log.read_text() == "old\nnew\n"


def test_pip_keeps_to_the_constraints_that_are_asked_for(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTGW_CONSTRAINTS", raising=False)
    assert "--constraint" not in environment.pip_install("x")
    monkeypatch.setenv("FASTGW_CONSTRAINTS", "versions.txt")
    assert environment.pip_install("x")[-3:] == ["--constraint", "versions.txt", "x"]
