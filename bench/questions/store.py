"""What keeps the store's tables best: LMDB or SQLite? And what do the tables of fastgw cost on top?

    python -m bench.questions.store                                          # all of it, half an hour
    python -m bench.questions.store --parts kills --kills 100 --engines tables

Each record has a value of 500 bytes and a random id of 36 bytes, by which it can be found. `lmdb` and `sqlite` are the
engines as they are, with the same rows; `tables` is `fastgw.store.tables`, with headers, checksums and expiry by time.
Prints JSON lines. `cpu_us` is the time on the processor for one record, the kernel's share included; it is the figure
when others use the machine as well.

speed: a million records in batches of 1,000 into empty tables (`restore`), then some thousands more in batches of 1,
10, 100 and 1,000; reads of random ids, each in a transaction of its own; as many records expired at the front as are
written; the bytes on the disk for each byte of values and ids; how long the tables take to open.

kills: a process writes a log whose records follow from their offsets, expires its front, and is killed at a random
moment (SIGKILL), also while it opens the tables. Another one opens them and compares every entry and every id with that
log, and the stored offset with what the killed one had finished. Then the next process goes on from there.

damage: one bit in the file of small tables is changed, and all of their records are read by id and in order.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import lmdb
import typer

import fastgw
from bench.rig.commands import run
from bench.rig.facts import cpu_name
from bench.rig.processes import BenchError
from bench.rig.progress import say
from fastgw.errors import StoreError
from fastgw.store.entries import Entry, KeyKind
from fastgw.store.tables import Part, Source, Tables

VALUE_BYTES, ID_BYTES = 500, 36
MAX_BYTES = 8 << 30
BATCHES = (1, 10, 100, 1000)
READS = 20_000
KILLED_AFTER_MAX_S = 0.05
WHILE_WRITING = 0.8  # this share of the kills waits until the tables are open
KEPT_WHILE_KILLED = 1_000  # entries: enough for many pages, few enough to compare all of them each time
DAMAGED_ENTRIES = 2_000
PLACE_BYTES = 12


class Record(NamedTuple):
    offset: int
    id: bytes
    value: bytes


def record(offset: int) -> Record:
    """The record of the log at this offset; always the same."""
    digest = blake2b(offset.to_bytes(8, "big"), digest_size=50).digest()
    return Record(offset, urlsafe_b64encode(digest[:27]), digest * (VALUE_BYTES // 50))


def records(first: int, count: int) -> list[Record]:
    return [record(offset) for offset in range(first, first + count)]


class Engine(Protocol):
    """One log and its ids in a folder. What is written is complete or absent, also after a kill."""

    def write(self, batch: Sequence[Record]) -> None:
        """Keep the records and the offset from which to read on, in one transaction."""

    def read(self, name: bytes) -> bytes | None:
        """The value of the record with this id, in a transaction of its own."""

    def expire(self, before: int, at_most: int) -> None:
        """Delete records below this offset, and their ids."""

    def position(self) -> int: ...
    def entries(self) -> Iterator[tuple[int, bytes]]: ...
    def id_count(self) -> int: ...
    def close(self) -> None: ...


class Lmdb:
    """Entries by place, and places by the hash of the id, as the tables have them."""

    def __init__(self, folder: Path) -> None:
        self._env = lmdb.open(str(folder), MAX_BYTES, max_dbs=3, sync=False, metasync=False, lock=False)
        self._entries, self._ids, self._logs = (self._env.open_db(name) for name in (b"entries", b"ids", b"logs"))

    def write(self, batch: Sequence[Record]) -> None:
        with self._env.begin(write=True) as txn:
            rows = [(_place(one.offset), one.id + one.value) for one in batch]
            txn.cursor(self._entries).putmulti(rows, append=True)
            txn.cursor(self._ids).putmulti([(_hash(one.id) + _place(one.offset), b"") for one in batch])
            txn.put(b"log", (batch[-1].offset + 1).to_bytes(8, "big"), db=self._logs)

    def read(self, name: bytes) -> bytes | None:
        with self._env.begin() as txn, txn.cursor(self._ids) as cursor:
            wanted = _hash(name)
            if not cursor.set_range(wanted) or not (row := cursor.key()).startswith(wanted):
                return None
            found = txn.get(row[len(wanted) :], db=self._entries)
            return found and found[ID_BYTES:]

    def expire(self, before: int, at_most: int) -> None:
        with self._env.begin(write=True) as txn, txn.cursor(self._entries) as cursor:
            found = cursor.first()
            while found and at_most and (place := cursor.key()) < _place(before):
                txn.delete(_hash(cursor.value()[:ID_BYTES]) + place, db=self._ids)
                found = cursor.delete() and bool(cursor.key())
                at_most -= 1

    def position(self) -> int:
        with self._env.begin() as txn:
            return int.from_bytes(txn.get(b"log", b"", db=self._logs), "big")

    def entries(self) -> Iterator[tuple[int, bytes]]:
        with self._env.begin() as txn, txn.cursor(self._entries) as cursor:
            for place, row in cursor:
                yield int.from_bytes(place, "big"), row[ID_BYTES:]

    def id_count(self) -> int:
        with self._env.begin() as txn:
            return txn.stat(self._ids)["entries"]

    def close(self) -> None:
        self._env.close()


class Sqlite:
    """The same in two tables: rows by offset, which appends; and an index without rows. No wait for the disk."""

    SETTINGS = (
        "page_size = 4096", "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF",
        "cache_size = -262144", "mmap_size = 8589934592", "wal_autocheckpoint = 4000",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "data.sqlite", isolation_level=None)
        for setting in self.SETTINGS:
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE IF NOT EXISTS entries (place INTEGER PRIMARY KEY, id BLOB, value BLOB)")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS ids (hash BLOB, place INTEGER, PRIMARY KEY (hash, place)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS logs (log INTEGER PRIMARY KEY, next INTEGER)")

    def write(self, batch: Sequence[Record]) -> None:
        execute = self._db.execute
        execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", batch)
        self._db.executemany("INSERT INTO ids VALUES (?, ?)", [(_hash(one.id), one.offset) for one in batch])
        execute("INSERT OR REPLACE INTO logs VALUES (1, ?)", (batch[-1].offset + 1,))
        execute("COMMIT")

    def read(self, name: bytes) -> bytes | None:
        found = self._db.execute(
            "SELECT value FROM ids JOIN entries USING (place) WHERE hash = ?", (_hash(name),)
        ).fetchone()
        return bytes(found[0]) if found else None

    def expire(self, before: int, at_most: int) -> None:
        execute = self._db.execute
        execute("BEGIN IMMEDIATE")
        query = "SELECT id, place FROM entries WHERE place < ? ORDER BY place LIMIT ?"
        over = execute(query, (before, at_most)).fetchall()
        self._db.executemany(
            "DELETE FROM ids WHERE hash = ? AND place = ?", [(_hash(name), place) for name, place in over]
        )
        if over:
            execute("DELETE FROM entries WHERE place <= ?", (over[-1][1],))
        execute("COMMIT")

    def position(self) -> int:
        found = self._db.execute("SELECT next FROM logs").fetchone()
        return int(found[0]) if found else 0

    def entries(self) -> Iterator[tuple[int, bytes]]:
        yield from self._db.execute("SELECT place, value FROM entries ORDER BY place")

    def id_count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM ids").fetchone()[0])

    def close(self) -> None:
        self._db.close()


class FastgwTables:
    """The tables of fastgw. A record's time is its offset."""

    SOURCE = Source(b"t" * 16, 0)
    HEADERS: list[tuple[str, bytes | None]] = [("status", b"200"), ("content-type", b"application/json")]  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self._tables = Tables(folder, MAX_BYTES)
        if self._tables.rebuilt:
            raise BenchError(f"the tables were rebuilt: {self._tables.rebuilt}")

    def write(self, batch: Sequence[Record]) -> None:
        entries = [
            (one.offset, Entry(0, one.offset, ((KeyKind.ID, one.id),), self.HEADERS, one.value)) for one in batch
        ]
        self._tables.append([Part(self.SOURCE, entries, batch[-1].offset + 1)])

    def read(self, name: bytes) -> bytes | None:
        found = self._tables.get(KeyKind.ID, name)
        return found[-1].entry.value if found else None

    def expire(self, before: int, at_most: int) -> None:
        self._tables.expire(before - 1, {self.SOURCE.topic: 0}, at_most)

    def position(self) -> int:
        return self._tables.positions().get(self.SOURCE, 0)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        offset = 0
        while found := self._tables.entries_from(self.SOURCE, offset):
            for kept in found:
                assert kept.entry.value is not None
                yield kept.offset, kept.entry.value
            offset = found[-1].offset + 1

    def id_count(self) -> int:
        return self._tables.sizes().index_rows

    def close(self) -> None:
        self._tables.close()


