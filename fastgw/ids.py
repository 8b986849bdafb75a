"""The correlation id: 36 characters that identify one waiting request, and that hash to a partition of this worker.

A service copies the id from the request to the key of its reply, and its Kafka client hashes that key to choose a
partition. So the id contains an *address* (the waiting process and its table slot), so that a reply is routed by
reading digits, and a *salt*. The salt is chosen so that the hash functions of the Kafka clients map the id to
partitions that this worker reads. The format is a lower-case UUID of version 8 (RFC 9562, custom bits), because only
this format passes the byte, string and UUID serdes of all clients unchanged.

    nnnnnnww-ggss-8sss-Vxxx-xxxxhhhaaaaa      one letter a hexadecimal digit, four bits

    n  24 bits  node         random at the supervisor's start: identifies the node
    w   8 bits  worker       the worker's place on that node, with
    g   8 bits  generation   counts the processes at this place: together they identify the process
    s  20 bits  slot         index in the shared table: finds the request without a hash table
    8   4 bits  version of the UUID
    V   2 bits  variant of the UUID; the digit is 8, 9, a or b, because it also contains
        2 bits  topic        the topic on which the reply is expected, see `ReplyTopic`
    x  28 bits  nonce        random: cannot be guessed, even from a million other ids
    h  12 bits  home         the partition where the reply should be, to forward it from others
    a  20 bits  salt         chosen so that the whole id hashes to a partition that we read

The *tag* is everything after the variant, 62 bits: topic << 60 | nonce << 32 | home << 20 | salt. The slot holds the
whole tag of its request, so every changed digit is noticed: before the variant it changes the address, after the
variant the tag.

_ids.pyx makes and hashes ids (C, about half a microsecond an id); the rest of fastgw imports this file.
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
    "ReplyTopic",
    "explains",
    "find",
    "parse",
    "partition_of",
    "refusal_id",
]


def refusal_id() -> bytes:
    """The request id of a request that is refused before it has a correlation id: a random UUID (RFC 9562, version 4).

    The version distinguishes both kinds: a request with a version 4 id never had a record.

    Raises:
        OSError: the kernel returned no random numbers.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}".encode()


class ReplyTopic(IntEnum):
    """The topic on which the reply to a request is expected; two bits of its id."""

    REPLIES = 0  # the response topic, which the workers read
    LATER = 1  # replies that outlive the request; the store reads them
    STREAMS = 2  # the parts of streamed answers; the store reads them


class Partitioner(IntEnum):
    """What is known about how a service's Kafka client chooses the partition of a reply from its key.

    `_ids.pyx` has the same numbers; `explains` gives a bit mask of `1 << number`.
    """

    ANY = 0  # nothing: all three hash functions shall reach a partition this worker owns
    MURMUR2 = 1  # Java and its likes, franz-go, kafkajs 2, kafka-python, aiokafka
    CRC32 = 2  # librdkafka and everything on it, ruby-kafka
    FNV1A = 3  # Sarama and what is built on it
    HEADER = 4  # it obeys the reply partition header: the key need not land anywhere
