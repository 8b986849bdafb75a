"""The tables of the store: the records of the kept topics, by place and by key, in one file of LMDB.

Three tables, all sorted by key (`entries` has the bytes):

    logs      topic id, partition            ->  number of the log, next offset
    entries   place: number of log, offset   ->  the record
    index     kind and hash of a key, place  ->  nothing

- One transaction carries the records of a batch, their keys, and the offsets from which to read on. So after a crash
  the tables hold exactly the records below the stored offsets, whatever the moment.
- Places sort as records were appended. So the tables grow at the end of each log and expire from its front, in whole
  pages.
- A log that is forgotten loses its number. Its entries are then unreachable at once, and `expire` deletes them bit by
  bit. A topic that was recreated has another id and so another log.
- Nothing waits for the disk; `folder` says why that is safe. Whatever contradicts the above is damage: `StoreDamaged`,
  and the tables are built again. Only a damaged key in the index is not found at once: what it led to is missing until
  expiry comes to it.

The tables belong to one thread. No method waits for anything but the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from math import inf
from mmap import PAGESIZE
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import lmdb

from fastgw.errors import StoreDamaged, StoreError
from fastgw.store.entries import (
    BEHIND_ALL_PLACES,
    PLACE,
    PREFIX_BYTES,
    Entry,
    Key,
    Log,
    decode,
    decode_log,
    encode,
    encode_log,
    index_prefix,
    reference_to,
)
from fastgw.store.folder import DATA, Folder

VALUE_BYTES_MAX = 4096  # larger values stay in the log
SHORT_VALUE_BYTES_MAX = 256  # the same, when space is short
SHORT_AT, FULL_AT = 0.8, 0.9  # of max_bytes
PLACES_MAX = 1024  # of one key, in one answer
# The file may grow beyond max_bytes by this much, and a 20th of max_bytes. LMDB never writes into a page that is in
# use, so even deleting takes pages first: up to three for each entry.
WORKING_BYTES = 32 << 20

_LOG_KEY = Struct(">16si")
_NUMBER = Struct(">I")

# What LMDB raises when the operating system refuses something: a full disk, a failing one, a file that may not be
# written. `lmdb.Error` itself stands for all errors of the system that have no class. The file stays consistent: LMDB
# writes into unused pages, and what makes them used is written last. Every other error means damage.
_OF_THE_SYSTEM = frozenset({lmdb.Error, lmdb.DiskError, lmdb.MemoryError, lmdb.ReadonlyError, lmdb.LockError})


class Source(NamedTuple):
    """A log: one partition of one topic, by the topic's id."""

    topic: bytes
    partition: int


class Part(NamedTuple):
    """The records of one partition in a batch.

    Attributes:
        entries: offsets and entries, in ascending order. Offsets that the tables have already are skipped.
        next_offset: where to read on: above the last offset read, whether that was an entry or not.
    """

    source: Source
    entries: Sequence[tuple[int, Entry]]
    next_offset: int


class Kept(NamedTuple):
    """An entry, and where its record is."""

    source: Source
    offset: int
    entry: Entry


class Sizes(NamedTuple):
    """How large the tables are.

    Attributes:
        entries: also those of forgotten logs that are not yet deleted.
        index_rows: one for each key of each entry.
        used_bytes: pages in use. `max_bytes` limits them.
        file_bytes: the file; it keeps its size when entries are deleted, and fills the gaps first.
    """

    entries: int
    index_rows: int
    used_bytes: int
    file_bytes: int
    max_bytes: int


