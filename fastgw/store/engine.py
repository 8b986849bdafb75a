"""The file of the tables: LMDB, its transactions, and what its errors mean.

The file has one database for each log, named "log-1" and so on, and two more: "logs" and "index". A log has a database
of its own because LMDB fills its pages only when it appends at the end of a database; otherwise a page that is full
gives up its last row, and of two rows of 1.5 kB that is half of it.

LMDB never writes into a page that is in use, and what makes pages used is written last. So a transaction is complete or
absent after any kill. `Folder` says what else is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from mmap import PAGESIZE
from struct import error as StructError
from typing import TYPE_CHECKING, TypeVar

import lmdb

from fastgw.errors import StoreDamaged, StoreError
from fastgw.store.folder import DATA, Folder

if TYPE_CHECKING:
    from lmdb import _Database as Database

    Transaction = lmdb.Transaction[bytes]

LOGS_MAX = 1024
# The file may grow beyond max_bytes by this much, and a 20th of max_bytes: even deleting takes pages first, up to three
# for each entry.
WORKING_BYTES = 32 << 20

_LOG_PREFIX = b"log-"
# What LMDB raises when the operating system refuses something: a full disk, a failing one, a file that may not be
# written. `lmdb.Error` itself stands for all errors of the system that have no class. Other errors mean damage.
_OF_THE_SYSTEM = frozenset({lmdb.Error, lmdb.DiskError, lmdb.MemoryError, lmdb.ReadonlyError, lmdb.LockError})

_FAILURES = (lmdb.Error, StoreDamaged, StructError)  # the last: a row is shorter or longer than it was written
Found = TypeVar("Found")


class Engine:
    """The file in a folder, open; after trouble with the disk it is closed, and the next transaction opens it again.

    Attributes:
        logs, index: the databases with these names.
        entries: those of the logs, by the number of the log.
        used_bytes: pages in use, without those that can be used again.
        is_damaged: whether damage was found.
    """

    logs: Database
    index: Database

    def __init__(self, folder: Folder, max_bytes: int, on_open: Callable[[Transaction, bool], None]) -> None:
        """
        Args:
            on_open: called with a transaction whenever the file was opened, and with whether the file was whole. If it
                was not, everything has to be read once: some of it may be missing.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._on_open = on_open
        self._env: lmdb.Environment | None = None
        self._pages: dict[int, int] = {}  # of each database, by number; 0 stands for logs and index
        self._rows: dict[int, int] = {}  # the same for entries, and those of the index
        self.entries: dict[int, Database] = {}
        self.is_damaged = False

    @property
    def used_bytes(self) -> int:
        return sum(self._pages.values()) * PAGESIZE

    @property
    def entry_count(self) -> int:
        return sum(self._rows.values()) - self.index_count

    @property
    def index_count(self) -> int:
        return self._rows.get(0, 0)

    @property
    def file_bytes(self) -> int:
        with suppress(FileNotFoundError):  # somebody deleted it; it can be used until it is closed
            return (self._folder.path / DATA).stat().st_size
        return 0

    def open(self) -> lmdb.Environment:
        """Open the file, or make it.

        Raises:
            StoreError: the operating system refused it.
            StoreDamaged: it is not what was written.
        """
        with self._translated():
            env = self._env = lmdb.open(
                str(self._folder.path),
                (self._max_bytes + self._max_bytes // 20 + WORKING_BYTES) // PAGESIZE * PAGESIZE,
                max_dbs=LOGS_MAX + 2,
                max_spare_txns=1,
                sync=False,
                metasync=False,
                lock=False,  # the folder is locked, and only one thread uses the file
                mode=0o700,
            )
            was_whole = self._make_whole(env)
            self.logs, self.index = env.open_db(b"logs"), env.open_db(b"index")
            self.entries = {_number_in(name): env.open_db(name) for name in env.dbs() if name.startswith(_LOG_PREFIX)}
            with env.begin() as txn:
                self._pages, self._rows = {}, {}
                self._measure(txn, self.entries)
                self._on_open(txn, was_whole)
        return env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def sync(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            StoreError: it is not.
        """
        with self._translated():
            if self._env is None:
                raise StoreError(f"the store could not write {self._folder.path / DATA} to the end")
            self._env.sync(True)

    def add_log(self, number: int) -> None:
        """Make the database of this log, unless it is there. Not within a transaction.

        Raises:
            StoreError: there are too many.
        """
        env = self._env or self.open()
        if number in self.entries:
            return
        if len(self.entries) == LOGS_MAX:
            raise StoreError(f"the store follows at most {LOGS_MAX} partitions of all its topics")
        with self._translated():
            self.entries[number] = env.open_db(_LOG_PREFIX + b"%d" % number)

    def drop_log(self, number: int) -> None:
        """Delete the database of this log. Not within a transaction."""
        with self.writing(()) as txn:
            txn.drop(self.entries[number])
        del self.entries[number]
        del self._pages[number], self._rows[number]

    @contextmanager
    def writing(self, numbers: Iterable[int]) -> Iterator[Transaction]:
        """A transaction that is committed at the end, or leaves no trace after an error.

        Args:
            numbers: the logs whose entries it may change.
        """
        env = self._env or self.open()
        with self._translated(), env.begin(write=True) as txn:
            yield txn
            self._measure(txn, numbers)

    def read(self, find: Callable[[Transaction], Found]) -> Found:
        """What `find` finds in a transaction of its own. Faster than a `with` block."""
        env = self._env or self.open()
        try:
            with env.begin() as txn:
                return find(txn)
        except _FAILURES as error:
            raise self._meaning(error) from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> StoreError:
        """What the error means for the store. The file is closed, unless it is damaged."""
        path = self._folder.path / DATA
        if isinstance(error, lmdb.MapFullError):
            self.close()
            return self.full()
        if type(error) in _OF_THE_SYSTEM:
            self.close()
            return StoreError(f"the store cannot use {path}: {error} ({self._free_bytes()} bytes are free on its disk)")
        how = f"the store's tables are damaged: {error}"
        self.is_damaged = True
        with suppress(StoreError):  # a full disk; this process knows it anyway
            self._folder.note_damage(how)
        return StoreDamaged(how)

    def _free_bytes(self) -> int:
        """LMDB calls it an I/O error when a disk is full in the middle of a write; this tells them apart."""
        with suppress(OSError):
            disk = os.statvfs(self._folder.path)
            return disk.f_bavail * disk.f_frsize
        return 0

    def full(self) -> StoreError:
        return StoreError(
            f"the store's tables in {self._folder.path} are full: they have max_bytes = {self._max_bytes}"
        )

    def _measure(self, txn: Transaction, numbers: Iterable[int]) -> None:
        """Take note of the pages and rows of these logs, and of the other databases."""
        index, logs = txn.stat(self.index), txn.stat(self.logs)
        self._pages[0] = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (index, logs)
        )
        self._rows[0] = index["entries"]
        for number in numbers:
            stat = txn.stat(self.entries[number])
            self._pages[number] = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            self._rows[number] = stat["entries"]

    def _make_whole(self, env: lmdb.Environment) -> bool:
        """Lengthen a file that ends before its last page; give whether it was whole.

        To read beyond the end of a file in memory ends a process (SIGBUS). Pages that a transaction took and did not
        need may be missing there. If others are missing as well, there are now zeros in their place.
        """
        needed_bytes = (env.info()["last_pgno"] + 1) * PAGESIZE
        path = self._folder.path / DATA
        try:
            if path.stat().st_size >= needed_bytes:
                return True
            os.truncate(path, needed_bytes)
        except OSError as error:
            raise StoreError(f"the store cannot use {path}: {error.strerror}") from error
        return False


def _number_in(name: bytes) -> int:
    """The number of the log whose database has this name."""
    number = name.removeprefix(_LOG_PREFIX)
    if not number.isdigit():
        raise StoreDamaged(f"there is a database {name!r}")
    return int(number)
