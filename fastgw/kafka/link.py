"""What both Kafka links share: their contract with the worker, how their clients are set up, what error codes mean.

A link sends records, tells what became of them, and reads the response topic by assigned partitions. There are two:
`public_link` on confluent-kafka's public API, `native_link` on the same librdkafka without a thread in between. They
differ in what they cost and in how exactly they know a record's fate, never in what they promise here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import orjson

from fastgw import errors
from fastgw.config import Limits, Route
from fastgw.errors import Ending
from fastgw.messages import Record, Reply

FROM_END = -1  # RD_KAFKA_OFFSET_END
FROM_BEGINNING = -2  # RD_KAFKA_OFFSET_BEGINNING

# No producer is made more often than this: each costs threads and connections. One that dies as soon as it is made (an
# ACL that is missing, say) is not made again at once; in the meantime requests are refused with "send again".
REPLACE_AGAIN_NS = 500_000_000

# A record that librdkafka times out itself makes it begin a new epoch, in which it sends once more what else it has in
# hand: also what is in its topic already, unacknowledged, and no broker knows it again. So it is never let to: when the
# oldest record of a producer is about to be overdue, new records go to a successor, and what the old one still holds a
# little later is given up, each record with what is known of it. (A supervisor kills a worker that looks away for
# seconds, so nobody looks away for as long as this.)
BEYOND_REACH_MS = 60_000  # librdkafka's delivery timeout, above ours
GRACE_MAX_NS = 500_000_000  # for which what a retired producer holds may still be acknowledged
SPARE_NS = 1_000_000_000  # so long before it is needed the successor is made: it takes half a second to be able to send

NEVER = (1 << 63) - 1  # ns

POSITION_TIMEOUT_S = 5.0  # how long one question for the offsets of partitions may take before it is asked again

QUEUE_BYTES = 128 << 20  # that may wait in one producer, or for it

Settings = dict[str, Any]
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
        """Stops reading these partitions; a `assign` of them that is under way ends without `positioned`."""

    def close(self, timeout_s: float) -> int:
        """Flushes what is left to send and stops reading; returns how many records were not sent in time."""


class LinkSettings(NamedTuple):
    """How a link is set up."""

    client: Settings  # see `client_settings`
    reply_topic: str  # read by assignment of partitions, never by group
    # A record's fate is told so long after it was handed over at the latest, or a little after REPLACE_AGAIN_NS if that
    # is longer. Below the deadlines of the routes, so that a client hears of it. Delivery class n has the timeout n.
    delivery_timeouts_ms: Sequence[int]
    linger_ms: float = 1
    sticky_linger_ms: int = 2
    fetch_wait_ms: int = 100
    queue_messages: int = 100_000  # records that may wait in one producer before `send` raises QueueFull
    record_bytes: int = 1_000_000  # the largest record that will be sent; this is librdkafka's own default
    # Topic -> librdkafka's name of the partitioner for records with key; crc32, its own default, for all others.
    partitioners: Mapping[str, str] = MappingProxyType({})

    def producer(self, delivery_class: int) -> Settings:
        """The properties of the producer of this delivery class."""
        timeout_ms = self.delivery_timeouts_ms[delivery_class]
        return {
            "message.max.bytes": self.record_bytes,
            **self.client,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": self.linger_ms,
            "sticky.partitioning.linger.ms": self.sticky_linger_ms,
            "delivery.timeout.ms": timeout_ms + BEYOND_REACH_MS,
            "request.timeout.ms": min(30_000, timeout_ms),
            "queue.buffering.max.messages": self.queue_messages,
            "queue.buffering.max.kbytes": QUEUE_BYTES // 1024,
            # Bounds how long a record for a topic that does not exist is kept before its fate is told.
            "topic.metadata.propagation.max.ms": 1000,
        }

    def consumer(self) -> Settings:
        """The properties of the consumer."""
        return {
            "check.crcs": False,
            **self.client,
            "group.id": "fastgw-no-group",  # asked for by the client; never joined, nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "latest",
            "fetch.wait.max.ms": self.fetch_wait_ms,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "isolation.level": "read_committed",
        }


# Who sends records with key to which partition, as the routes' `key_partitioner` calls it: librdkafka's name for it.
# Their `_random` is about empty keys, which no route sends.
LIBRDKAFKA_PARTITIONERS: Mapping[str, str] = {
    "crc32": "consistent_random",
    "murmur2": "murmur2_random",
    "fnv1a": "fnv1a_random",
}


def partitioners(routes: Iterable[Route]) -> dict[str, str]:
    """`LinkSettings.partitioners` for these routes, which agree on it where they share a topic."""
    return {
        route.topic: LIBRDKAFKA_PARTITIONERS[route.key_partitioner]
        for route in routes
        if route.key and route.key_partitioner != "crc32"
    }


class DeliveryTimes(NamedTuple):
    """How long one producer is given for its records; all in ns."""

    unsent_ns: int  # a record that waits to be handed over is given up after this
    spare_ns: int  # when its oldest record is as old as this, its successor should be there, ...
    retire_ns: int  # ... and take what comes from this age on
    grace_ns: int  # after which what it still holds is given up


def patience(timeout_ms: int) -> DeliveryTimes:
    """That of a producer with this delivery timeout."""
    timeout_ns = 1_000_000 * timeout_ms
    grace_ns = min(GRACE_MAX_NS, timeout_ns // 10)
    retire_ns = max(timeout_ns - grace_ns, REPLACE_AGAIN_NS)
    return DeliveryTimes(timeout_ns, max(retire_ns - SPARE_NS, retire_ns // 2), retire_ns, grace_ns)


def client_settings(bootstrap: str, extra: Mapping[str, Any]) -> Settings:
    """What every client of the gateway shares: producers, consumers, and those that ask and administer.

    Args:
        bootstrap: the broker list.
        extra: properties of the operator (`[kafka.client]`) or of one client, which win over the defaults.
    """
    return {
        "client.id": "fastgw",
        "enable.metrics.push": False,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
        **{name: str(value).lower() if isinstance(value, bool) else value for name, value in extra.items()},
        "bootstrap.servers": bootstrap,
        # librdkafka's producers, and thereby its admin clients, ask for topics in a way that has brokers with
        # `auto.create.topics.enable` (Kafka's default) create them, with the wrong number of partitions. A topic that
        # somebody deletes while the gateway runs would come back like that. Only `fastgw topics` creates topics.
        "allow.auto.create.topics": False,
    }


OWN_HEADERS_BYTES = 2048  # of a record: names, ids, deadline, and Kafka's own framing


def record_bytes(limits: Limits, routes: Iterable[Route]) -> int:
    """The largest record that a request to one of `routes` can become, with all that stands beside its body."""
    # The target is in it three times: path, its parameters, and the route's own path. Any route copies headers: those
    # that describe the body and the trace are always copied (`plain.FORWARDED_ALWAYS`), and one may fill the limit.
    beside = OWN_HEADERS_BYTES + 3 * limits.max_target_bytes + limits.max_header_bytes
    return max(route.max_body_bytes for route in routes) + beside


ANY = -1  # RD_KAFKA_PARTITION_UA: librdkafka draws a partition for each record

# Kafka's error codes by number, as the protocol has them; the negative ones are librdkafka's own.
QUEUE_FULL = -184
FATAL = -150
PURGED = frozenset({-152, -151})  # it was told to give up a record, in its queue or under way

REFUSALS: Mapping[int, Ending] = {
    10: errors.RECORD_TOO_LARGE,  # MSG_SIZE_TOO_LARGE
    18: errors.RECORD_TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    3: errors.TOPIC_UNKNOWN,  # UNKNOWN_TOPIC_OR_PART
    17: errors.TOPIC_UNKNOWN,  # TOPIC_EXCEPTION
    -188: errors.TOPIC_UNKNOWN,  # _UNKNOWN_TOPIC
    -190: errors.TOPIC_UNKNOWN,  # _UNKNOWN_PARTITION
    29: errors.NOT_AUTHORIZED,  # TOPIC_AUTHORIZATION_FAILED
    31: errors.NOT_AUTHORIZED,  # CLUSTER_AUTHORIZATION_FAILED
    87: errors.REFUSED_SEND,  # INVALID_RECORD
}
"""Errors that librdkafka reports only for records that are in no log."""


def figures_of(statistics: str) -> dict[str, Any]:
    """What people want to see of librdkafka's statistics (its STATISTICS.md): one client, and how it does with each
    broker. Round trips in milliseconds; counts since the client's start.

    An operator asks for them with `statistics.interval.ms` in `[kafka.client]`.
    """
    told = orjson.loads(statistics)
    return {
        "client": told["name"],
        "waiting": told["msg_cnt"],
        "sent": told["txmsgs"],
        "received": told["rxmsgs"],
        "brokers": [
            {
                "broker": one["nodename"],
                "state": one["state"],
                "round_trip_p50_ms": one["rtt"]["p50"] / 1000,
                "round_trip_p99_ms": one["rtt"]["p99"] / 1000,
                "unanswered": one["waitresp_cnt"],
                "timeouts": one["req_timeouts"],
                "retries": one["txretries"],
                "errors": one["txerrs"] + one["rxerrs"],
            }
            for one in told["brokers"].values()
            if one["nodeid"] >= 0
        ],
    }
