"""Lists the topics that a configuration needs, and creates missing ones. `topic_checks` checks existing topics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions, NewTopic

from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.errors import StartError
from fastgw.ids import PARTITIONS_MAX
from fastgw.kafka import cluster
from fastgw.kafka.cluster import REACH_TIMEOUT_S
from fastgw.kafka.properties import record_bytes

RESPONSE_RETENTION_MS = 3_600_000  # replies are not an archive
SEGMENT_MS = 3_600_000
RECORD_HEADS_BYTES = 64 << 10  # of a reply, besides its body: headers and framing
REQUEST_PARTITIONS = 4
REPLICATION_MAX = 3
# The number of nodes for which a group's response topic is laid out: the real number changes as nodes come and go.
GROUP_NODES = 4
BROKER_RECORD_BYTES = 1_048_588  # Kafka's default max.message.bytes


class Step(NamedTuple):
    """What `create` did with one topic."""

    action: Literal["created", "grew", "exists"]
    topic: str
    partitions: int
    replication: int | None  # None: the topic existed

    def __str__(self) -> str:
        copies = f", replication {self.replication}" if self.replication else ""
        return f"{self.action} {self.topic}: {self.partitions} partitions{copies}"


def processes(config: Config) -> int:
    """The least number of workers that share the response topic; each needs a partition of its own."""
    nodes = config.cluster.node_count if config.cluster.mode == "static" else 1
    return nodes * config.gateway.workers


def recommended_partitions(config: Config) -> int:
    """For the response topic: a power of two, four per worker, so that the load stays even when nodes change."""
    nodes = GROUP_NODES if config.cluster.mode == "group" else 1
    return min(PARTITIONS_MAX, _power_of_two(4 * nodes * processes(config)))


def least_stream_partitions(config: Config) -> int:
    """For the topic of streams: one for each node at least. A node that owns none cannot stream."""
    return config.cluster.node_count if config.cluster.mode == "static" else 1


def stream_partitions(config: Config) -> int:
    """For the topic of streams: as for the response topic, because the owners of that one own this one, too."""
    return recommended_partitions(config)


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def users_of(config: Config) -> dict[str, list[str]]:
    """Which routes use each topic; the gateway's own topics come first and have none."""
    users: dict[str, list[str]] = {topic: [] for topic in own_topics(config)}
    for route in config.routes:
        users.setdefault(route.topic, []).append(route.name)
    return users


def own_topics(config: Config) -> list[str]:
    """The topics that the gateway reads: the response topic, and those of kept replies and streams if needed."""
    kept = [config.later.topic] if config.keeps_replies else []
    return [config.gateway.response_topic, *kept, *([config.streams.topic] if config.has_streams else [])]


def reply_record_bytes(config: Config) -> int:
    """The `max.message.bytes` with which a topic takes the largest reply."""
    return max(BROKER_RECORD_BYTES, config.limits.max_reply_bytes + RECORD_HEADS_BYTES)


def kept_ms(config: Config) -> int:
    """Retention of the topic of kept replies: a reply is kept for `later.keep`, counted from the end of the work."""
    return (config.later.keep_ns + config.longest_work_ns) // NS_PER_MS + RESPONSE_RETENTION_MS


def groups_of(config: Config) -> dict[tuple[str, str], list[str]]:
    """The routes that name their service's consumer group, by (group, topic)."""
    users: dict[tuple[str, str], list[str]] = {}
    for route in config.routes:
        if route.service_group:
            users.setdefault((route.service_group, route.topic), []).append(route.name)
    return users


