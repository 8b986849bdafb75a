"""What a supervisor says of itself: one small file in its run directory, which is there as long as the gateway runs.

A lock on that directory says that it still runs. The agent shows the file (/status, /metrics), and `fastgw reload`
finds a running gateway by it and sees in it what became of a reload. The file is replaced as a whole, so nobody reads
half of it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

FILE_NAME = "supervisor.json"
BYTES_MAX = 1 << 20
RUN_DIR_PREFIX = "fastgw-"  # of the directories that supervisors make for themselves

STARTING, SERVING, DRAINING = "starting", "serving", "draining"
RUNNING = "running"  # of a reload: no result yet
OK, REFUSED, UNDONE = "ok", "refused", "undone"
RESULTS = (OK, REFUSED, UNDONE)  # undone: workers could not start with it, so all of them went back


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """One reload. Times are seconds since 1970."""

    number: int  # counts the reloads that this supervisor has begun, from 1
    began_s: float
    ended_s: float | None = None
    result: str = RUNNING
    error: str = ""  # may have several lines


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor, as it describes itself."""

    pid: int
    name: str
    config: str  # absolute, as it was named: a link in it may lead elsewhere by now
    stage: str = STARTING
    reload: Reload | None = None  # the last one
    results: dict[str, int] = {}
    is_current: bool = True  # what the file said when it was last read is what runs
    decided_s: float = 0.0  # when that came to be

    def begun(self, now_s: float) -> State:
        """With a reload that begins now."""
        number = self.reload.number + 1 if self.reload else 1
        return msgspec.structs.replace(self, reload=Reload(number=number, began_s=now_s))

    def ended(self, now_s: float, result: str, error: str = "") -> State:
        """With the end of the reload that runs."""
        assert self.reload is not None
        return msgspec.structs.replace(
            self,
            reload=msgspec.structs.replace(self.reload, ended_s=now_s, result=result, error=error),
            results={**self.results, result: self.results.get(result, 0) + 1},
            is_current=result == OK,
            decided_s=now_s,
        )


def of_this_process(name: str, config: Path, now_s: float) -> State:
    """The state of a supervisor that begins."""
    return State(pid=os.getpid(), name=name, config=os.path.abspath(config), decided_s=now_s)


def hold(run_dir: Path) -> int:
    """Say, as long as the returned descriptor is open, that this process writes the file: `is_held`."""
    fd = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def is_held(run_dir: Path) -> bool:
    """Whether the process that wrote the file lives. A pid would not do: it is used again, and may be hidden."""
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
        OSError: it could not be written; what was there stays.
    """
    fresh = run_dir / f".{FILE_NAME}"
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(run_dir / FILE_NAME)


def read(run_dir: Path) -> State | None:
    """What a supervisor wrote, or None: nothing that could be read."""
    try:
        # In a directory for everybody somebody may have put a pipe there: nobody waits for what comes out of it.
        fd = os.open(run_dir / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return msgspec.json.decode(os.read(fd, BYTES_MAX), type=State)
        finally:
            os.close(fd)
    except (OSError, msgspec.MsgspecError):
        return None


def find(places: Iterable[Path], config: Path) -> dict[Path, State]:
    """The supervisors that run with this configuration file, by run directory; `places` is where to look for those."""
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
    """Somebody's file in a directory for everybody is not believed when it names another user's process: root would
    signal that."""
    try:
        writer = (run_dir / FILE_NAME).stat().st_uid
    except OSError:
        return False
    try:
        return writer == Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        # Hidden (ProtectProc=invisible, in the gateway's own sandbox): the kernel lets us signal our own ones only.
        return writer == os.geteuid() != 0
