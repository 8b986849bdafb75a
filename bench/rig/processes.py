"""Starting and ending processes, and what their trees have cost: CPU time and memory, from the kernel's own books.

CPU is user + system of every process of a tree. Living processes are read through their CPU clock (nanoseconds, all
threads, ended ones included); processes that ended and were waited for stand in their parent's /proc/PID/stat (ticks of
10 ms). A child of a child that ended without being waited for is lost; no gateway here does that under load.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
END_TIMEOUT_S = 15.0
LOOK_AGAIN_S = 0.02

Value = TypeVar("Value")


class BenchError(Exception):
    """A part of the benchmark could not do its work; the message is for the person who started it."""


def wait_for(condition: Callable[[], Value], timeout_s: float, what: str) -> Value:
    """Ask until the answer is true, and return it.

    Raises:
        BenchError: it was still false after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise BenchError(f"not within {timeout_s:g} s: {what}")
        time.sleep(LOOK_AGAIN_S)
    return answer


# --- what a tree has cost --------------------------------------------------------------------------------------------


def tree(root: int) -> list[int]:
    """The process ids of `root` and all its living descendants."""
    found = [root]
    for pid in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def parts(gateway: int) -> dict[str, int]:
    """The processes of a fastgw by their names, "worker" and "store"; of several workers one."""
    found: dict[str, int] = {}
    for pid in tree(gateway):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found |= {name: pid for name in ("worker", "store") if title.startswith("fastgw:") and f" {name}" in title}
    return found


def _clock_us(pid: int) -> float:
    # The kernel's name for "CPU time of the whole process pid": the complement of the id, and 2 for the scheduler's.
    return time.clock_gettime((~pid << 3) | 2) * 1e6


def _ended_children_us(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[13]) + int(after_name[14])) / TICKS_PER_S * 1e6  # cutime and cstime


def cpu_us(*roots: int) -> float:
    """CPU time (user + system, microseconds) that the trees of `roots` have used since they were started."""
    total = 0.0
    for root in roots:
        for pid in tree(root):
            with suppress(FileNotFoundError, ProcessLookupError, OSError):
                total += _clock_us(pid) + _ended_children_us(pid)
    return total


@dataclass(frozen=True)
class Work:
    """What threads have done: CPU time in microseconds, and how often they went to sleep of their own accord."""

    cpu_us: float = 0.0
    sleeps: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.cpu_us + other.cpu_us, self.sleeps + other.sleeps)

    def __sub__(self, other: Work) -> Work:
        return Work(self.cpu_us - other.cpu_us, self.sleeps - other.sleeps)


def work_by_thread(root: int) -> dict[str, Work]:
    """What the living threads of a tree have done since they were started, those of one name together."""
    done: defaultdict[str, Work] = defaultdict(Work)
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    name = (thread / "comm").read_text().strip()
                    cpu_ns = int((thread / "schedstat").read_text().split()[0])
                    sleeps = (thread / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]
                    done[name] += Work(cpu_ns / 1e3, int(sleeps))
    return dict(done)


@dataclass(frozen=True)
class Memory:
    """Memory of a tree in MB (10^6 bytes): `pss` counts shared pages once, `rss` once for each process."""

    rss_mb: float
    pss_mb: float
    largest_rss_mb: float  # of the one process that has most

    @property
    def as_figures(self) -> dict[str, float]:
        return {name: round(value, 2) for name, value in vars(self).items()}


def memory(root: int) -> Memory:
    """What the tree of `root` has in memory now."""
    each = [figures for pid in tree(root) if (figures := _memory_kb(pid))]
    rss = [figures["Rss"] for figures in each]
    return Memory(sum(rss) / 1000, sum(figures["Pss"] for figures in each) / 1000, max(rss, default=0) / 1000)


def _memory_kb(pid: int) -> dict[str, float]:
    with suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return {name: int(value.split()[0]) * 1.024 for name, _, value in (line.partition(":") for line in lines)}
    return {}


# --- starting and ending ---------------------------------------------------------------------------------------------


class Running:
    """A program that the benchmark started: a context manager that ends it, and everything it started.

    Args:
        command: program and arguments.
        log: what it prints goes here.
        environment: variables beyond ours.
        folder: where it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *command], cwd=folder, env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is for the benchmark, which then ends everything in order
            )  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def wait_until(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for a condition that this program has to bring about.

        Raises:
            BenchError: not in time, or the program ended; with the end of what it printed.
        """
        try:
            wait_for(lambda: self.ended or condition(), timeout_s, what)
        except BenchError as error:
            raise BenchError(f"{error}\n{self.log_tail}") from None
        if self.ended:
            raise BenchError(f"ended while we waited: {what}\n{self.log_tail}")

    def end(self) -> None:
        """SIGTERM, and SIGKILL for its whole session when that is not enough."""
        if not self.ended:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _dies_with_us() -> list[str]:
    # A benchmark that is killed with SIGKILL cannot clean up; the kernel then ends what it started.
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def run_to_end(command: Sequence[str], timeout_s: float, folder: Path | None = None, **environment: str) -> str:
    """Run a program to its end and give what it printed, both streams.

    Raises:
        BenchError: it is missing, took too long or failed; with the end of what it printed.
    """
    try:
        done = subprocess.run(
            [*command], cwd=folder, env=os.environ | environment, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{' '.join(command)}: {error}") from None
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise BenchError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def json_line(printed: str) -> dict[str, Any]:
    """The one line of JSON among the warnings that a program printed.

    Raises:
        BenchError: there is none.
    """
    for line in printed.splitlines():
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise BenchError(f"expected a line of JSON, got:\n{printed}")
