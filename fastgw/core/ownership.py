"""The response partitions of one worker process: which it reads, and which one is its home.

The idea: replies to one worker should travel together. So a worker makes ids that hash to *one* partition at a time,
its home partition. A batch of replies is then one produce, one fetch and one wake-up instead of many. This module does
no I/O; the worker carries out its decisions.

A partition that is given away is "leaving": the worker reads it until the last request made before that has ended, so
no reply is lost (any number of processes may read a partition). When all partitions of a worker are given away at once,
the old home partition stays the home until a new partition is read. So a node that was cut off from its group comes
back without refusing requests.
"""

from __future__ import annotations

from typing import NamedTuple

NO_HOME = -1


class Moves(NamedTuple):
    """The changes that a new map means for this worker."""

    gained: list[int]  # to be positioned and read
    lost: list[int]  # still read, but no new ids are made for them
    given_up: list[int]  # not read yet, and no longer to be read


class Ownership:
    """The partitions of one worker process.

    A partition is *assigned* (the map gives it to this worker), then *positioned* (it is read from a known offset and
    may become the home), then perhaps *leaving* (the map gave it away, and replies may still arrive).
    """

    def __init__(self, worker: int, generation: int) -> None:
        self.worker = worker
        self.partition_count = 0
        self.map_version = 0
        self.home = NO_HOME
        self.assigned: frozenset[int] = frozenset()
        self.positioned: set[int] = set()
        self.leaving: dict[int, int] = {}  # partition -> monotonic ns since when it is leaving
        self._turn = generation  # two generations of a worker slot begin with different home partitions

    def __repr__(self) -> str:
        return (
            f"<Ownership map {self.map_version}: home {self.home}, reads {sorted(self.positioned)}, "
            f"assigned {sorted(self.assigned)}, leaving {sorted(self.leaving)}>"
        )

    def apply(self, version: int, owners: bytes, now_ns: int) -> Moves:
        """Apply a new map: for each partition one byte, the worker slot that owns it.

        If the home partition was lost, the home moves as soon as another partition is read. A leaving partition that
        comes back is kept.
        """
        self.map_version = version
        self.partition_count = len(owners)
        assigned = frozenset(p for p, owner in enumerate(owners) if owner == self.worker)
        lost = [p for p in self.assigned - assigned if p in self.positioned]
        for partition in lost:
            self.leaving[partition] = now_ns
        given_up = sorted(self.assigned - assigned - self.positioned)
        for partition in assigned:
            self.leaving.pop(partition, None)
        self.assigned = assigned
        self._keep_or_choose_home(now_ns)
        return Moves(sorted(assigned - self.positioned), sorted(lost), given_up)

    def position(self, partition: int, now_ns: int) -> None:
        """The partition is read from a known offset; from now on ids may be made for it."""
        self.positioned.add(partition)
        self._keep_or_choose_home(now_ns)

    def left(self, partition: int) -> None:
        """The partition is no longer read: no request made for it is in flight, and it is not the home partition."""
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