Make = Callable[[Path], Engine]
ENGINES: dict[str, Make] = {"lmdb": Lmdb, "sqlite": Sqlite, "tables": FastgwTables}


def _place(offset: int) -> bytes:
    return offset.to_bytes(PLACE_BYTES, "big")


def _hash(name: bytes) -> bytes:
    return blake2b(name, digest_size=15).digest()


# --- speed -----------------------------------------------------------------------------------------------------------


class Spent:
    """Adds up the time within its `with` blocks."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter() - self._began[0]
        self.cpu_s += time.process_time() - self._began[1]

    def figures(self, count: int) -> dict[str, object]:
        return {
            "entries": count,
            "per_s": round(count / self.wall_s),
            "cpu_us": round(self.cpu_s / count * 1e6, 1),
            "seconds": round(self.wall_s, 1),
        }


def speed(name: str, folder: Path, entries: int) -> None:
    """Fill, add, read, expire; a line for each."""
    engine = ENGINES[name](folder)
    report("restore", name, **_write(engine, 0, entries, 1000).figures(entries))
    written = entries
    for size in BATCHES:
        count = min(entries // 10, 20_000 * min(size, 5))
        report("write", name, batch=size, **_write(engine, written, count, size).figures(count))
        written += count
    report("read", name, **_reads(engine, written))
    report("disk", name, entries=written, **_on_disk(folder, written))
    count = min(entries // 10, 100_000)
    report("expire while writing", name, batch=100, **_write(engine, written, count, 100, written).figures(count))
    engine.close()
    opening = Spent()
    with opening:
        engine = ENGINES[name](folder)
        engine.read(record(written).id)
    report("open and read once", name, entries=written, ms=round(opening.wall_s * 1e3, 1))
    engine.close()


def _write(engine: Engine, first: int, count: int, batch: int, expire_before: int = 0) -> Spent:
    """Write records in batches, and let as many expire after each if `expire_before` names older ones."""
    spent = Spent()
    for at in range(first, first + count, batch):
        written = records(at, batch)
        with spent:
            engine.write(written)
            if expire_before:
                engine.expire(expire_before, batch)
    return spent


def _reads(engine: Engine, written: int) -> dict[str, object]:
    draw, spent = random.Random(1), Spent()
    for _ in range(READS // 100):
        wanted = [record(draw.randrange(written)) for _ in range(100)]
        with spent:
            found = [engine.read(one.id) for one in wanted]
        if found != [one.value for one in wanted]:
            raise BenchError("a value that was read is not the one that was written")
    return spent.figures(READS)


def _on_disk(folder: Path, written: int) -> dict[str, float]:
    taken = sum(path.stat().st_size for path in folder.iterdir())
    data = written * (VALUE_BYTES + ID_BYTES)
    return {"mb": round(taken / 1e6, 1), "bytes_per_byte": round(taken / data, 2)}


# --- kills -----------------------------------------------------------------------------------------------------------


def kills(name: str, folder: Path, count: int, seed: int) -> None:
    """
    Raises:
        BenchError: what was found after a kill is not the log; the text names the seed that repeats it.
    """
    draw, progress, while_opening = random.Random(seed), Progress(), 0
    for number in range(count):
        progress.is_open = 0
        writer = _fork(partial(_write_until_killed, name, folder, progress, draw.random()))
        if draw.random() < WHILE_WRITING:
            while not progress.is_open and not _has_ended(writer):
                time.sleep(0.001)
        time.sleep(draw.random() * KILLED_AFTER_MAX_S)
        os.kill(writer, signal.SIGKILL)
        if (code := _exit_code(writer)) != -signal.SIGKILL:
            raise BenchError(f"{name}: the writer ended with status {code} before kill {number + 1} with seed {seed}")
        if code := _exit_code(_fork(partial(_compare, name, folder, progress.finished))):
            raise BenchError(f"{name}: wrong after kill {number + 1} with seed {seed} (status {code})")
        while_opening += not progress.is_open
        if number % 100 == 99:
            say(f"{number + 1} kills, {progress.finished} records")
    report("kills", name, kills=count, seed=seed, records=progress.finished, while_opening=while_opening)


class Progress:
    """How far the writing process is, in memory that it shares with its killer."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("Q")

    @property
    def finished(self) -> int:
        """The offset up to which everything was written."""
        return self._shared[0]

    @finished.setter
    def finished(self, offset: int) -> None:
        self._shared[0] = offset

    @property
    def is_open(self) -> int:
        return self._shared[1]

    @is_open.setter
    def is_open(self, value: int) -> None:
        self._shared[1] = value


