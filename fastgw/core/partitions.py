"""Response partitions as one worker sees them: which it reads, which one is its home, whose a reply is, and how the
services choose the partition they reply to.

The idea: replies to one worker should travel together. A worker therefore makes ids that hash to *one* partition at a
time, its home; a batch of replies is then one produce, one fetch and one wake-up instead of many. Everything here is
book-keeping over numbers; the worker does what is decided here.

A partition that moves away is read until the last request made before the move has ended ("leaving"), so a move
loses nothing; Kafka lets any number of processes read. When all of them move at once, the home stays where it is heard
until one of the new ones is read: a node that was cut off from its group comes back without refusing anybody.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from fastgw import ids
from fastgw._ctable import NOT_READING, Table
from fastgw.ids import CorrelationId, Partitioner

NO_HOME = -1
NOT_THIS_NODE = 0xFF


class Moves(NamedTuple):
    """What a new map means for this worker."""

    gained: list[int]  # to be positioned and read
    lost: list[int]  # still read, but no longer promised to anybody


class Ownership:
    """The partitions of one worker process.

    A partition is *assigned* (the map says it is ours), then *positioned* (we read it from a known offset, so it may
    become the home), then perhaps *leaving* (the map gave it away, replies may still come).
    """

    def __init__(self, worker: int, generation: int) -> None:
        self.worker = worker
        self.partition_count = 0
        self.map_version = 0
        self.home = NO_HOME
        self.assigned: frozenset[int] = frozenset()
        self.positioned: set[int] = set()
        self.leaving: dict[int, int] = {}  # partition -> monotonic ns since when it is leaving
        self._turn = generation  # two generations of one slot begin with different homes

    def __repr__(self) -> str:
        return (
            f"<Ownership map {self.map_version}: home {self.home}, reads {sorted(self.positioned)}, "
            f"assigned {sorted(self.assigned)}, leaving {sorted(self.leaving)}>"
        )

    def apply(self, version: int, owners: bytes, now_ns: int) -> Moves:
        """Takes over a new map: one byte a partition, the worker slot that owns it.

        The home is moved if it was lost, as soon as another is read. Partitions that come back while leaving are
        simply kept.
        """
        self.map_version = version
        self.partition_count = len(owners)
        assigned = frozenset(p for p, owner in enumerate(owners) if owner == self.worker)
        lost = [p for p in self.assigned - assigned if p in self.positioned]
        for partition in lost:
            self.leaving[partition] = now_ns
        for partition in assigned:
            self.leaving.pop(partition, None)
        self.assigned = assigned
        self._keep_or_choose_home(now_ns)
        return Moves(sorted(assigned - self.positioned), sorted(lost))

    def position(self, partition: int, now_ns: int) -> None:
        """The partition is being read from a known offset: ids may be made for it from now on."""
        self.positioned.add(partition)
        self._keep_or_choose_home(now_ns)

    def left(self, partition: int) -> None:
        """Nothing made for this partition, which is not the home, is outstanding any more and it is no longer read."""
        self.leaving.pop(partition, None)
        self.positioned.discard(partition)

    def usable(self) -> list[int]:
        """The partitions that ids may be made for."""
        return sorted(self.assigned & self.positioned)

    def rotate_home(self, now_ns: int) -> None:
        """Moves the home to the next usable partition (its canary failed, or for balance)."""
        self._turn += 1
        self._choose_home(self.usable(), now_ns)

    def _keep_or_choose_home(self, now_ns: int) -> None:
        usable = self.usable()
        is_all_we_hear = self.assigned and not usable and self.home in self.leaving
        if self.home not in usable and not is_all_we_hear:
            self._choose_home(usable, now_ns)

    def _choose_home(self, usable: list[int], now_ns: int) -> None:
        if self.home in self.leaving:
            self.leaving[self.home] = now_ns  # ids were made for it until this moment
        self.home = usable[self._turn % len(usable)] if usable else NO_HOME


class Whose(IntEnum):
    """What to do with a reply (design section 5)."""

    MINE = 0
    FORWARD = 1  # a sibling process waits for it and does not read this partition: over the mesh
    LEAVE = 2  # another process reads the same record and will do what is right
    ORPHAN = 3  # the process that waited is dead
    REROUTE = 4  # another node's: to its home partition, if no node has sent it there already
    FOREIGN = 5  # another node's, which reads this partition itself or has died


MINE = Whose.MINE  # asked for with each reply, and an enumeration looks its members up slowly


class ReplyRouter:
    """Decides whose a reply is, from its id, where it came in, and what the other processes read."""

    def __init__(self, table: Table, worker: int, generation: int, ownership: Ownership) -> None:
        self._table = table
        self._node = table.node
        self._worker = worker
        self._generation = generation
        self._process = worker * 2 + (generation & 1)
        self._ownership = ownership

    def whose(self, cid: CorrelationId, partition: int, offset: int) -> Whose:
        """
        Args:
            cid: the parsed correlation id.
            partition, offset: where the reply came in.
        """
        if cid.node == self._node:
            if cid.worker == self._worker and cid.generation == self._generation:
                return MINE
            if not self._is_steward(partition, offset):
                return Whose.LEAVE
            process = self._table.find(cid.worker, cid.generation)
            if process < 0:
                return Whose.ORPHAN
            if self._table.reads_from(process, partition) <= offset:
                return Whose.LEAVE
            return Whose.FORWARD
        if not self._is_steward(partition, offset):
            return Whose.LEAVE
        if partition == cid.home or cid.home >= self._ownership.partition_count:
            return Whose.FOREIGN
        return Whose.REROUTE

    def _is_steward(self, partition: int, offset: int) -> bool:
        """Whether this process is the one that deals with replies of others on this partition.

        During a reload or a move several processes read one partition. Each looks at the same shared records and comes
        to the same answer: the owner slot's process that has read the partition longest; whoever reads it, if none of
        the owner's does. In doubt two act, never none: a reply forwarded twice is answered once.
        """
        if partition in self._ownership.leaving:
            return self._owner_reader(partition, offset) < 0
        reader = self._owner_reader(partition, offset)
        return reader < 0 or reader == self._process

    def _owner_reader(self, partition: int, offset: int) -> int:
        owner = self._table.map_owner(partition)
        if owner == NOT_THIS_NODE or owner >= self._table.workers:
            return -1
        first, second = owner * 2, owner * 2 + 1
        from_first, from_second = self._table.reads_from(first, partition), self._table.reads_from(second, partition)
        reader, start = (first, from_first) if from_first <= from_second else (second, from_second)
        return reader if start != NOT_READING and start <= offset else -1


LEARN_FROM = 24  # replies before a verdict: a wrong function fits by chance with odds 1/owned each, 2^-24 at worst
GIVE_UP_AFTER = 256  # replies that no single function explains: two clients behind one topic, or none that hashes
WINDOW = 64  # replies over which a known function is watched ...
TOLERATED = 16  # ... and how many may miss before it is no longer believed
_ANY = Partitioner.ANY
_CANDIDATES = (Partitioner.HEADER, Partitioner.MURMUR2, Partitioner.CRC32, Partitioner.FNV1A)


class PartitionerLearner:
    """Finds out which partitioner a service replies with, by watching where its replies arrive.

    While `current` is ANY, ids land on owned partitions under all three hashes, so replies are found whatever the
    service does; one function alone explains enough of them soon. When replies stop fitting, back to ANY.
    """

    def __init__(self, setting: str) -> None:
        self.fixed = setting != "auto"
        self.current = Partitioner.ANY if setting == "auto" else Partitioner[setting.upper()]
        self._seen = 0
        self._votes = dict.fromkeys(_CANDIDATES, 0)
        self._misses = 0

    def __repr__(self) -> str:
        return f"<PartitionerLearner {self.current.name.lower()} after {self._seen} replies>"

    def observe(self, raw: bytes, home: int, partition: int, partition_count: int) -> bool:
        """A reply to id `raw` (made for `home`) came in on `partition`; True when `current` changed."""
        if self.current is _ANY:
            return self._vote(raw, home, partition, partition_count)
        if partition == home or self.fixed:
            self._seen += 1
            return False
        return self._miss(raw, partition, partition_count)

    def _miss(self, raw: bytes, partition: int, partition_count: int) -> bool:
        if self._seen >= WINDOW:
            self._seen = self._misses = 0
        self._seen += 1
        # Ids made before the function was known need not hash to their home: ask the function before calling it a miss.
        if self.current is Partitioner.HEADER or ids.partition_of(self.current, raw, partition_count) != partition:
            self._misses += 1
        if self._misses <= TOLERATED:
            return False
        self._restart(_ANY)
        return True

    def _vote(self, raw: bytes, home: int, partition: int, partition_count: int) -> bool:
        fits = ids.explains(raw, partition_count, partition)
        if partition == home:
            fits |= 1 << Partitioner.HEADER
        for candidate in _CANDIDATES:
            if fits >> candidate & 1:
                self._votes[candidate] += 1
        self._seen += 1
        if self._seen < LEARN_FROM:
            return False
        explaining = [c for c in _CANDIDATES if self._votes[c] == self._seen]
        if len(explaining) == 1:
            self._restart(explaining[0])
            return True
        if not explaining or self._seen >= GIVE_UP_AFTER:
            self._restart(Partitioner.ANY)
        return False

    def _restart(self, current: Partitioner) -> None:
        self.current = current
        self._seen = self._misses = 0
        self._votes = dict.fromkeys(_CANDIDATES, 0)
