"""Finds out which partitioner a service's Kafka client uses for its replies."""

from __future__ import annotations

from fastgw import ids
from fastgw.ids import Partitioner

# Replies before a decision. A wrong partitioner explains a reply by chance with a probability of 1 / owned partitions,
# so it explains all 24 with a probability of 2^-24 at worst.
LEARN_FROM = 24
GIVE_UP_AFTER = 256  # replies: several partitioners still fit, so the count starts again
WINDOW = 64  # replies over which a known partitioner is checked ...
TOLERATED = 16  # ... and how many may arrive on another partition before it is dropped
_ANY = Partitioner.ANY
_CANDIDATES = (Partitioner.HEADER, Partitioner.MURMUR2, Partitioner.CRC32, Partitioner.FNV1A)


class PartitionerLearner:
    """Finds out which partitioner a service uses, by watching on which partitions its replies arrive.

    While `current` is ANY, ids hash to owned partitions under all three functions, so replies arrive whichever function
    the service uses. After a few replies only one function explains them all, and it becomes `current`. When replies no
    longer fit, `current` is ANY again.
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
        """A reply to id `raw`, made for `home`, arrived on `partition`. True: `current` has changed."""
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
        # Ids made before the function was known need not hash to their home: a miss only if the function disagrees.
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
