"""The `fastgw` command in a process of its own, and how it has to tell a mistake."""

from __future__ import annotations

import subprocess
import sys

COMMAND_S = 60


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, running; `finish` waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastgw", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=COMMAND_S)
    return process.returncode, out, err


def fastgw(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    return finish(start(*arguments))


def assert_one_line(done: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, and on stderr one line for people that holds each of `parts`."""
    code, _, err = done
    assert code == 2, err
    assert err.startswith("fastgw: "), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    for part in parts:
        assert part in err
