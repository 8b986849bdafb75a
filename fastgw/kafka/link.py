"""The interface of a Kafka link: its calls, its events, its settings.

A link sends records, reports whether they were delivered, and reads assigned partitions of the response topic. There
are two: `public_link` uses confluent-kafka's public API; `native_link` uses the same librdkafka directly, without a
thread in between. Both fulfil this interface. They differ in their cost, and in how precisely they know whether a
failed record may be in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fastgw.errors import Ending
from fastgw.messages import Record, Reply

FROM_END = -1  # RD_KAFKA_OFFSET_END
FROM_BEGINNING = -2  # RD_KAFKA_OFFSET_BEGINNING
ANY = -1  # RD_KAFKA_PARTITION_UA: librdkafka chooses a partition for each record

NEVER = (1 << 63) - 1  # ns, monotonic

POSITION_TIMEOUT_S = 5.0  # timeout of one request for the offsets of partitions; after it the link asks again

Properties = dict[str, Any]
"""librdkafka properties by name."""


class Placed(NamedTuple):
    """From where partitions are read, as far as the ends of their logs tell; see `Link.assign`."""

    assign: dict[int, int]  # partition -> what librdkafka is told: an offset, or FROM_BEGINNING
    starts: dict[int, int]  # the same partitions -> the offset from which every record is read
    within: dict[int, int]  # partition -> an offset before the end: ask where the log begins


def place(wanted: Mapping[int, int], ends: Mapping[int, int]) -> Placed:
    """Decide from where to read.

    Args:
        wanted: partition -> FROM_END or an offset.
        ends: where the logs of some of these partitions end.
    """
    placed = Placed({}, {}, {})
    for partition, end in ends.items():
        start = end if wanted[partition] == FROM_END else wanted[partition]
        if start < end:
            placed.within[partition] = start
        else:
            is_behind = start > end
            placed.assign[partition] = FROM_BEGINNING if is_behind else end
            placed.starts[partition] = 0 if is_behind else end
    return placed


class LinkEvents(Protocol):
    """The callbacks of a link. Every call is made on the loop."""

    def replies(self, replies: Sequence[Reply]) -> None:
        """Records of the response topic arrived, in batches; the records of each partition are in order.

        A record that cannot be decoded has an empty correlation id (`b""`), so that it is counted and the other records
        of its batch are not affected.
        """

    def delivered(self, token: int, at_ns: int, partition: int) -> None:
        """The record sent with `token` is in this partition of its topic.

        Args:
            at_ns: when the link learned that (monotonic).
        """

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        """The record sent with `token` is not in its topic, or may not be: `ending` says which."""

    def positioned(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Partitions are being read.

        Args:
            starts: partition -> the offset from which every record is read.
            ends: partition -> where its log ended when Kafka was asked; the same partitions.
        """


class Link(Protocol):
    """The calls of a link. Only `close` waits."""

    def start(self) -> None:
        """Start reading. `assign` adds partitions."""

    def preload_topic(self, delivery_class: int, topic: str) -> None:
        """Let a producer request a topic's metadata before the first record is sent to it."""

    def send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:
        """Send the record of a request. `delivered` or `undelivered` follows.

        Args:
            record: its partition may be a marker, TOGETHER or SPREAD.
            token: identifies the request in that callback.
            delivery_class: see LinkSettings.
            concurrency_hint: requests of its route in flight in this process, this one included; 0: too few for a
                batch.
            now_ns: monotonic.

        Raises:
            QueueFull: too many records, or too many bytes, wait already; nothing was sent.
            SendRefused: librdkafka refused the record; nothing was sent.
        """

    def cancel_unsent(self, token: int) -> bool:
        """The request has ended. True: its record was not handed to librdkafka and never will be."""

    def send_untracked(self, record: Record) -> bool:
        """Send a record without a callback (a canary, or a reply for another node). False: it was refused."""

    def waiting(self) -> int:
        """The number of records sent without a delivery report yet."""

    def waiting_bytes(self) -> int:
        """The bytes of these records: values, keys and headers. They never exceed `LinkSettings.waiting_bytes`."""

    def poll(self) -> None:
        """Process all events that have arrived. The worker calls it on every tick, so no event waits longer."""

    def assign(self, starts: Mapping[int, int]) -> None:
        """Start reading these partitions: each FROM_END, FROM_BEGINNING, or from an offset.

        `positioned` is called after this call, when the partitions are being read. The link asks Kafka where their logs
        end, and where they begin if an offset lies before the end, until it gets an answer.

            the offset lies     reading starts
            ---------------     ---------------------------------------------------------------------
            in the log          there
            before the log      at its beginning: the records up to there were deleted
            behind the log      at its beginning: the topic was deleted and created again

        FROM_BEGINNING needs no question, and the client need not know the partition yet: it finds a partition that was
        just added within a second. If a partition is already read, reading goes on and `positioned` is called, too.
        """

    def reached(self, partition: int) -> int:
        """The next offset of a partition that is read: all records below it, from the start on, went to `replies`."""

    def stop_reading(self, partitions: Sequence[int]) -> None:
        """Stop reading these partitions. An `assign` that is not finished ends without `positioned`."""

    def close(self, timeout_s: float) -> int:
        """Flush and stop reading. Returns how many records were not sent in time."""


WAITING_BYTES = 128 << 20


class LinkSettings(NamedTuple):
    """The settings of a link."""

    client: Properties  # see `properties.client_properties`
    reply_topic: str  # read by assigned partitions, never by a consumer group
    # For each delivery class: `delivered` or `undelivered` is called at the latest so long after `send` (or a little
    # after `producer_pool.REPLACE_AGAIN_NS`, if that is longer). It is shorter than the routes' timeouts, so that
    # clients get the result.
    delivery_timeouts_ms: Sequence[int]
    linger_ms: float = 1
    sticky_linger_ms: int = 2
    fetch_wait_ms: int = 100
    queue_messages: int = 100_000  # records that may wait in one producer before `send` raises QueueFull
    waiting_bytes: int = WAITING_BYTES  # of all records that may wait in the link before `send` raises QueueFull
    record_bytes: int = 1_000_000  # the largest record that will be sent; this is librdkafka's own default
    # Topic -> librdkafka's name of the partitioner for records with a key; others use its default, which is crc32.
    partitioners: Mapping[str, str] = MappingProxyType({})