class Tables:
    """The tables in one folder, open. `close` them, or the next boot of the machine has to build them again.

    Attributes:
        rebuilt: why the tables were emptied, when they were opened or later; "" if they were not.
    """

    def __init__(
        self, path: Path, max_bytes: int, *, booted_s: float | None = None, note_crashes: bool = False
    ) -> None:
        """Open the tables. Those that cannot be trusted are deleted: the positions are then gone as well.

        Args:
            path: the folder; it is made if it does not exist.
            max_bytes: as much as the tables may use. The file may grow a little beyond, see `WORKING_BYTES`.
            booted_s: when the machine was booted, seconds since 1970; None: ask the operating system.
            note_crashes: see `Folder.watch_for_crashes`.

        Raises:
            StoreError: another store uses the folder, or it cannot be used.
        """
        self.max_bytes = max_bytes
        self.rebuilt = ""
        self._env: lmdb.Environment | None = None
        self._is_damaged = False
        self._folder = Folder(path, max_bytes, booted_s)
        try:
            if why := self._folder.why_not_trusted():
                self._folder.delete_tables()
                self.rebuilt = why
            self._folder.note_opened()
            self._folder.forget_crash()
            if note_crashes:
                self._folder.watch_for_crashes()
            try:
                self._open()
            except StoreDamaged as error:
                self.rebuild(str(error))
        except BaseException:
            self._close_env()
            self._folder.close()
            raise

    def __repr__(self) -> str:
        return f"<Tables {self._folder.path}: {self._counts[0]} entries, {self._used_bytes} of {self.max_bytes} bytes>"

    # --- what fills them ---------------------------------------------------------------------------------------------

    def append(self, parts: Sequence[Part]) -> None:
        """Keep the records of a batch, and the offsets from which to read on, in one transaction.

        Values above 4 KiB become references to the log; when space is short (`is_short`), those above 256 bytes.

        Raises:
            StoreError: the disk or the tables are full, or the disk fails; nothing of the batch is kept. Try again.
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        if self._used_bytes >= self.max_bytes:
            raise self._no_room()
        most_bytes = SHORT_VALUE_BYTES_MAX if self.is_short else VALUE_BYTES_MAX
        changed: dict[Source, Log] = {}
        rows: list[tuple[bytes, bytes]] = []
        index: list[tuple[bytes, bytes]] = []
        for part in parts:
            log = changed.get(part.source) or self._logs.get(part.source)
            if log is None:
                log = Log(self._unused_number + len(changed), 0)
            for offset, entry in _from(log.next_offset, part):
                if entry.value is not None and len(entry.value) > most_bytes:
                    entry = reference_to(entry)
                place = PLACE.pack(log.number, offset)
                rows.append((place, encode(place, entry)))
                for key in entry.keys:
                    index.append((index_prefix(key) + place, b""))
            changed[part.source] = Log(log.number, max(part.next_offset, log.next_offset))
        with self._writing() as txn:
            with txn.cursor(self._entries) as cursor:
                cursor.putmulti(rows)
            with txn.cursor(self._index) as cursor:
                cursor.putmulti(index)
            for source, log in changed.items():
                row_key = _LOG_KEY.pack(*source)
                txn.put(row_key, encode_log(row_key, log), db=self._log_table)
        self._learn(changed)

    def expire(self, now_ms: int, keep_ms: Mapping[bytes, int], at_most: int = 1000) -> int:
        """Delete what nobody may ask for any more: entries of forgotten logs, and the oldest of each log.

        Expiry stops at the first entry of a log that is not over, whatever comes after it.

        Args:
            now_ms: the time, on the clock of the entries' timestamps.
            keep_ms: how long to keep the entries of a topic, by topic id. Those of other topics do not expire.
            at_most: entries to delete in this call.

        Returns:
            How many were deleted.
        """
        fronts = [(number, inf) for number in self._forgotten]
        fronts += [
            (log.number, now_ms - keep_ms[source.topic])
            for source, log in self._logs.items()
            if source.topic in keep_ms
        ]
        # The next call begins with another log, so that one with much to delete does not hold up the others.
        self._turn += 1
        turn = self._turn % len(fronts) if fronts else 0
        deleted = 0
        emptied = set()
        with self._writing() as txn:
            for number, until_ms in chain(fronts[turn:], fronts[:turn]):
                deleted += self._delete_front(txn, number, until_ms, at_most - deleted)
                if number in self._forgotten and deleted < at_most:
                    emptied.add(number)
        self._forgotten -= emptied
        return deleted

    def forget_partition(self, topic: bytes, partition: int) -> None:
        """Forget the entries and the position of this partition; it is then read from its beginning.

        The entries cannot be found any more. `expire` deletes them.
        """
        source = Source(topic, partition)
        if source not in self._logs:
            return
        with self._writing() as txn:
            txn.delete(_LOG_KEY.pack(*source), db=self._log_table)
        log = self._logs.pop(source)
        del self._sources[log.number]
        self._forgotten.add(log.number)

    def rebuild(self, why: str) -> None:
        """Delete everything, and begin with empty tables.

        Raises:
            StoreError: the files cannot be deleted or made.
        """
        self._close_env()
        with suppress(StoreError):  # a full disk; what counts is that the tables are deleted
            self._folder.note_damage(why)
        self._folder.delete_tables()
        self.rebuilt = why
        self._is_damaged = False
        self._open()
        self._folder.note_opened()

    # --- what is asked of them ---------------------------------------------------------------------------------------

    def get(self, kind: int, name: bytes, at_most: int = PLACES_MAX) -> list[Kept]:
        """The entries with this key, oldest first; of more than `at_most` the newest.

        Entries of several partitions are not merged: those of one partition stand together.

        Raises:
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        return self._read(lambda txn: self._with_key(txn, (kind, name), at_most))

    def entries_from(self, source: Source, offset: int, at_most: int = 1000) -> list[Kept]:
        """The entries of one partition from this offset on, in order; fewer than `at_most` if there are no more.

        Raises:
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        log = self._logs.get(source)
        return [] if log is None else self._read(lambda txn: self._in_order(txn, source, log.number, offset, at_most))

    def positions(self) -> dict[Source, int]:
        """Where to read on in each partition that the tables know."""
        return {source: log.next_offset for source, log in self._logs.items()}

    @property
    def is_short(self) -> bool:
        """Whether space is short, so that even smaller values are left in the log."""
        return self._used_bytes >= SHORT_AT * self.max_bytes

    @property
    def is_full(self) -> bool:
        """Whether nothing new should begin. What has begun can still be kept, in the rest of the space."""
        return self._used_bytes >= FULL_AT * self.max_bytes

    def sizes(self) -> Sizes:
        try:
            file_bytes = (self._folder.path / DATA).stat().st_size
        except FileNotFoundError:  # somebody deleted it; the tables stay usable until they are closed
            file_bytes = 0
        return Sizes(*self._counts, self._used_bytes, file_bytes, self.max_bytes)

    def close(self) -> None:
        """Bring everything to the disk, and give the folder to the next store.

        Raises:
            StoreError: not everything came to the disk; the folder is given up all the same.
        """
        try:
            if self._env is not None and not self._is_damaged:
                try:
                    self._env.sync(True)
                except lmdb.Error as error:
                    raise self._failure(error) from error
                self._close_env()
                self._folder.note_closed()
        finally:
            self._close_env()
            self._folder.close()

    # --- LMDB --------------------------------------------------------------------------------------------------------

    def _open(self) -> lmdb.Environment:
        """Open the file, or make it, and read what is held in memory."""
        most_bytes = self.max_bytes + self.max_bytes // 20 + WORKING_BYTES
        try:
            # lock: the folder is locked, and only one thread uses the tables.
            env = lmdb.open(
                str(self._folder.path),
                most_bytes // PAGESIZE * PAGESIZE,
                max_dbs=3,
                sync=False,
                metasync=False,
                lock=False,
                mode=0o700,
            )
        except lmdb.Error as error:
            raise self._failure(error) from error
        self._env = env
        try:
            grown = self._make_whole(env)
            self._log_table = env.open_db(b"logs")
            self._entries = env.open_db(b"entries")
            self._index = env.open_db(b"index")
            with env.begin() as txn:
                self._used_bytes, self._counts = self._measured(txn)
                self._read_logs(txn)
                if grown:
                    self._read_everything(txn)
        except lmdb.Error as error:
            raise self._failure(error) from error
        except StoreDamaged as error:
            raise self._damaged(str(error)) from error
        return env

    def _make_whole(self, env: lmdb.Environment) -> bool:
        """Lengthen a file that ends before its last page; True if that was necessary.

        To read beyond the end of a file in memory ends a process (SIGBUS). Pages that a transaction took and did not
        need may be missing there; if others are missing as well, reading everything finds it.
        """
        self._page_bytes = env.stat()["psize"]
        needed_bytes = (env.info()["last_pgno"] + 1) * self._page_bytes
        path = self._folder.path / DATA
        try:
            if path.stat().st_size >= needed_bytes:
                return False
            os.truncate(path, needed_bytes)
        except OSError as error:
            raise StoreError(f"the store cannot use {path}: {error.strerror}") from error
        return True

    def _read_logs(self, txn: lmdb.Transaction[bytes]) -> None:
        """Read logs and positions, and find the logs that were forgotten and not yet deleted."""
        self._logs: dict[Source, Log] = {}
        self._sources: dict[int, Source] = {}
        self._forgotten: set[int] = set()
        self._unused_number = 1
        self._turn = 0
        with txn.cursor(self._log_table) as cursor:
            self._learn({Source(*_LOG_KEY.unpack(key)): decode_log(key, log) for key, log in cursor})
        with txn.cursor(self._entries) as cursor:
            found = cursor.first()
            while found:
                (number,) = _NUMBER.unpack_from(cursor.key())
                if number not in self._sources:
                    self._forgotten.add(number)
                    self._unused_number = max(self._unused_number, number + 1)
                found = cursor.set_range(_NUMBER.pack(number + 1))

    def _learn(self, logs: Mapping[Source, Log]) -> None:
        for source, log in logs.items():
            self._logs[source] = log
            self._sources[log.number] = source
            self._unused_number = max(self._unused_number, log.number + 1)

    def _read_everything(self, txn: lmdb.Transaction[bytes]) -> None:
        """
        Raises:
            StoreDamaged: some of it cannot be read.
        """
        keys = 0
        with txn.cursor(self._entries) as cursor:
            for place, row in cursor:
                keys += len(set(decode(place, row).keys))
        with txn.cursor(self._index) as cursor:
            rows = sum(1 for _ in cursor.iternext(values=False))
        if keys != rows:
            raise StoreDamaged(f"the index has {rows} rows for {keys} keys")

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A transaction that is committed at the end, or leaves no trace after an error."""
        env = self._env or self._open()
        try:
            with env.begin(write=True) as txn:
                yield txn
                measured = self._measured(txn)
        except lmdb.Error as error:
            raise self._failure(error) from error
        except StoreDamaged as error:
            raise self._damaged(str(error)) from error
        self._used_bytes, self._counts = measured

    def _read(self, find: Callable[[lmdb.Transaction[bytes]], list[Kept]]) -> list[Kept]:
        """What `find` finds, in a transaction of its own."""
        env = self._env or self._open()
        try:
            with env.begin() as txn:
                return find(txn)
        except lmdb.Error as error:
            raise self._failure(error) from error
        except StoreDamaged as error:
            raise self._damaged(str(error)) from error

    def _with_key(self, txn: lmdb.Transaction[bytes], key: Key, at_most: int) -> list[Kept]:
        prefix = index_prefix(key)
        found: list[Kept] = []
        cursor = txn.cursor(self._index)
        if cursor.prev() if cursor.set_range(prefix + BEHIND_ALL_PLACES) else cursor.last():
            for row in cursor.iterprev(values=False):
                if len(found) == at_most or not row.startswith(prefix):
                    break
                number, offset = PLACE.unpack_from(row, PREFIX_BYTES)
                if (source := self._sources.get(number)) is not None:
                    found.append(Kept(source, offset, self._entry_of(txn, row, key)))
        found.reverse()
        return found

    def _in_order(
        self, txn: lmdb.Transaction[bytes], source: Source, number: int, offset: int, at_most: int
    ) -> list[Kept]:
        prefix = _NUMBER.pack(number)
        found: list[Kept] = []
        cursor = txn.cursor(self._entries)
        if cursor.set_range(PLACE.pack(number, offset)):
            for place, row in cursor:
                if len(found) == at_most or not place.startswith(prefix):
                    break
                found.append(Kept(source, PLACE.unpack(place)[1], decode(place, row)))
        return found

    def _measured(self, txn: lmdb.Transaction[bytes]) -> tuple[int, tuple[int, int]]:
        """Bytes of the pages in use, and the numbers of entries and index rows."""
        entries, index, logs = (txn.stat(table) for table in (self._entries, self._index, self._log_table))
        pages = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (entries, index, logs)
        )
        return pages * self._page_bytes, (entries["entries"], index["entries"])

    def _entry_of(self, txn: lmdb.Transaction[bytes], index_row: bytes, key: Key) -> Entry:
        place = index_row[PREFIX_BYTES:]
        row = txn.get(place, db=self._entries)
        if row is None:
            raise StoreDamaged("the index names an entry that does not exist")
        entry = decode(place, row)
        if key not in entry.keys:
            raise StoreDamaged("the index names an entry that does not have the key")
        return entry

    def _delete_front(self, txn: lmdb.Transaction[bytes], number: int, until_ms: float, at_most: int) -> int:
        """Delete the first entries of a log up to one with a later timestamp; give their number."""
        deleted = 0
        prefix = _NUMBER.pack(number)
        with txn.cursor(self._entries) as cursor:
            found = at_most > 0 and cursor.set_range(prefix)
            while found and deleted < at_most and (place := cursor.key()).startswith(prefix):
                entry = decode(place, cursor.value())
                if entry.timestamp_ms > until_ms:
                    break
                for key in set(entry.keys):
                    if not txn.delete(index_prefix(key) + place, db=self._index):
                        raise StoreDamaged("the index does not name an entry that exists")
                cursor.delete()  # and stand on the next one
                deleted += 1
                found = bool(cursor.key())
        return deleted

    def _failure(self, error: lmdb.Error) -> StoreError:
        """What an error of LMDB means. After one of the system the next call opens the file again."""
        path = self._folder.path
        if isinstance(error, lmdb.MapFullError):
            return self._no_room()
        if type(error) in _OF_THE_SYSTEM:
            self._close_env()
            return StoreError(f"the store cannot use {path / DATA}: {error}")
        return self._damaged(str(error))

    def _no_room(self) -> StoreError:
        return StoreError(f"the store's tables in {self._folder.path} are full: they have max_bytes = {self.max_bytes}")

    def _damaged(self, how: str) -> StoreDamaged:
        how = f"the store's tables are damaged: {how}"
        self._is_damaged = True
        with suppress(StoreError):  # a full disk; this process knows it anyway
            self._folder.note_damage(how)
        return StoreDamaged(how)

    def _close_env(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def _from(offset: int, part: Part) -> Iterator[tuple[int, Entry]]:
    """The entries of a part at this offset and above."""
    last = -1
    for one in part.entries:
        if not last < one[0] < part.next_offset:
            raise ValueError(f"offset {one[0]} stands between {last} and the next offset {part.next_offset}")
        last = one[0]
        if last >= offset:
            yield one
