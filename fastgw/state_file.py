"""The state file of a supervisor: a small file in its run directory, which exists while the gateway runs.

A lock on the directory shows that the supervisor still runs. The agent shows the content in /status and /metrics.
`fastgw reload` finds a running gateway by this file, and reads the result of a reload from it. The file is replaced
atomically, so readers never see a partial file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

FILE_NAME = "supervisor.json"
BYTES_MAX = 1 << 20
RUN_DIR_PREFIX = "fastgw-"  # of run directories

STARTING, SERVING, DRAINING = "starting", "serving", "draining"
RUNNING = "running"  # the reload has no result yet
OK, REFUSED, UNDONE = "ok", "refused", "undone"
RESULTS = (OK, REFUSED, UNDONE)  # undone: workers could not start with it, so all have the old configuration


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """One reload. Times are seconds since 1970."""

    number: int  # counts the reloads of this supervisor, from 1
    began_s: float
    ended_s: float | None = None
    result: str = RUNNING
    error: str = ""  # may have several lines


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a supervisor."""

    pid: int
    name: str
    config: str  # absolute, with links not resolved: they may have changed
    stage: str = STARTING
    reload: Reload | None = None  # the last reload
    results: dict[str, int] = {}
    is_current: bool = True  # whether the gateway runs with the configuration of the last reload
    decided_s: float = 0.0  # when `is_current` was last set

    def begun(self, now_s: float) -> State:
        """The state after the beginning of a reload."""
        number = self.reload.number + 1 if self.reload else 1
        return msgspec.structs.replace(self, reload=Reload(number=number, began_s=now_s))

    def ended(self, now_s: float, result: str, error: str = "") -> State:
        """The state after the end of the running reload."""
        assert self.reload is not None
        return msgspec.structs.replace(
            self,
            reload=msgspec.structs.replace(self.reload, ended_s=now_s, result=result, error=error),
            results={**self.results, result: self.results.get(result, 0) + 1},
            is_current=result == OK,
            decided_s=now_s,
        )


def of_this_process(name: str, config: Path, now_s: float) -> State:
    """The state of a starting supervisor."""
    return State(pid=os.getpid(), name=name, config=os.path.abspath(config), decided_s=now_s)


def hold(run_dir: Path) -> int:
    """Lock the run directory while the returned descriptor is open; see `is_held`."""
    fd = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def is_held(run_dir: Path) -> bool:
    """Whether the supervisor of this run directory lives. A pid is not reliable: it may be reused or hidden."""
    try:
        fd = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def write(run_dir: Path, state: State) -> None:
    """
    Raises:
        OSError: the file could not be written; the old one stays.
    """
    fresh = run_dir / f".{FILE_NAME}"
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(run_dir / FILE_NAME)


def read(run_dir: Path) -> State | None:
    """The state in the file; None if it cannot be read."""
    try:
        # In a world-writable directory the file may be a pipe of another user: do not block on it.
        fd = os.open(run_dir / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return msgspec.json.decode(os.read(fd, BYTES_MAX), type=State)
        finally:
            os.close(fd)
    except (OSError, msgspec.MsgspecError):
        return None


def find(places: Iterable[Path], config: Path) -> dict[Path, State]:
    """The supervisors that run with this configuration file, by run directory; `places` are searched."""
    wanted = os.path.realpath(config)
    found: dict[Path, State] = {}
    for place in places:
        for run_dir in _directories(place):
            state = read(run_dir)
            if state is None or state.pid in {one.pid for one in found.values()}:
                continue
            if os.path.realpath(state.config) != wanted:
                continue
            if is_held(run_dir) and _may_speak_for(run_dir, state.pid):
                found[run_dir] = state
    return found


def _directories(place: Path) -> list[Path]:
    try:
        return sorted(place.glob(f"{RUN_DIR_PREFIX}*"))
    except OSError:
        return []


def _may_speak_for(run_dir: Path, pid: int) -> bool:
    """Whether the owner of the file is the user of the process. In a world-writable directory another user could
    write a file with any pid, and root would signal that process."""
    try:
        writer = (run_dir / FILE_NAME).stat().st_uid
    except OSError:
        return False
    try:
        return writer == Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        # /proc may hide it (ProtectProc=invisible in the gateway's sandbox). Then the kernel allows signals only to our
        # own processes.
        return writer == os.geteuid() != 0
