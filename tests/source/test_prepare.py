"""What `make` shows while it installs and compiles: which step of how many, what it is at, how long it takes."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest

import prepare
from prepare import Job, Steps, compiler_words, is_newer, pip_words


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
    assert [line for line in told if line.endswith(" s") and ": " in line.partition("]")[2]]


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


def test_modules_that_were_compiled_in_a_hurry_are_marked_before_the_first_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever interrupts `make demo` would otherwise have them in `make test` and in every benchmark."""
    monkeypatch.setattr(prepare, "HURRIED", tmp_path / "hurried")
    monkeypatch.setattr(prepare, "compile_extensions", lambda **_: prepare.HURRIED.exists())
    assert prepare.compile_in_a_hurry()