def _write_until_killed(name: str, folder: Path, progress: Progress, seed: float) -> None:
    engine, draw = ENGINES[name](folder), random.Random(seed)
    progress.is_open = 1
    position = engine.position()
    while True:
        batch = records(position, draw.choice(BATCHES))
        engine.write(batch)
        progress.finished = position = batch[-1].offset + 1
        if draw.random() < 0.5:
            engine.expire(max(0, position - KEPT_WHILE_KILLED), 2000)


def _compare(name: str, folder: Path, finished: int) -> None:
    """Every entry, every id and the position, with the log."""
    engine = ENGINES[name](folder)
    position = engine.position()
    assert position >= finished, f"the stored offset is {position}, but {finished} were finished"
    found = list(engine.entries())
    offsets = [offset for offset, _ in found]
    first = offsets[0] if offsets else position
    assert offsets == list(range(first, position)), f"entries {first}.. are not all entries below {position}"
    assert first <= max(0, position - KEPT_WHILE_KILLED), f"{first} is the first entry; none after that has expired"
    assert engine.id_count() == len(found), f"{engine.id_count()} ids for {len(found)} entries"
    for offset, value in found:
        wanted = record(offset)
        assert value == wanted.value, f"another value at {offset}"
        assert engine.read(wanted.id) == wanted.value, f"the id of {offset} leads elsewhere"


