"""The librdkafka properties of the gateway's clients, with the partitioners and the record size that they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastgw.config import Config, Limits, Route
from fastgw.config.units import NS_PER_MS
from fastgw.kafka.link import LinkSettings, Properties

# Added to librdkafka's delivery timeout: librdkafka must never time out a record itself (`producer_pool`, fact 2).
BEYOND_REACH_MS = 60_000


def client_properties(bootstrap: str, extra: Mapping[str, Any]) -> Properties:
    """The properties that all clients of the gateway share: producers, consumers, and admin clients.

    Args:
        bootstrap: the broker list.
        extra: the operator's properties (`[kafka.client]`) or those of one client; they override the defaults.
    """
    return {
        "client.id": "fastgw",
        "enable.metrics.push": False,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
        **{name: str(value).lower() if isinstance(value, bool) else value for name, value in extra.items()},
        "bootstrap.servers": bootstrap,
        # By default librdkafka's producers and admin clients allow the broker to create a topic when they ask for it. A
        # broker with `auto.create.topics.enable` (Kafka's default) would create it with the wrong number of partitions,
        # even a topic that was deleted while the gateway runs. Only `fastgw topics` creates topics.
        "allow.auto.create.topics": False,
    }


def producer_properties(settings: LinkSettings, delivery_class: int) -> Properties:
    """The properties of a link's producer of this delivery class."""
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
        # The link has one limit for all its producers and counts more than librdkafka does.
        "queue.buffering.max.kbytes": settings.waiting_bytes // 1024 + 1,
        # A record for a topic that does not exist fails after this time.
        "topic.metadata.propagation.max.ms": 1000,
    }


def consumer_properties(settings: LinkSettings) -> Properties:
    """The properties of a link's consumer."""
    return {
        "check.crcs": False,
        **settings.client,
        "group.id": "fastgw-no-group",  # the client requires one; it never joins and commits nothing
        "enable.auto.commit": False,
        "auto.offset.reset": "latest",
        "fetch.wait.max.ms": settings.fetch_wait_ms,
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 50,
        "isolation.level": "read_committed",
    }


def store_consumer_properties(config: Config, client_id: str) -> Properties:
    """The properties that the consumers of the store share. `client_id` names one, unless the operator does."""
    kafka = config.kafka
    return {
        **client_properties(kafka.bootstrap, {"client.id": client_id, **kafka.client}),
        "group.id": f"{config.gateway.name}.store",  # the client requires one; nothing is committed
        "enable.auto.commit": False,
        "fetch.wait.max.ms": kafka.fetch_wait_ns // NS_PER_MS,
    }


def store_producer_properties(config: Config, client_id: str, timeout_s: float) -> Properties:
    """The properties that the producers of the store share; each record is confirmed or given up within `timeout_s`."""
    kafka = config.kafka
    return {
        **client_properties(kafka.bootstrap, {"client.id": client_id, **kafka.client}),
        "enable.idempotence": True,
        "linger.ms": 0,
        "delivery.timeout.ms": int(timeout_s * 1000),
    }


# Route setting `key_partitioner` -> librdkafka's name. The suffix `_random` is about empty keys: no route sends them.
LIBRDKAFKA_PARTITIONERS: Mapping[str, str] = {
    "crc32": "consistent_random",
    "murmur2": "murmur2_random",
    "fnv1a": "fnv1a_random",
}


def partitioners(routes: Iterable[Route]) -> dict[str, str]:
    """`LinkSettings.partitioners` for these routes. Routes with the same topic have the same partitioner."""
    return {
        route.topic: LIBRDKAFKA_PARTITIONERS[route.key_partitioner]
        for route in routes
        if route.key and route.key_partitioner != "crc32"
    }


OWN_HEADERS_BYTES = 2048  # of a record: names, ids, deadline, and Kafka's own framing


def record_bytes(limits: Limits, routes: Iterable[Route]) -> int:
    """The size of the largest record that a request to one of `routes` can become, with headers and body."""
    # The target is in the record three times: the path, its parameters, and the route's path template. Every route
    # copies headers: those about the body and the trace are always copied (`plain.FORWARDED_ALWAYS`), and a single
    # header may be as long as the limit.
    beside = OWN_HEADERS_BYTES + 3 * limits.max_target_bytes + limits.max_header_bytes
    return max(route.max_body_bytes for route in routes) + beside
