"""The compiled part of correlation ids. ids.py describes the layout, _ids.pyx how the salt is found."""

from collections.abc import Sequence
from typing import Final, NamedTuple

PARTITIONS_MAX: Final = 4096
"""The home field has 12 bits: a response topic may have at most this many partitions."""

class CorrelationId(NamedTuple):
    """The fields of an id, as integers."""

    node: int  # 24 bits
    worker: int  # 8 bits: the worker slot, 0 ... workers - 1
    generation: int  # 8 bits: counts the processes of this worker slot, modulo 256
    slot: int  # 20 bits: slot of the shared table
    nonce: int  # 28 bits
    home: int  # 12 bits: the partition on which the reply should arrive
    salt: int  # 20 bits
    tag: int  # topic << 60 | nonce << 32 | home << 20 | salt: what the slot must hold for the id to be valid

    @property
    def topic(self) -> int:
        """The topic on which the reply is expected, a `ids.ReplyTopic`."""

def parse(raw: object) -> CorrelationId | None:
    """Parse an id strictly: 36 lower-case ASCII characters with correct dashes, version and variant.

    Args:
        raw: the key or a header value of a record. Anything but `bytes` (None, text, other buffers) is no id.

    Returns:
        The fields, or None if this cannot be an id of fastgw. Never raises.
    """

def find(raw: bytes) -> bytes | None:
    """Extract an id from the encodings that a service's serializers may add.

    Args:
        raw: the key of a record, or the value of a header. It may contain an id, in lower or upper case, in these
            forms: alone, in JSON quotes, or as an Avro string, each with or without the five bytes of a schema registry
            in front; or, after these five bytes, as the first string of a Protobuf message.

    Returns:
        The 36 characters that `parse` accepts, or None if there is no id.
    """

def partition_of(partitioner: int, key: bytes, partition_count: int) -> int:
    """The partition to which a client with this hash function sends a record with this key.

    Args:
        partitioner: Partitioner.MURMUR2, CRC32 or FNV1A.
        key: the record's key, of any length.
        partition_count: the number of partitions that this client knows, 1 or more.

    Raises:
        ValueError: the partitioner is none of the three, or partition_count is not positive.
    """

def explains(raw: bytes, partition_count: int, partition: int) -> int:
    """The hash functions that send this key to this partition: a mask of `1 << Partitioner`, 0 for none.

    Args:
        raw: the key of a reply.
        partition_count: the number of partitions of the response topic, 1 or more.
        partition: the partition on which the reply arrived.

    Raises:
        ValueError: partition_count is not positive.
    """

class IdMaker:
    """Makes the ids of one worker process. Used by one thread.

    Call `set_ownership` before the first id: it says on which partitions replies should arrive.
    """

    tag: int
    """The tag of the id made last (0 before the first)."""
    missed: int
    """How many ids do not hash as promised, because the search gave up. Siblings forward the replies to them."""

    def __init__(self, node: int, worker: int, generation: int, topic: int = 0) -> None:
        """
        Args:
            node: 24 bits.
            worker, generation: 8 bits each.
            topic: a `ids.ReplyTopic`, 2 bits; homes are partitions of this topic.

        Raises:
            ValueError: a number is out of range.
        """

    def set_ownership(self, partition_count: int, owned: Sequence[int], home: int) -> None:
        """Set the partitions that this worker reads, from the next id on.

        Args:
            partition_count: the number of partitions of the ids' topic, 1 to PARTITIONS_MAX.
            owned: the partitions that this worker reads, at least one.
            home: the owned partition on which its replies should arrive.

        Raises:
            ValueError: a number is out of range, or home is not owned. The previous ownership stays in force.
        """

    def make(self, slot: int, partitioner: int) -> bytes:
        """Make a new id for a table slot. Afterwards `tag` is the tag with which the slot must be published.

        The partitions to which the id hashes (`missed` counts the exceptions):
            ANY: each of murmur2, crc32 and fnv1a to an owned partition. With 16 or more workers the search may give up;
                then crc32 is satisfied first, murmur2 second, fnv1a last.
            MURMUR2, CRC32, FNV1A: this function to the home partition, always; the other two to owned partitions if a
                few more tries find such an id. This is not promised and not counted.
            HEADER: to any partition.

        Args:
            slot: 0 to 2**20 - 1.
            partitioner: a Partitioner.

        Returns:
            36 ASCII characters.

        Raises:
            ValueError: slot or partitioner out of range, or set_ownership was never called.
            OSError: the kernel does not provide random numbers.
        """
