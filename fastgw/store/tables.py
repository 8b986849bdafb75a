"""The tables of the store: the records of the kept topics, by their place in the log and by their keys.

Three kinds of tables, all sorted by key (`entries` has the bytes):

    logs      topic id, partition            ->  number of the log, next offset
    entries   offset                         ->  the record                        one table for each log
    index     kind and hash of a key, place  ->  nothing                           a place is number of the log, offset

- One transaction carries the records of a batch, their keys, and the offsets from which to read on. So after a crash
  the tables hold exactly the records below the stored offsets, whatever the moment.
- Offsets sort as records were appended. So a table of entries grows at its end and expires from its front, in whole
  pages.
- A log that is forgotten loses its number. Its entries are then unreachable at once, and `expire` deletes them bit by
  bit. A topic that was recreated has another id and so another log.
- Nothing waits for the disk; `folder` says why that is safe. Whatever contradicts the above is damage: `StoreDamaged`,
  and the tables are built again. Only a damaged key in the index is not found at once: what it led to is missing until
  expiry comes to it.

The tables belong to one thread. No method waits for anything but the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from math import inf
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from fastgw.errors import StoreDamaged, StoreError
from fastgw.store.engine import Engine
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
from fastgw.store.folder import Folder
from fastgw.store_folder import FULL_AT, SHORT_AT

if TYPE_CHECKING:
    from fastgw.store.engine import Transaction

VALUE_BYTES_MAX = 4096  # larger values stay in the log
SHORT_VALUE_BYTES_MAX = 256  # the same, when space is short
PLACES_MAX = 1024  # of one key, in one answer

_LOG_KEY = Struct(">16si")
_NUMBER = Struct(">I")
_OFFSET = Struct(">Q")
_OFFSET_AT = PLACE.size - _OFFSET.size  # in a place


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
            max_bytes: as much as the tables may use. The file may grow a little beyond, see `engine`.
            booted_s: when the machine was booted, seconds since 1970; None: ask the operating system.
            note_crashes: see `Folder.watch_for_crashes`.

        Raises:
            StoreError: another store uses the folder, or it cannot be used.
        """
        self.max_bytes = max_bytes
        self.rebuilt = ""
        self._forget_all()
        self._folder = Folder(path, max_bytes, booted_s)
        self._engine = Engine(self._folder, max_bytes, self._learn_all)
        try:
            if why := self._folder.why_not_trusted():
                self._folder.delete_tables()
                self.rebuilt = why
            self._folder.note_opened()
            self._folder.forget_crash()
            if note_crashes:
                self._folder.watch_for_crashes()
            try:
                self._engine.open()
            except StoreDamaged as error:
                self.rebuild(str(error))
        except BaseException:
            self._engine.close()
            self._folder.close()
            raise

    def __repr__(self) -> str:
        return (
            f"<Tables {self._folder.path}: {self._engine.entry_count} entries, {self._engine.used_bytes} of"
            f" {self.max_bytes} bytes>"
        )

    # --- what fills them ---------------------------------------------------------------------------------------------

    def append(self, parts: Sequence[Part]) -> None:
        """Keep the records of a batch, and the offsets from which to read on, in one transaction.

        Values above 4 KiB become references to the log; when space is short (`is_short`), those above 256 bytes.
        What is in the tables already stays as it is, and headers are always kept.

        Raises:
            StoreError: the disk or the tables are full, or the disk fails; nothing of the batch is kept. Try again.
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        if self._engine.used_bytes >= self.max_bytes:
            raise self._engine.full()
        value_bytes_max = SHORT_VALUE_BYTES_MAX if self.is_short else VALUE_BYTES_MAX
        changed: dict[Source, Log] = {}
        rows: dict[int, list[tuple[bytes, bytes]]] = {}
        index: list[tuple[bytes, bytes]] = []
        for part in parts:
            log = changed.get(part.source) or self._logs.get(part.source)
            if log is None:
                log = Log(self._unused_number + len(changed), 0)
            added = rows.setdefault(log.number, [])
            for offset, entry in _from(log.next_offset, part):
                if entry.value is not None and len(entry.value) > value_bytes_max:
                    entry = reference_to(entry)
                place = PLACE.pack(log.number, offset)
                added.append((place[_OFFSET_AT:], encode(place, entry)))
                index += [(index_prefix(key) + place, b"") for key in entry.keys]
            changed[part.source] = Log(log.number, max(part.next_offset, log.next_offset))
        for number in rows:
            self._engine.add_log(number)
        with self._engine.writing(rows) as txn:
            for number, added in rows.items():
                with txn.cursor(self._engine.entries[number]) as cursor:
                    if cursor.putmulti(added, append=True) != (len(added), len(added)):
                        raise StoreDamaged("there are entries above the offset from which to read on")
            with txn.cursor(self._engine.index) as cursor:
                cursor.putmulti(index)
            for source, log in changed.items():
                row_key = _LOG_KEY.pack(*source)
                txn.put(row_key, encode_log(row_key, log), db=self._engine.logs)
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
        emptied = []
        with self._engine.writing([number for number, _ in fronts]) as txn:
            for number, until_ms in chain(fronts[turn:], fronts[:turn]):
                deleted += self._delete_front(txn, number, until_ms, at_most - deleted)
                if number in self._forgotten and deleted < at_most:
                    emptied.append(number)
        for number in emptied:
            self._engine.drop_log(number)
            self._forgotten.remove(number)
        return deleted

    def shrink(self, at_most: int = 1000) -> int:
        """While space is short, have values above 256 bytes that are in the tables only in the log, the oldest first.

        Args:
            at_most: entries to look at in this call.

        Returns:
            How many it looked at; 0 if there is nothing to do.
        """
        looked_at = 0
        if self.is_short:
            with self._engine.writing([log.number for log in self._logs.values()]) as txn:
                for log in self._logs.values():
                    looked_at += self._shrink_log(txn, log, at_most - looked_at)
        return looked_at

    def forget_partition(self, topic: bytes, partition: int) -> None:
        """Forget the entries and the position of this partition; it is then read from its beginning.

        The entries cannot be found any more. `expire` deletes them.
        """
        source = Source(topic, partition)
        if source not in self._logs:
            return
        with self._engine.writing(()) as txn:
            txn.delete(_LOG_KEY.pack(*source), db=self._engine.logs)
        log = self._logs.pop(source)
        del self._sources[log.number]
        self._shrunk_to.pop(log.number, None)
        self._forgotten.add(log.number)

    def rebuild(self, why: str) -> None:
        """Delete everything, and begin with empty tables.

        Raises:
            StoreError: the files cannot be deleted or made.
        """
        self._engine.close()
        with suppress(StoreError):  # a full disk; what counts is that the tables are deleted
            self._folder.note_damage(why)
        self._folder.delete_tables()
        self.rebuilt = why
        self._forget_all()
        self._engine.is_damaged = False
        self._engine.open()
        self._folder.note_opened()

    # --- what is asked of them ---------------------------------------------------------------------------------------

    def get(self, kind: int, name: bytes, at_most: int = PLACES_MAX) -> list[Kept]:
        """The entries with this key, oldest first; of more than `at_most` the newest.

        Entries of several partitions are not merged: those of one partition stand together.

        Raises:
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        return self._engine.read(lambda txn: self._with_key(txn, (kind, name), at_most))

    def entries_from(self, source: Source, offset: int, at_most: int = 1000) -> list[Kept]:
        """The entries of one partition from this offset on, in order; fewer than `at_most` if there are no more.

        Raises:
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        log = self._logs.get(source)
        if log is None:
            return []
        return self._engine.read(lambda txn: self._in_order(txn, source, log.number, offset, at_most))

    def entries_with_key(self, key: Key, source: Source, offset: int, at_most: int = 1000) -> list[Kept]:
        """The entries of one partition with this key from this offset on, in order; fewer than `at_most` if there are
        no more.

        Raises:
            StoreDamaged: call `rebuild`, and read from the logs' beginnings.
        """
        log = self._logs.get(source)
        if log is None:
            return []
        return self._engine.read(lambda txn: self._of_log_with_key(txn, key, source, log.number, offset, at_most))

    def positions(self) -> dict[Source, int]:
        """Where to read on in each partition that the tables know."""
        return {source: log.next_offset for source, log in self._logs.items()}

    @property
    def is_short(self) -> bool:
        """Whether space is short, so that even smaller values are left in the log."""
        return self._engine.used_bytes >= SHORT_AT * self.max_bytes

    @property
    def is_full(self) -> bool:
        """Whether nothing new should begin. What has begun can still be kept, in the rest of the space."""
        return self._engine.used_bytes >= FULL_AT * self.max_bytes

    def sizes(self) -> Sizes:
        engine = self._engine
        return Sizes(engine.entry_count, engine.index_count, engine.used_bytes, engine.file_bytes, self.max_bytes)

    def close(self) -> None:
        """Bring everything to the disk, and give the folder to the next store.

        Raises:
            StoreError: not everything came to the disk; the folder is given up all the same.
        """
        try:
            if not self._engine.is_damaged:
                self._engine.sync()
                self._engine.close()
                self._folder.note_closed()
        finally:
            self._engine.close()
            self._folder.close()

    # --- what the tables remember of their file ----------------------------------------------------------------------

    def _forget_all(self) -> None:
        self._logs: dict[Source, Log] = {}
        self._sources: dict[int, Source] = {}  # by the number of the log
        self._forgotten: set[int] = set()  # numbers of logs whose entries are not yet deleted
        self._shrunk_to: dict[int, int] = {}  # where `shrink` goes on, by the number of the log
        self._unused_number = 1
        self._turn = 0

    def _learn_all(self, txn: Transaction, was_whole: bool) -> None:
        """Read the logs of a file that was opened. After trouble with the disk it must be as it was left."""
        known = self._logs
        self._forget_all()
        with txn.cursor(self._engine.logs) as cursor:
            self._learn({Source(*_LOG_KEY.unpack(key)): decode_log(key, row) for key, row in cursor})
        if known and known != self._logs:
            raise StoreDamaged("the file is not as it was left before the disk had trouble")
        if missing := self._sources.keys() - self._engine.entries.keys():
            raise StoreDamaged(f"{len(missing)} logs have no table of entries")
        self._forgotten = self._engine.entries.keys() - self._sources.keys()
        self._unused_number = max(self._engine.entries, default=0) + 1
        if not was_whole:
            self._read_everything(txn)

    def _learn(self, logs: Mapping[Source, Log]) -> None:
        for source, log in logs.items():
            self._logs[source] = log
            self._sources[log.number] = source
            self._unused_number = max(self._unused_number, log.number + 1)

    def _read_everything(self, txn: Transaction) -> None:
        """
        Raises:
            StoreDamaged: some of it cannot be read.
        """
        keys = 0
        for number, table in self._engine.entries.items():
            with txn.cursor(table) as cursor:
                for offset, row in cursor:
                    keys += len(set(decode(_NUMBER.pack(number) + offset, row).keys))
        with txn.cursor(self._engine.index) as cursor:
            rows = sum(1 for _ in cursor.iternext(values=False))
        if keys != rows:
            raise StoreDamaged(f"the index has {rows} rows for {keys} keys")

    # --- within a transaction ----------------------------------------------------------------------------------------

    def _with_key(self, txn: Transaction, key: Key, at_most: int) -> list[Kept]:
        prefix = index_prefix(key)
        found: list[Kept] = []
        cursor = txn.cursor(self._engine.index)
        if cursor.prev() if cursor.set_range(prefix + BEHIND_ALL_PLACES) else cursor.last():
            for row in cursor.iterprev(values=False):
                if len(found) == at_most or not row.startswith(prefix):
                    break
                place = row[PREFIX_BYTES:]
                number, offset = PLACE.unpack(place)
                if (source := self._sources.get(number)) is not None:
                    found.append(Kept(source, offset, self._entry_of(txn, number, place, key)))
        found.reverse()
        return found

    def _of_log_with_key(
        self, txn: Transaction, key: Key, source: Source, number: int, offset: int, at_most: int
    ) -> list[Kept]:
        prefix = index_prefix(key) + _NUMBER.pack(number)
        found: list[Kept] = []
        cursor = txn.cursor(self._engine.index)
        if cursor.set_range(prefix + _OFFSET.pack(offset)):
            for row in cursor.iternext(values=False):
                if len(found) == at_most or not row.startswith(prefix):
                    break
                place = row[PREFIX_BYTES:]
                found.append(Kept(source, PLACE.unpack(place)[1], self._entry_of(txn, number, place, key)))
        return found

    def _entry_of(self, txn: Transaction, number: int, place: bytes, key: Key) -> Entry:
        row = txn.get(place[_OFFSET_AT:], db=self._engine.entries[number])
        if row is None:
            raise StoreDamaged("the index names an entry that does not exist")
        entry = decode(place, row)
        if key not in entry.keys:
            raise StoreDamaged("the index names an entry that does not have the key")
        return entry

    def _in_order(self, txn: Transaction, source: Source, number: int, offset: int, at_most: int) -> list[Kept]:
        found: list[Kept] = []
        cursor = txn.cursor(self._engine.entries[number])
        if cursor.set_range(_OFFSET.pack(offset)):
            for name, row in cursor:
                if len(found) == at_most:
                    break
                found.append(Kept(source, _OFFSET.unpack(name)[0], decode(_NUMBER.pack(number) + name, row)))
        return found

    def _delete_front(self, txn: Transaction, number: int, until_ms: float, at_most: int) -> int:
        """Delete the first entries of a log up to one with a later timestamp; give their number."""
        deleted = 0
        with txn.cursor(self._engine.entries[number]) as cursor:
            found = at_most > 0 and cursor.first()
            while found and deleted < at_most:
                place = _NUMBER.pack(number) + cursor.key()
                entry = decode(place, cursor.value())
                if entry.timestamp_ms > until_ms:
                    break
                for key in set(entry.keys):
                    if not txn.delete(index_prefix(key) + place, db=self._engine.index):
                        raise StoreDamaged("the index does not name an entry that exists")
                cursor.delete()  # and stand on the next one
                deleted += 1
                found = bool(cursor.key())
        return deleted

    def _shrink_log(self, txn: Transaction, log: Log, at_most: int) -> int:
        """Look at entries from where the last call ended; give their number."""
        table = self._engine.entries[log.number]
        cursor = txn.cursor(table)
        if at_most == 0 or not cursor.set_range(_OFFSET.pack(self._shrunk_to.get(log.number, 0))):
            return 0
        rows = list(islice(cursor, at_most))
        for offset, row in rows:
            place = _NUMBER.pack(log.number) + offset
            entry = decode(place, row)
            if entry.value is not None and len(entry.value) > SHORT_VALUE_BYTES_MAX:
                # Only deleting makes LMDB merge pages that are not full any more.
                txn.delete(offset, db=table)
                txn.put(offset, encode(place, reference_to(entry)), db=table)
        self._shrunk_to[log.number] = _OFFSET.unpack(rows[-1][0])[0] + 1
        return len(rows)


def _from(offset: int, part: Part) -> Iterator[tuple[int, Entry]]:
    """The entries of a part at this offset and above."""
    last = -1
    for one in part.entries:
        if not last < one[0] < part.next_offset:
            raise ValueError(f"offset {one[0]} stands between {last} and the next offset {part.next_offset}")
        last = one[0]
        if last >= offset:
            yield one
