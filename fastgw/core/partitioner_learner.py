"""Finds out how the services choose the response partition that they reply to."""

from __future__ import annotations

from fastgw import ids
from fastgw.ids import Partitioner

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
