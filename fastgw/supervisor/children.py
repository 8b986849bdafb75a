"""Child processes: started with named descriptors, report through a pipe, ended by signals.

    parent                                  child
      start  ── --ready-fd, --life-fd … ──>   starts up
      read  <── "ready\\n" or "error text\\n" ──  reports once, then closes the pipe
      pidfd <── becomes readable ─────────────  ends

Each child has its own session: Ctrl-C in a terminal reaches only the parent, which decides what to do. A child holds
the read end of its parent's life pipe. When the parent ends, for any reason, the child reads EOF and ends too.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from math import inf
from pathlib import Path

from fastgw.config import Config

CommandFor = Callable[[str], list[str]]
"""Kind of child ("worker", "agent", "store", "checker", "standby") -> the command that starts one."""

Start = Callable[[Mapping[str, Sequence[int]]], subprocess.Popen[bytes]]
"""Starts a process that inherits these descriptors and gets their numbers as options; raises OSError."""

SAID_BYTES_MAX = 4096  # length of the line that a child reports


class State(Enum):
    """The state of a child, as its parent knows it."""

    STARTING = "starting"  # has not reported yet
    READY = "ready"  # has reported "ready"
    STOPPING = "stopping"  # was told to end, or reported that it cannot start


class Child:
    """One child process. Its times are the parent's monotonic seconds.

    Attributes:
        kind: "worker", "agent", "store" or "checker".
        worker, generation: number and generation of a worker; -1 for other children.
        config: of a worker: with which it was started; set by the parent.
        refusal: why it does not become ready, if known; set by the parent.
        state: set by the parent.
        ready_at: when it reported "ready".
        kill_at: when the parent kills it; infinity while the parent waits for nothing.
        killed_at: when the parent has killed it.
        ready_fd: the pipe on which the child reports; -1 after the report or the end of the child.
    """

    def __init__(
        self,
        start: Start,
        fds: Mapping[str, Sequence[int]],
        now: float,
        kill_at: float,
        worker: int = -1,
        generation: int = -1,
        kind: str = "agent",
    ) -> None:
        """Start the child with each of `fds` as an option: {"--table-fd": [4]} or several numbers.

        Raises:
            OSError: the process could not be started.
        """
        self.worker, self.generation, self.kind = worker, generation, kind
        self.config: Config | None = None
        self.refusal = ""
        self.started_at, self.kill_at = now, kill_at
        self.ready_at = self.killed_at = inf
        self.state = State.STARTING
        self._said = b""
        self.ready_fd, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = start({**fds, "--ready-fd": [write_end]})
        except BaseException:
            self.close_pipe()
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        try:
            self.pidfd = os.pidfd_open(self.pid)  # only this process reaps it: the pid cannot have been reused
        except OSError:
            self._process.kill()
            self._process.wait()
            self.close_pipe()
            raise

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} {self.state.value}>"

    @property
    def is_worker(self) -> bool:
        return self.worker >= 0

    @property
    def name(self) -> str:
        return f"worker {self.worker}.{self.generation}" if self.is_worker else self.kind

    def heard(self) -> str | None:
        """The line that the child reported; "" if it closed the pipe without one, None while the line is incomplete."""
        try:
            piece = os.read(self.ready_fd, SAID_BYTES_MAX)
        except BlockingIOError:
            return None
        self._said += piece
        line, newline, _ = self._said.partition(b"\n")
        if newline or not piece or len(self._said) >= SAID_BYTES_MAX:
            return line.decode(errors="replace")
        return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; it has no effect on a process that has ended and is not reaped yet."""
        signal.pidfd_send_signal(self.pidfd, number)

    def stop(self, kill_at: float) -> None:
        """Send SIGTERM; the parent kills the child at `kill_at`."""
        self.state, self.kill_at = State.STOPPING, kill_at
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.state, self.kill_at = State.STOPPING, inf
        self.killed_at = min(self.killed_at, time.monotonic())
        self.send(signal.SIGKILL)

    def ends_within(self, seconds: float) -> bool:
        """Wait at most this long for the end of the child; returns whether it has ended."""
        waiting = select.poll()
        waiting.register(self.pidfd, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def reap(self) -> str:
        """Wait for the end of the process and free its resources; returns how it ended, in words."""
        code = self._process.wait()
        os.close(self.pidfd)
        self.close_pipe()
        return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"

    def close_pipe(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1


def by_exec(command: Sequence[str], environ: Mapping[str, str]) -> Start:
    """Start a child as a new process of this command, which inherits the descriptors."""

    def start(fds: Mapping[str, Sequence[int]]) -> subprocess.Popen[bytes]:
        options = [part for name, numbers in fds.items() for part in (name, ",".join(map(str, numbers)))]
        return subprocess.Popen(
            [*command, *options],
            pass_fds=[fd for numbers in fds.values() for fd in numbers],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environ,
        )

    return start


def fastgw_command(kind: str) -> list[str]:
    """The command of a real child. -P: do not import from the user's current directory."""
    return [sys.executable, "-P", "-m", "fastgw", kind]


def environment(without: Collection[str]) -> dict[str, str]:
    """Our environment without the variables that are meant only for this process."""
    environ = {name: value for name, value in os.environ.items() if name not in without}
    root = str(Path(__file__).parents[2])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # fastgw runs from a checkout: the child must import the same one.
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")]))
    return environ