# --- damage ----------------------------------------------------------------------------------------------------------

FOUND, HARMLESS, MISSING, WRONG = 10, 11, 12, 13
OUTCOMES = {FOUND: "found", HARMLESS: "harmless", MISSING: "missing", WRONG: "wrong"}


def damage(name: str, folder: Path, count: int, seed: int) -> None:
    """Change one bit at a time, and count what comes of it."""
    engine = ENGINES[name](folder)
    for first in range(0, DAMAGED_ENTRIES, 100):
        engine.write(records(first, 100))
    engine.close()
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    others = {other: other.read_bytes() for other in folder.iterdir() if other != path}
    whole, draw, outcomes = path.read_bytes(), random.Random(seed), Counter[str]()
    for _ in range(count):
        for left_over in folder.iterdir():
            left_over.unlink()
        for other, content in others.items():
            other.write_bytes(content)
        at = draw.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        code = _exit_code(_fork(partial(_read_damaged, name, folder)))
        outcomes[OUTCOMES.get(code, f"ended by {signal.Signals(-code).name}" if code < 0 else "failed")] += 1
    report("damage", name, changes=count, seed=seed, **outcomes)


def _read_damaged(name: str, folder: Path) -> None:
    """End with what was seen of the damage: it was told, nothing, a record that is not found, or something untrue."""
    signal.alarm(30)  # for a circle of pages
    try:
        engine = ENGINES[name](folder)
        position = engine.position()
        read = [(wanted.value, engine.read(wanted.id)) for wanted in records(0, DAMAGED_ENTRIES)]
        entries = list(engine.entries())
    except (lmdb.Error, sqlite3.Error, StoreError, BenchError):
        os._exit(FOUND)
    wrong = position != DAMAGED_ENTRIES or any(found not in (None, value) for value, found in read)
    wrong |= any(offset >= DAMAGED_ENTRIES or value != record(offset).value for offset, value in entries)
    missing = len(entries) < DAMAGED_ENTRIES or any(found is None for _, found in read)
    os._exit(WRONG if wrong else MISSING if missing else HARMLESS)


# --- processes and lines ---------------------------------------------------------------------------------------------


def _fork(work: Callable[[], None]) -> int:
    """Run it in a process that shares nothing open with this one; its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; `_exit_code` still has to be asked for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _exit_code(pid: int) -> int:
    """Wait for its end; minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def report(what: str, engine: str, **details: object) -> None:
    """Print one measurement with what is needed to compare it with another day's."""
    line = {
        "bench": "store",
        "what": what,
        "engine": engine,
        **details,
        "lmdb": ".".join(map(str, lmdb.version())),
        "sqlite": sqlite3.sqlite_version,
        "fastgw": fastgw.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}",
    }
    print(json.dumps(line), flush=True)


def main(
    engines: Annotated[str, typer.Option(help="Names with commas.")] = ",".join(ENGINES),
    parts: Annotated[str, typer.Option(help="Parts with commas: speed, kills, damage.")] = "speed,kills,damage",
    entries: Annotated[int, typer.Option(min=10_000, help="Entries of the speed part.")] = 1_000_000,
    kill_count: Annotated[int, typer.Option("--kills", min=1, help="Processes to kill, for each engine.")] = 1_000,
    damages: Annotated[int, typer.Option(min=1, help="Bits to change, one at a time.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 1,
) -> None:
    work: dict[str, Callable[[str, Path], None]] = {
        "speed": lambda name, folder: speed(name, folder, entries),
        "kills": lambda name, folder: kills(name, folder, kill_count, seed),
        "damage": lambda name, folder: damage(name, folder, damages, seed),
    }
    if unknown := (set(parts.split(",")) - set(work)) | (set(engines.split(",")) - set(ENGINES)):
        raise BenchError(f"{', '.join(sorted(unknown))}: parts are {', '.join(work)}; engines are {', '.join(ENGINES)}")
    for part in parts.split(","):
        for name in engines.split(","):
            with tempfile.TemporaryDirectory(prefix="fastgw-store-") as folder:
                say(f"{part} of {name}")
                work[part](name, Path(folder))


if __name__ == "__main__":
    run(main, __doc__)