def create(
    config: Config,
    *,
    partitions: int = REQUEST_PARTITIONS,
    response_partitions: int | None = None,
    replication: int | None = None,
    progress: Callable[[Step], object] = repr,
    timeout_s: float = REACH_TIMEOUT_S,
) -> list[Step]:
    """Create missing topics, and add partitions to a response topic that has too few for the workers.

    Existing request topics are never changed: more partitions would break the order of records with a key.

    Args:
        partitions: for a request topic.
        response_partitions: for the response topic; None: `recommended_partitions`.
        replication: None: three, or the number of brokers if there are fewer.
        progress: called after each step.

    Raises:
        StartError: no broker answers within `timeout_s`, or Kafka refuses.
    """
    with cluster.admin_client(config) as (admin, troubles):
        metadata = cluster.metadata_of(config, admin, troubles, timeout_s)
        if not cluster.has_admin(metadata):
            got = "the embedded broker; name its topics when you start it: `fastgw broker NAME:PARTITIONS`"
            raise StartError(
                f"kafka.bootstrap = {config.kafka.bootstrap}: expected a broker that creates topics, got {got}"
            )
        copies = replication or min(REPLICATION_MAX, len(metadata.brokers))
        steps = []
        for name in users_of(config):
            wanted, least = partitions, 0
            if name == config.gateway.response_topic:
                wanted = response_partitions or recommended_partitions(config)
                least = max(processes(config), response_partitions or 0)
            elif name == config.later.topic:
                wanted = least = config.later.lanes
            elif name == config.streams.topic:
                wanted, least = stream_partitions(config), least_stream_partitions(config)
            present = len(metadata.topics[name].partitions) if name in metadata.topics else 0
            step = _ensure(
                admin, NewTopic(name, wanted, copies, config=_topic_config(config, name)), present, least, timeout_s
            )
            steps.append(step)
            progress(step)
        _wait_visible(admin, steps, timeout_s)
        return steps


def _topic_config(config: Config, name: str) -> dict[str, str]:
    if name == config.gateway.response_topic:
        # The broker sets the timestamps. With a service's own clock, a reply with a future timestamp would never be
        # deleted, and brokers refuse records whose timestamp is an hour off.
        return {
            "retention.ms": str(RESPONSE_RETENTION_MS),
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
        }
    if name == config.later.topic:
        return {
            "retention.ms": str(kept_ms(config)),
            "segment.ms": str(SEGMENT_MS),  # a segment is deleted as a whole, so a large one would be kept for longer
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",  # one clock orders what all nodes and services write
            "max.message.bytes": str(reply_record_bytes(config)),
        }
    if name == config.streams.topic:
        return {
            "retention.ms": str(config.streams.keep_ns // NS_PER_MS),
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(reply_record_bytes(config)),
        }
    needed = record_bytes(config.limits, [route for route in config.routes if route.topic == name])
    return {"max.message.bytes": str(needed)} if needed > BROKER_RECORD_BYTES else {}


def _ensure(admin: Any, wanted: Any, present: int, least: int, timeout_s: float) -> Step:
    if present >= max(1, least):
        return Step("exists", wanted.topic, present, None)
    if present:
        count = max(wanted.num_partitions, least)
        futures = admin.create_partitions([NewPartitions(wanted.topic, count)], request_timeout=timeout_s)
        _done(wanted.topic, futures[wanted.topic])
        return Step("grew", wanted.topic, count, None)
    _done(wanted.topic, admin.create_topics([wanted], request_timeout=timeout_s)[wanted.topic])
    return Step("created", wanted.topic, wanted.num_partitions, wanted.replication_factor)


def _done(name: str, future: Any) -> None:
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # another process was faster, or the user could not see it
            raise StartError(f"topic {name}: expected to create it, got: {cluster.reason(error)}") from None


def _wait_visible(admin: Any, steps: list[Step], timeout_s: float) -> None:
    """Wait until the brokers know the topics, so that a gateway that starts next finds them."""
    ends = monotonic() + timeout_s
    pause = threading.Event()
    while monotonic() < ends:
        topics = admin.list_topics(timeout=timeout_s).topics
        if all(step.topic in topics and len(topics[step.topic].partitions) >= step.partitions for step in steps):
            return
        pause.wait(0.05)
