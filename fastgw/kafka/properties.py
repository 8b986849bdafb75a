"""librdkafka properties of the gateway's clients, and what they depend on: partitioners, the size of a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastgw.config import Limits, Route
from fastgw.kafka.link import LinkSettings, Properties

QUEUE_BYTES = 128 << 20  # that may wait in one producer, or for it

# librdkafka's delivery timeout, above ours: it must never time out a record itself (`producer_pool`, fact 2).
BEYOND_REACH_MS = 60_000


def client_properties(bootstrap: str, extra: Mapping[str, Any]) -> Properties:
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


def producer_properties(settings: LinkSettings, delivery_class: int) -> Properties:
    """Those of a link's producer of this delivery class."""
    timeout_ms = settings.delivery_timeouts_ms[delivery_class]
    return {
        "message.max.bytes": settings.record_bytes,
        **settings.client,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": settings.linger_ms,
        "sticky.partitioning.linger.ms": settings.sticky_linger_ms,
        "delivery.timeout.ms": timeout_ms + BEYOND_REACH_MS,
        "request.timeout.ms": min(30_000, timeout_ms),
        "queue.buffering.max.messages": settings.queue_messages,
        "queue.buffering.max.kbytes": QUEUE_BYTES // 1024,
        # Bounds how long a record for a topic that does not exist is kept before its fate is told.
        "topic.metadata.propagation.max.ms": 1000,
    }


def consumer_properties(settings: LinkSettings) -> Properties:
    """Those of a link's consumer."""
    return {
        "check.crcs": False,
        **settings.client,
        "group.id": "fastgw-no-group",  # asked for by the client; never joined, nothing is committed
        "enable.auto.commit": False,
        "auto.offset.reset": "latest",
        "fetch.wait.max.ms": settings.fetch_wait_ms,
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


OWN_HEADERS_BYTES = 2048  # of a record: names, ids, deadline, and Kafka's own framing


def record_bytes(limits: Limits, routes: Iterable[Route]) -> int:
    """The largest record that a request to one of `routes` can become, with all that stands beside its body."""
    # The target is in it three times: path, its parameters, and the route's own path. Any route copies headers: those
    # that describe the body and the trace are always copied (`plain.FORWARDED_ALWAYS`), and one may fill the limit.
    beside = OWN_HEADERS_BYTES + 3 * limits.max_target_bytes + limits.max_header_bytes
    return max(route.max_body_bytes for route in routes) + beside
