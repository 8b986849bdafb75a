"""The topics that a configuration needs, and making those that are missing. `topic_checks` judges those that exist."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions, NewTopic

from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.ids import PARTITIONS_MAX
from fastgw.kafka import cluster
from fastgw.kafka.cluster import REACH_TIMEOUT_S
from fastgw.kafka.properties import record_bytes

RESPONSE_RETENTION_MS = 3_600_000  # replies are not an archive
REQUEST_PARTITIONS = 4
REPLICATION_MAX = 3
# How many nodes a group is laid out for when its response topic is made: nobody can count nodes that come and go.
GROUP_NODES = 4
BROKER_RECORD_BYTES = 1_048_588  # what a topic takes where nothing is set


class Step(NamedTuple):
    """What `create` did about one topic."""

    action: Literal["created", "grew", "exists"]
    topic: str
    partitions: int
    replication: int | None  # None: it was there, see `check`

    def __str__(self) -> str:
        copies = f", replication {self.replication}" if self.replication else ""
        return f"{self.action} {self.topic}: {self.partitions} partitions{copies}"


def processes(config: Config) -> int:
    """How many workers at least share the response topic: each needs a partition of its own."""
    nodes = config.cluster.node_count if config.cluster.mode == "static" else 1
    return nodes * config.gateway.workers


def recommended_partitions(config: Config) -> int:
    """Of the response topic: a power of two, four for each worker, so that the load stays even when nodes change."""
    nodes = GROUP_NODES if config.cluster.mode == "group" else 1
    return min(PARTITIONS_MAX, _power_of_two(4 * nodes * processes(config)))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def users_of(config: Config) -> dict[str, list[str]]:
    """Which routes use each topic; the response topic comes first and has none."""
    users: dict[str, list[str]] = {config.gateway.response_topic: []}
    for route in config.routes:
        users.setdefault(route.topic, []).append(route.name)
    return users


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
    """Make the topics that are missing, and add partitions to a response topic that has too few for the workers.

    Request topics are never changed: adding partitions would break the order of keyed records.

    Args:
        partitions: of a request topic.
        response_partitions: of the response topic; None: `recommended_partitions`.
        replication: None: three, or as many as there are brokers.
        progress: told each step when it is done.

    Raises:
        StartError: no broker within `timeout_s`, or Kafka refuses.
    """
    with cluster.admin_client(config) as (admin, troubles):
        metadata = cluster.metadata_of(config, admin, troubles, timeout_s)
        if not cluster.has_admin(metadata):
            got = "the embedded broker; name them when it starts: `fastgw broker NAME:PARTITIONS`"
            raise StartError(
                f"kafka.bootstrap = {config.kafka.bootstrap}: expected a broker that makes topics, got {got}"
            )
        copies = replication or min(REPLICATION_MAX, len(metadata.brokers))
        steps = []
        for name in users_of(config):
            is_response = name == config.gateway.response_topic
            wanted = (response_partitions or recommended_partitions(config)) if is_response else partitions
            present = len(metadata.topics[name].partitions) if name in metadata.topics else 0
            least = max(processes(config), response_partitions or 0) if is_response else 0
            step = _ensure(
                admin, NewTopic(name, wanted, copies, config=_topic_config(config, name)), present, least, timeout_s
            )
            steps.append(step)
            progress(step)
        _wait_visible(admin, steps, timeout_s)
        return steps


def _topic_config(config: Config, name: str) -> dict[str, str]:
    if name == config.gateway.response_topic:
        # Stamped by the broker: with a service's own clock a reply from the future would never be deleted, and brokers
        # refuse records whose time is an hour off.
        return {
            "retention.ms": str(RESPONSE_RETENTION_MS),
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
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
        if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # somebody else was faster, or it could not be seen
            raise StartError(f"topic {name}: expected to create it, got: {cluster.reason(error)}") from None


def _wait_visible(admin: Any, steps: list[Step], timeout_s: float) -> None:
    """Until the brokers know what the controller did; whoever starts next shall find the topics."""
    ends = monotonic() + timeout_s
    pause = threading.Event()
    while monotonic() < ends:
        topics = admin.list_topics(timeout=timeout_s).topics
        if all(step.topic in topics and len(topics[step.topic].partitions) >= step.partitions for step in steps):
            return
        pause.wait(0.05)
