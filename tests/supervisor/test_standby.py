"""A process that waits to become a worker: what it is told, and how it ends."""

from __future__ import annotations

import os
import sys

import pytest

from fastgw.supervisor.children import environment
from fastgw.supervisor.standby import Standby
from tests.actors.alone import left_open

# Waits for its role and tells through the descriptor that it was given what it has become.
PROGRAM = """
import os, sys
from fastgw.supervisor.standby import await_role
role = await_role(int(sys.argv[-1]))
if role is None:
    sys.exit(7)
at = dict(zip(role[::2], role[1::2]))
os.write(int(at["--ready-fd"]), " ".join([*role[:2], str(len(at["--listen-fds"].split(",")))]).encode())
"""


def standby(program: str = PROGRAM) -> Standby:
    return Standby([sys.executable, "-c", program], environment(without=()))


def test_it_becomes_the_worker_that_it_is_told_to_be_with_its_descriptors() -> None:
    waiting = standby()
    reading, writing = os.pipe()
    process = waiting.take_over(["--slot", "3"], {"--ready-fd": [writing], "--listen-fds": [reading, reading]})
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "--slot 3 2"
    assert process.wait(10) == 0
    assert process.pid == waiting.pid


def test_one_that_has_died_cannot_take_over_and_is_reaped() -> None:
    dead = standby("import sys; sys.exit(3)")
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):  # noqa: PT011
        dead.take_over(["--slot", "3"], {})
    with pytest.raises(ChildProcessError):
        os.waitpid(dead.pid, 0)


def test_it_ends_when_its_supervisor_is_gone() -> None:
    waiting = standby()
    waiting._socket.close()
    assert waiting._process.wait(10) == 7


def test_it_holds_nothing_that_is_left_open() -> None:
    imports = "from tests.supervisor.test_standby import standby\n"
    assert left_open(imports, "standby('import time; time.sleep(60)').end()") == "left open:\n"


def test_a_command_that_does_not_exist_is_an_error_that_leaves_nothing_open() -> None:
    act = """
try:
    Standby(["/nowhere/at/all"], {})
except OSError as error:
    print(type(error).__name__)
"""
    imports = "from fastgw.supervisor.standby import Standby\n"
    assert left_open(imports, act) == "FileNotFoundError\nleft open:\n"
