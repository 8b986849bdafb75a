"""Correlation ids, the fast half: see ids.py for the layout, _ids.pyx for how the salt is found."""

from collections.abc import Sequence
from typing import Final, NamedTuple

PARTITIONS_MAX: Final = 4096
"""The home field has 12 bits: a response topic may have at most this many partitions."""

class CorrelationId(NamedTuple):
    """The fields of an id, all of them plain integers."""

    node: int  # 24 bits
    worker: int  # 8 bits: the worker's place, 0 ... workers - 1
    generation: int  # 8 bits: which process in that place, counting round
    slot: int  # 20 bits: slot of the shared table
    nonce: int  # 30 bits
    home: int  # 12 bits: the partition the reply belongs on
    salt: int  # 20 bits
    tag: int  # nonce << 32 | home << 20 | salt: what the slot must hold for the id to be valid

def parse(raw: object) -> CorrelationId | None:
    """Read an id, strictly: 36 lower-case ASCII characters, dashes, version and variant all in place.

    Args:
        raw: what came as key or header of a record. Anything but `bytes` (None, text, other buffers) is no id.

    Returns:
        The fields, or None when this cannot be an id that fastgw made. Never raises.
    """

def find(raw: bytes) -> bytes | None:
    """Take an id out of what a service's serializers have put around it.

    Args:
        raw: the key of a record, or the value of a header: an id in lower or upper case; alone, in JSON quotes, or as
            an Avro string, each of them with or without a schema registry's five bytes in front; behind these also the
            first string of a Protobuf message.

    Returns:
        The 36 characters that `parse` takes, or None when there is no id.
    """

def partition_of(partitioner: int, key: bytes, partition_count: int) -> int:
    """Give the partition to which a client with this hash function sends a record with this key.

    Args:
        partitioner: Partitioner.MURMUR2, CRC32 or FNV1A.
        key: the record's key, of any length.
        partition_count: partitions of the topic as that client sees it, 1 or more.

    Raises:
        ValueError: the partitioner is none of the three, or partition_count is not positive.
    """

def explains(raw: bytes, partition_count: int, partition: int) -> int:
    """Tell which hash functions send this key to this partition: a mask of `1 << Partitioner`, 0 for none.

    Args:
        raw: the key under which a reply came.
        partition_count: partitions of the response topic, 1 or more.
        partition: the partition on which it came in.

    Raises:
        ValueError: partition_count is not positive.
    """

class IdMaker:
    """Makes the ids of one worker process. Used by one thread.

    Two calls come before the first id: the constructor says who waits, `set_ownership` where replies shall land.
    """

    tag: int
    """The tag of the id made last (0 before the first)."""
    missed: int
    """How many ids do not land as promised, because the search gave up. Their replies are forwarded between workers."""

    def __init__(self, node: int, worker: int, generation: int) -> None:
        """Args: node (24 bits), worker (8 bits), generation (8 bits). Raises ValueError outside of these."""

    def set_ownership(self, partition_count: int, owned: Sequence[int], home: int) -> None:
        """Say which partitions this worker reads, from the next id on.

        Args:
            partition_count: partitions of the response topic, 1 to PARTITIONS_MAX.
            owned: the partitions that this worker reads, at least one.
            home: the one of them on which its replies shall gather.

        Raises:
            ValueError: a number is out of range, or home is not owned. The ownership before stays in force.
        """

    def make(self, slot: int, partitioner: int) -> bytes:
        """Make a fresh id for a table slot; afterwards `tag` is what the slot must hold.

        Where it lands (`missed` counts the exceptions):
            ANY: murmur2, crc32 and fnv1a each on some owned partition. At 16 workers and more the search may give up;
                crc32 is then kept first, murmur2 second, fnv1a last.
            MURMUR2, CRC32, FNV1A: that function on home, exactly; the other two on owned partitions as far as a few
                more tries allow, which is not promised and not counted.
            HEADER: nowhere in particular.

        Args:
            slot: 0 to 2**20 - 1.
            partitioner: a Partitioner.

        Returns:
            36 ASCII characters.

        Raises:
            ValueError: slot or partitioner out of range, or set_ownership was never called.
            OSError: the kernel has no random numbers for us.
        """
