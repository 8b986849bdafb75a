"""What a Kafka link promises the worker: the calls, the events, the settings.

A link sends records, tells what became of them, and reads the response topic by assigned partitions. There are two:
`public_link` on confluent-kafka's public API, `native_link` on the same librdkafka without a thread in between. They
differ in what they cost and in how exactly they know a record's fate, never in what they promise here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fastgw.errors import Ending
from fastgw.messages import Record, Reply

FROM_END = -1  # RD_KAFKA_OFFSET_END
FROM_BEGINNING = -2  # RD_KAFKA_OFFSET_BEGINNING
ANY = -1  # RD_KAFKA_PARTITION_UA: librdkafka draws a partition for each record

NEVER = (1 << 63) - 1  # ns, monotonic

POSITION_TIMEOUT_S = 5.0  # how long one question for the offsets of partitions may take before it is asked again

Properties = dict[str, Any]
"""librdkafka properties by name."""


class LinkEvents(Protocol):
    """What a link tells its owner; every call is made on the loop."""

    def replies(self, replies: Sequence[Reply]) -> None:
        """Records of the response topic, in batches, each partition's in order.

        A record that cannot be decoded comes as well, without correlation id (`b""`): it is counted, and costs the
        others of its batch nothing.
        """

    def delivered(self, token: int, at_ns: int) -> None:
        """The record sent with `token` is in its topic; known since `at_ns` (monotonic)."""

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        """It is not, or nobody can say: `ending` tells which."""

    def positioned(self, offsets: Mapping[int, int]) -> None:
        """Partition -> an offset from which on every record of it is read."""


class Link(Protocol):
    """What the worker asks of a link. Nothing here waits but `close`."""

    def start(self) -> None:
        """Starts reading; partitions come with `assign`."""

    def preload_topic(self, delivery_class: int, topic: str) -> None:
        """Has a producer ask for a topic before the first record is sent to it."""

    def send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:
        """Sends the record of a request; `delivered` or `undelivered` follows.

        Args:
            record: its partition may be a marker, TOGETHER or SPREAD.
            token: names the request in what follows.
            delivery_class: see LinkSettings.
            concurrency_hint: requests of its route in flight here, this one included; 0: too few to share a batch.
            now_ns: monotonic.

        Raises:
            QueueFull: no room; nothing was sent.
            SendRefused: refused at once; nothing was sent.
        """

    def cancel_unsent(self, token: int) -> bool:
        """Its request has ended: True if the record had not been handed over and never will be."""

    def send_untracked(self, record: Record) -> bool:
        """Sends a record whose fate nobody waits for (canaries, replies sent on); False if it was refused."""

    def waiting(self) -> int:
        """How many records were sent and have no fate yet."""

    def poll(self) -> None:
        """Takes in what has come; the worker calls it on its tick, so that nothing waits longer than that."""

    def assign(self, partitions: Sequence[int], at: int = FROM_END) -> None:
        """Starts reading these partitions at their end, or FROM_BEGINNING.

        `positioned` tells when, and from where; it comes after this call. The end is asked for until it is told. A
        beginning needs no question, and no partition that the client knows already: for one that was added a moment
        ago, it looks within a second. For a partition that is read already, `positioned` comes as well and the
        reading just goes on.
        """

    def stop_reading(self, partitions: Sequence[int]) -> None:
        """Stops reading these partitions; an `assign` of them that is under way ends without `positioned`."""

    def close(self, timeout_s: float) -> int:
        """Flushes what is left to send and stops reading; returns how many records were not sent in time."""


class LinkSettings(NamedTuple):
    """How a link is set up."""

    client: Properties  # see `properties.client_properties`
    reply_topic: str  # read by assignment of partitions, never by group
    # A record's fate is told so long after it was handed over at the latest, or a little after
    # `producer_pool.REPLACE_AGAIN_NS` if that is longer. Below the deadlines of the routes, so that a client hears of
    # it. Delivery class n has the timeout n.
    delivery_timeouts_ms: Sequence[int]
    linger_ms: float = 1
    sticky_linger_ms: int = 2
    fetch_wait_ms: int = 100
    queue_messages: int = 100_000  # records that may wait in one producer before `send` raises QueueFull
    record_bytes: int = 1_000_000  # the largest record that will be sent; this is librdkafka's own default
    # Topic -> librdkafka's name of the partitioner for records with key; crc32, its own default, for all others.
    partitioners: Mapping[str, str] = MappingProxyType({})
