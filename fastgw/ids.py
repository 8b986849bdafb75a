"""The correlation id: 36 characters that name one waiting request, and that hash to a partition we read.

The idea. A service copies the id from the request to the key of its reply, and its Kafka client hashes that key to
choose a partition. So the id carries two things: an *address* (which process waits, in which table slot), which makes
routing a reply a matter of reading digits, and a *salt*, searched until the hash functions of the Kafka clients send
the id to partitions that this worker reads. The shape is a UUID of version 8 (RFC 9562, "free bits"), lower case,
because that shape alone survives byte, string and UUID serdes of every client unchanged.

    nnnnnnww-ggss-8sss-Vxxx-xxxxhhhaaaaa      one letter a hexadecimal digit, four bits

    n  24 bits  node         random at the supervisor's start: whose reply is this
    w   8 bits  worker       the worker's place on that node, with
    g   8 bits  generation   which of the processes that lived there: together the process to hand the reply to
    s  20 bits  slot         of the shared table: no hash table needed to find the request
    8   4 bits  version of the UUID
    V   2 bits  variant of the UUID (the digit is 8, 9, a or b), and the two highest bits of
    x  30 bits  nonce        random: what nobody can guess who has seen a million ids
    h  12 bits  home         the partition the reply belongs on, for whoever finds it elsewhere
    a  20 bits  salt         searched for, so that the whole id hashes to where we read

The *tag* is all that follows the variant, 62 bits: nonce << 32 | home << 20 | salt. The slot holds the whole tag of its
request, so that no digit can be changed unnoticed: one before the variant changes the address, one after it the tag.

Making and hashing is in _ids.pyx (C, about half a microsecond an id); this file is what the rest of fastgw imports.
"""

from __future__ import annotations

import os
from enum import IntEnum

from fastgw._ids import PARTITIONS_MAX, CorrelationId, IdMaker, explains, find, parse, partition_of

__all__ = [
    "PARTITIONS_MAX",
    "CorrelationId",
    "IdMaker",
    "Partitioner",
    "explains",
    "find",
    "parse",
    "partition_of",
    "refusal_id",
]


def refusal_id() -> bytes:
    """The request id of a request that is refused before it has a correlation id: a random UUID (RFC 9562, version 4).

    The version tells the two apart: version 4 never had a record.

    Raises:
        OSError: the kernel has no random numbers for us.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}".encode()


class Partitioner(IntEnum):
    """What is known about how a service's Kafka client chooses the partition of a reply from its key.

    `_ids.pyx` has the same numbers; `explains` gives a bit mask of `1 << number`.
    """

    ANY = 0  # nothing: all three hash functions shall reach a partition this worker owns
    MURMUR2 = 1  # Java and its likes, franz-go, kafkajs 2, kafka-python, aiokafka
    CRC32 = 2  # librdkafka and everything on it, ruby-kafka
    FNV1A = 3  # Sarama and what is built on it
    HEADER = 4  # it obeys the reply partition header: the key need not land anywhere
