"""librdkafka properties of a service's two clients: fixed ones, defaults, and those of the service's author."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgw.errors import ConfigError

Properties = Mapping[str, str | int | float | bool]

# librdkafka warns about properties of the other client, so the author's properties are split by these prefixes.
CONSUMER_ONLY = (
    "auto.commit.", "auto.offset.", "check.crcs", "coordinator.", "enable.partition.eof", "fetch.", "group.",
    "heartbeat.", "isolation.", "max.partition.fetch.", "max.poll.", "partition.assignment.", "queued.", "session.",
)  # fmt: skip
PRODUCER_ONLY = (
    "acks", "batch.", "compression.", "delivery.", "enable.gapless", "enable.idempotence", "linger.",
    "message.send.", "message.timeout.", "partitioner", "queue.buffering.", "request.required.acks",
    "request.timeout.", "retries", "sticky.", "transaction",
)  # fmt: skip
# What an idempotent producer fixes itself: with other values librdkafka refuses to make one.
FIXED_BY_IDEMPOTENCE = (
    "acks", "enable.idempotence", "max.in.flight", "message.send.max.retries", "request.required.acks", "retries",
)  # fmt: skip
OWNED = {
    "bootstrap.servers": "use Service(bootstrap=...)",
    "group.id": "use Service(group=...)",
    "allow.auto.create.topics": "`fastgw topics` creates topics",
    "enable.auto.commit": "offsets are committed after the replies",
    "enable.auto.offset.store": "offsets are stored after the replies",
}


def check(client: Properties) -> None:
    """Refuses the properties that the service sets itself.

    Raises:
        ConfigError: names the property and the alternative.
    """
    for name in sorted(OWNED.keys() & client.keys()):
        raise ConfigError(f"client property {name!r} cannot be set: {OWNED[name]}")


def consumer_properties(bootstrap: str, topic: str, group: str, client: Properties) -> dict[str, Any]:
    """For the reader of the request topic."""
    ours: dict[str, Any] = {
        "group.id": group,
        "enable.auto.commit": True,
        "enable.auto.offset.store": False,
        "auto.commit.interval.ms": 1000,
        # A new group also reads records that already wait. Expired ones are dropped.
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 10,  # the default of 1000 pauses for a second after each burst
    }
    if client.get("group.protocol") != "consumer":  # KIP-848 forbids these three: the broker decides
        ours |= {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
        }
    return _common(bootstrap, topic) | ours | _without(client, PRODUCER_ONLY)


def producer_properties(bootstrap: str, topic: str, linger_ms: float, client: Properties) -> dict[str, Any]:
    """For the writer of replies.

    Not idempotent on purpose: the gateway recognises duplicate replies, and a producer without idempotence never enters
    the fatal state, so it need not be rebuilt.
    """
    ours = {"linger.ms": linger_ms, "acks": "all"}
    return _common(bootstrap, topic) | ours | _without(client, CONSUMER_ONLY)


def stream_producer_properties(bootstrap: str, topic: str, linger_ms: float, client: Properties) -> dict[str, Any]:
    """For the writer of streams.

    Idempotent, because a retry must neither repeat a record nor put it behind its successor.
    """
    allowed = _without(client, FIXED_BY_IDEMPOTENCE)
    return producer_properties(bootstrap, topic, linger_ms, allowed) | {"enable.idempotence": True}


# Separate from the gateway's clients (`kafka.properties`): a service imports only this package, and only the last two
# properties are the same.
def _common(bootstrap: str, topic: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "client.id": f"{topic}-service",
        # A service must not create a missing or deleted topic: the number of partitions would be wrong.
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": 30_000,  # notices new reply partitions within this time; default: 5 min
    }


def _without(client: Properties, beginnings: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in client.items() if not name.startswith(beginnings)}
