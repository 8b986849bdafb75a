"""`[kafka.client]`: the librdkafka properties that an operator may set, and what determines the others.

These properties may be set although they look risky: compression, batch.size and batch.num.messages; socket.timeout.ms
and retry.backoff.* (an outage is noticed later, but outcomes stay true); check.crcs, client.id, client.rack, debug,
log_level, statistics.interval.ms; everything about TLS and SASL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastgw.config.kinds import Kind
from fastgw.config.mistakes import WRONG, Mistake, Mistakes, shown, type_of, under

# What determines the properties that the design depends on; a * stands for any characters.
_OWNERS = {
    "bootstrap.servers": "kafka.bootstrap sets it",
    "metadata.broker.list": "kafka.bootstrap sets it",
    "linger.ms": "kafka.linger sets it",
    "queue.buffering.max.ms": "kafka.linger sets it",
    "sticky.partitioning.linger.ms": "kafka.sticky_linger sets it",
    "fetch.wait.max.ms": "kafka.fetch_wait sets it",
    "delivery.timeout.ms": "the timeout of the routes sets it",
    "message.timeout.ms": "the timeout of the routes sets it",
    "enable.idempotence": "it is always on: a request must not be written twice",
    "enable.gapless.guarantee": "a failed request must not stop others",
    "acks": 'it is always "all": the outcome of a request depends on it',
    "request.required.acks": 'it is always "all": the outcome of a request depends on it',
    "max.in.flight": "idempotence sets it",
    "max.in.flight.requests.per.connection": "idempotence sets it",
    "retries": "idempotence sets it",
    "message.send.max.retries": "idempotence sets it",
    "transactional.id": "the gateway uses no transactions",
    "partitioner": "spread and key of each route set it",
    "group.*": "cluster.mode and cluster.group_id set it",
    "session.timeout.ms": "cluster.session_timeout sets it",
    "heartbeat.interval.ms": "cluster.session_timeout sets it",
    "max.poll.interval.ms": "the gateway sets it",
    "partition.assignment.strategy": "the gateway sets it",
    "auto.offset.reset": "the gateway reads from the end of the response topic",
    "enable.auto.commit": "the gateway commits nothing",
    "enable.auto.offset.store": "the gateway commits nothing",
    "auto.commit.*": "the gateway commits nothing",
    "offset.store.*": "the gateway commits nothing",
    "enable.partition.eof": "the gateway sets it",
    "delivery.report.only.error": "every answer needs the delivery report",
    "allow.auto.create.topics": "it is always off: only `fastgw topics` creates topics, with the right partitions",
    "isolation.level": 'it is always "read_committed": replies of aborted transactions do not count',
    "topic.blacklist": "the gateway must see its topics",
    "topic.metadata.*": "the gateway sets it: it must notice changes of its topics soon",
    "metadata.max.age.ms": "the gateway sets it: it must notice changes of its topics soon",
    "request.timeout.ms": "the timeout of the routes sets it",
    "queue.buffering.max.messages": "gateway.slots sets it",
    "queue.buffering.max.kbytes": "the gateway sets it: it must refuse requests before memory runs out",
    "queuing.strategy": "records with a key must stay in order",
    "fetch.min.bytes": "a reply must not wait for others",
    "fetch.queue.backoff.ms": "the gateway sets it: a reply must not wait",
    "fetch.error.backoff.ms": "the gateway sets it: a reply must not wait",
    "socket.max.fails": "the gateway has to give up unanswered connections",
    "api.version.*": "the gateway needs Kafka 3.0 or later, which reports its supported requests",
    "broker.version.fallback": "the gateway needs Kafka 3.0 or later, which reports its supported requests",
    "enabled_events": "the gateway sets it",
    "log.queue": "the gateway sets it, and writes librdkafka's lines to its own log",
    "internal.termination.signal": "the supervisor handles signals",
    "default.topic.config": "write its properties directly into [kafka.client]",
    "test.mock.*": "use `fastgw broker`",
    "*_cb": "a file cannot contain callbacks",
    "logger": "a file cannot contain callbacks",
}


def owner_of_property(name: str) -> str | None:
    """What determines a property, for the end of a message; None if the operator may set it."""
    for pattern, owner in _OWNERS.items():
        head, star, tail = pattern.partition("*")
        for spelled in (name, name.removeprefix("topic.")):  # librdkafka takes "topic.acks" for "acks"
            if spelled == pattern or (star and spelled.startswith(head) and spelled.endswith(tail)):
                return owner
    return None


_KIND = "a table of librdkafka properties"


def _read(value: Any, path: str) -> dict[str, str | int | float | bool]:
    if not isinstance(value, dict):
        raise Mistake(path, _KIND, type_of(value))
    mistakes = Mistakes()
    for name, item in value.items():
        if item is WRONG:
            mistakes.told_before += 1
            continue
        with mistakes:
            _check_property(name, item, under(path, name))
    mistakes.raise_any()
    return {name: str(item) if isinstance(item, str) else item for name, item in value.items()}


def _check_property(name: str, item: Any, where: str) -> None:
    """Checks one property. Any value may be a secret, so no message contains a value."""
    if isinstance(item, dict):
        # [kafka.client] security.protocol = "SSL" without quotes is TOML for nested tables.
        raise Mistake(where, "a string, number or boolean", "a table", "quote property names that hold dots")
    # The configuration is passed to other processes as JSON, which has no infinity.
    if not isinstance(item, str | int | float | bool) or (isinstance(item, float) and not math.isfinite(item)):
        raise Mistake(where, "a string, number or boolean", type_of(item))
    owner = owner_of_property(name)
    if owner is not None:
        raise Mistake(where, "a property that may be set here", "a property that the gateway controls", owner)


def _show(kept: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{shown(name)}: {shown(item)}" for name, item in kept.items()) + "}"


PROPERTIES = Kind(
    _KIND,
    _read,
    {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    _show,
)
