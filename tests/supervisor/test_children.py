"""A child process as its parent sees it."""

from __future__ import annotations

import os
import signal
import sys
from math import inf
from pathlib import Path

import pytest

from fastgw.supervisor.children import Child, State, by_exec, environment, fastgw_command
from tests.actors.alone import left_open
from tests.waiting import eventually


def child(program: str, worker: int = -1, generation: int = -1, fds: dict[str, list[int]] | None = None) -> Child:
    """Run a Python program as a child; `say` in it writes to the readiness pipe."""
    prelude = "import os, sys, signal\nsay = lambda text: os.write(int(sys.argv[-1]), text)\n"
    command = [sys.executable, "-S", "-c", prelude + program]
    return Child(by_exec(command, environment(without=())), fds or {}, 0.0, inf, worker, generation)


def said(one: Child) -> str:
    line: list[str] = []
    eventually(lambda: (heard := one.heard()) is not None and (line.append(heard) or True))
    return line[0]


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (r"say(b'ready\n')", "ready"),
        (r"say(b'error no '); say(b'topic\n')", "error no topic"),
        (r"say(b'rea')", "rea"),
        (r"pass", ""),
        (r"say(b'\xff\n')", "\ufffd"),
    ],
)
def test_what_it_says_is_one_line_and_silence_is_an_empty_one(program: str, line: str) -> None:
    one = child(program)
    assert said(one) == line
    assert one.reap() == "exit code 0"


def test_a_line_without_end_is_cut() -> None:
    one = child("say(b'x' * 5000); signal.pause()")
    assert said(one) == "x" * 4096
    one.kill()
    assert one.reap() == "signal 9 (Killed)"


def test_its_end_is_told_in_words_and_frees_its_descriptors() -> None:
    act = 'one = child("sys.exit(7)"); print(one.ends_within(10), one.reap())'
    assert left_open("from tests.supervisor.test_children import child\n", act) == "True exit code 7\nleft open:\n"


def test_stopping_is_asked_first_and_remembered() -> None:
    one = child(r"say(b'ready\n'); signal.pause()", worker=2, generation=5)
    assert not one.ends_within(0)
    assert said(one) == "ready"
    one.stop(kill_at=17.0)
    assert (one.state, one.kill_at) == (State.STOPPING, 17.0)
    assert one.reap() == "signal 15 (Terminated)"
    assert repr(one) == f"<worker 2.5 pid={one.pid} stopping>"


def test_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    one = child(r"say(str(os.getsid(0) == os.getpid()).encode() + b'\n')")
    assert said(one) == "True"
    one.reap()


def test_it_inherits_the_descriptors_it_is_told_of_and_no_others(tmp_path: Path) -> None:
    program = r"say(' '.join(sys.argv[1:5] + sorted(os.listdir('/proc/self/fd'), key=int)).encode() + b'\n')"
    with (tmp_path / "a").open("w") as a, (tmp_path / "b").open("w") as b, (tmp_path / "c").open("w"):
        numbers = [a.fileno(), b.fileno()]
        one = child(program, fds={"--x-fds": numbers, "--y-fd": [b.fileno()]})
        words = said(one).split()
        one.reap()
    assert words[:4] == ["--x-fds", f"{numbers[0]},{numbers[1]}", "--y-fd", str(numbers[1])]
    ready_fd_and_the_listing_itself = 2
    assert len(words[4:]) == 3 + len(numbers) + ready_fd_and_the_listing_itself


NOWHERE = """
try:
    Child(by_exec(["/nowhere/at/all"], {}), {}, 0.0, 60.0)
except OSError as error:
    print(type(error).__name__)
"""


def test_a_command_that_does_not_exist_is_an_error_that_leaves_nothing_open() -> None:
    imports = "from fastgw.supervisor.children import Child, by_exec\n"
    assert left_open(imports, NOWHERE) == "FileNotFoundError\nleft open:\n"


def test_the_environment_lacks_what_is_ours_alone_and_a_checkout_finds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    environ = environment(without=("NOTIFY_SOCKET",))
    assert "NOTIFY_SOCKET" not in environ
    assert environ["HOME" if "HOME" in os.environ else "PATH"]


def test_the_real_command_imports_nothing_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('not from here')")
    monkeypatch.chdir(tmp_path)
    one = Child(by_exec(fastgw_command("worker"), environment(without=())), {}, 0.0, inf)
    assert one.reap() == "exit code 2", "argparse misses the other options"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
