"""The folder of the tables: one store at a time, and whether what lies in it can be trusted.

    lock       locked while a store uses the folder; contains its pid
    store.json how the folder was left: `FolderState`
    crash      what the last store's process wrote when a signal such as SIGSEGV ended it
    data.mdb   the tables themselves

The tables are written without waiting for the disk. What a killed process has written is still there, because the
operating system has it. After a crash of the machine, any part of it may be missing. So `store.json`, which does wait
for the disk, says whether the tables were closed, and in which boot of the machine they were opened: after another boot
only closed tables can be trusted. In doubt they are deleted, and the store reads the topics again from their beginning.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import msgspec

from fastgw.dialects import control
from fastgw.errors import StoreError
from fastgw.store_folder import why_unsuitable

LAYOUT = 1  # of the tables; another number, and they are built again

LOCK, STATE, CRASH, DATA = "lock", "store.json", "crash", "data.mdb"
BOOT_TIME_TOLERANCE_S = 120  # clocks are set; two boots are further apart


class FolderState(msgspec.Struct, frozen=True, kw_only=True):
    """How a store left the folder.

    Attributes:
        records_layout: the newest format of control records that the store could read. A store that can read a newer
            one needs the records that this one has skipped.
        boot_time_s: when the machine was booted, seconds since 1970, as seen at opening.
        is_closed: whether everything is on the disk and nothing was written since.
        damage: what was found wrong with the tables; "" if nothing was.
    """

    layout: int
    records_layout: int = 0
    boot_time_s: float
    is_closed: bool = False
    damage: str = ""


def boot_time_s() -> float:
    """When the machine was booted, seconds since 1970. It moves when the clock is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Folder:
    """The folder, locked by this process. `close` unlocks it, as does the end of the process."""

    def __init__(self, path: Path, max_bytes: int, booted_s: float | None = None) -> None:
        """
        Args:
            max_bytes: as much as the tables may take.
            booted_s: when the machine was booted; None: ask the operating system.

        Raises:
            StoreError: another store uses the folder, it cannot be used, or it lies in memory.
        """
        self.path = path
        self._booted_s = boot_time_s() if booted_s is None else booted_s
        self._crash: TextIO | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if unsuitable := why_unsuitable(path, max_bytes):
                raise StoreError(unsuitable)
            self._lock = self._locked()
        except OSError as error:
            raise StoreError(f"the store cannot use its folder {path}: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<Folder {self.path}>"

    def _locked(self) -> int:
        """Take the lock and leave our pid in it; the lock is held while the descriptor is open."""
        fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StoreError(
                f"another store (pid {holder}) uses the folder {self.path}: give each gateway a [store] dir of its own,"
                " or end the other one first"
            ) from None
        except OSError:
            os.close(fd)
            raise
        return fd

    def why_not_trusted(self) -> str:
        """Why the tables in the folder have to be built again; "" if they can be used, or there are none."""
        if not (self.path / DATA).exists():
            return ""
        state = self._read_state()
        if state is None:
            return f"{STATE} is missing or damaged, so it is unknown how the last store ended"
        if state.layout != LAYOUT:
            return f"they have layout {state.layout}, and this version of fastgw has layout {LAYOUT}"
        if state.damage:
            return state.damage
        if state.records_layout != control.LAYOUT:
            read = f"records up to layout {state.records_layout}"
            return f"they were made from {read}, and this version of fastgw reads layout {control.LAYOUT}"
        if crash := self._read_crash():
            return f"the last store's process crashed: {crash}"
        if not state.is_closed and abs(state.boot_time_s - self._booted_s) > BOOT_TIME_TOLERANCE_S:
            return "the machine has been booted since they were opened, and they were not closed before"
        return ""

    def delete_tables(self) -> None:
        """
        Raises:
            StoreError: the file could not be deleted.
        """
        self._delete(DATA)

    def forget_crash(self) -> None:
        """Delete the note of a crash. The tables that it is about must be gone before."""
        self._delete(CRASH)

    def _delete(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"the store cannot delete {self.path / name}: {error.strerror}") from error

    def note_opened(self) -> None:
        """Have the disk know that the tables are in use. Nothing may be written to them before."""
        self._write_state(self._state())

    def note_damage(self, damage: str) -> None:
        """Have the next store build the tables again, in case this one ends before it has done that."""
        self._write_state(self._state(damage=damage))

    def note_closed(self) -> None:
        """Have the disk know that all of the tables is on it."""
        self._write_state(self._state(is_closed=True))

    def _state(self, *, is_closed: bool = False, damage: str = "") -> FolderState:
        return FolderState(
            layout=LAYOUT,
            records_layout=control.LAYOUT,
            boot_time_s=self._booted_s,
            is_closed=is_closed,
            damage=damage,
        )

    def watch_for_crashes(self) -> None:
        """Have a signal such as SIGSEGV or SIGBUS leave a note that has the next store build the tables again.

        LMDB reads its file as memory: a damaged page, or one that the disk cannot read, may end the process. Without
        the note, the next store would read the same page and end like this one. For the whole process.
        """
        try:
            self._crash = (self.path / CRASH).open("w")
        except OSError as error:
            raise StoreError(f"the store cannot write {self.path / CRASH}: {error.strerror}") from error
        faulthandler.enable(self._crash, all_threads=False)

    def close(self) -> None:
        if self._crash is not None:
            faulthandler.disable()
            self._crash.close()
        os.close(self._lock)

    def _read_state(self) -> FolderState | None:
        try:
            return msgspec.json.decode((self.path / STATE).read_bytes(), type=FolderState)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write_state(self, state: FolderState) -> None:
        """Replace the file at once, and wait until that is on the disk."""
        fresh = self.path / f".{STATE}"
        try:
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path / STATE)
            _sync_folder(self.path)
        except OSError as error:
            raise StoreError(f"the store cannot write {self.path / STATE}: {error.strerror}") from error

    def _read_crash(self) -> str:
        with suppress(OSError):
            return (self.path / CRASH).read_text(errors="replace").partition("\n")[0][:200]
        return ""


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
