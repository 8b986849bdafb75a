"""Facts about a live Kafka cluster: brokers and their releases, topics, the traffic on the response topic.

`topic_checks` says whether the gateway can start with a cluster. This module collects more, for `fastgw doctor`. It
changes nothing: it sends queries, and it reads the end of the response topic.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient

from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.kafka import cluster, topic_checks
from fastgw.kafka.link import FROM_END, LinkSettings
from fastgw.kafka.properties import client_properties, consumer_properties
from fastgw.kafka.topic_checks import Findings

ASK_TIMEOUT_S = 5.0
WATCH_S = 3.0  # canaries come every second
EMBEDDED = "embedded"  # instead of a release
UNKNOWN = "unknown"  # instead of a release, for a broker that did not answer

# Brokers do not report their release, but the requests that they support identify it. Each row: a request, its version,
# and the first release that supports that version; newest first.
_RELEASES = (
    ("Fetch", 18, "4.1"),
    ("Produce", 12, "4.0"),
    ("Fetch", 17, "3.9"),
    ("Fetch", 16, "3.7"),
    ("Fetch", 15, "3.5"),
    ("Fetch", 13, "3.1"),
    ("ListOffsets", 7, "3.0"),
)
# librdkafka writes the protocol before a broker's name, unless it is plaintext.
_API_LINE = re.compile(r"(?:\w+://)?([^\s/]+:\d+)/\w+:\s+ApiKey (\w+) \(\d+\) Versions \d+\.\.(\d+)")

Apis = Mapping[str, int]  # name of a request -> its highest supported version


class Broker(NamedTuple):
    """One broker. `release` is the oldest Kafka release with the same requests; empty if it is older than 3.0."""

    number: int
    address: str
    release: str


class Group(NamedTuple):
    """The consumer group of the nodes. With `cluster.mode = "static"` it only keeps positions, and has no members."""

    nodes: int
    may_read: bool | None  # None: the broker does not say


class Traffic(NamedTuple):
    """The records on the response topic while it was watched."""

    watched_s: float
    records: int
    by_broker: bool  # the timestamps are the broker's (LogAppendTime), not the producers'
    # Age of the records on arrival, by our clock; negative: from the future. Without records: infinity and -infinity.
    youngest_ms: float
    oldest_ms: float


class Survey(NamedTuple):
    """All facts about the cluster; None where the query was not possible."""

    findings: Findings
    brokers: Sequence[Broker]
    group: Group | None
    traffic: Traffic | None


def survey(config: Config, watch_s: float = WATCH_S) -> Survey:
    """Look at the cluster and watch the response topic for `watch_s` seconds.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached, or Kafka became unreachable during the survey.
    """
    try:
        return _survey(config, watch_s)
    except KafkaException as error:  # any failure of a client during the survey
        raise StartError(f"Kafka at {config.kafka.bootstrap}: expected an answer, got: {error.args[0].str()}") from None


def _survey(config: Config, watch_s: float) -> Survey:
    findings = topic_checks.examine(config, ASK_TIMEOUT_S)
    partitions = findings.facts.topics[config.gateway.response_topic].partitions
    return Survey(
        findings,
        look_at_brokers(config, findings.facts.has_admin),
        _group(config) if findings.facts.has_admin and config.cluster.mode != "single" else None,
        watch(config, partitions, watch_s) if partitions else None,
    )


def _client(config: Config, more: Mapping[str, Any]) -> dict[str, Any]:
    return {**client_properties(config.kafka.bootstrap, config.kafka.client), **more}


# --- brokers ---------------------------------------------------------------------------------------------------------


class _Apis(logging.Handler):
    """Collects from librdkafka's debug lines which requests each broker supports; there is no other source."""

    def __init__(self) -> None:
        super().__init__()
        self.by_address: dict[str, dict[str, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if found := _API_LINE.search(record.getMessage()):
            self.by_address.setdefault(found[1], {})[found[2]] = int(found[3])


def look_at_brokers(config: Config, has_admin: bool) -> list[Broker]:
    """Every broker of the cluster with its release."""
    apis = _Apis()
    logger = logging.Logger("fastgw.survey", logging.DEBUG)  # has no parent, so nothing is printed
    logger.addHandler(apis)
    admin = AdminClient(_client(config, {"debug": "feature", "log_level": 7}), logger=logger)
    try:
        found = admin.list_topics(timeout=ASK_TIMEOUT_S).brokers.values()
    except KafkaException:
        return []  # it answered a moment ago: the next run will show what happened
    if has_admin:
        cluster.meet(admin, found, (), ASK_TIMEOUT_S)
    admin.poll(0.1)
    return [
        Broker(broker.id, address, release(apis.by_address.get(address, {})) if has_admin else EMBEDDED)
        for broker in found
        for address in [f"{broker.host}:{broker.port}"]
    ]


def release(apis: Apis) -> str:
    """The oldest release that supports these requests; empty before 3.0."""
    if not apis:
        return UNKNOWN
    return next((name for request, version, name in _RELEASES if apis.get(request, 0) >= version), "")


# --- the group of the nodes ------------------------------------------------------------------------------------------


def _group(config: Config) -> Group | None:
    admin = AdminClient(_client(config, {}), logger=cluster.silent_logger())
    name = config.cluster.group_id or config.gateway.name
    (future,) = admin.describe_consumer_groups(
        [name], include_authorized_operations=True, request_timeout=ASK_TIMEOUT_S
    ).values()
    try:
        described = future.result()  # librdkafka limits the time
    except KafkaException as error:
        refused = error.args[0].name() == "GROUP_AUTHORIZATION_FAILED"
        return Group(0, False) if refused else None
    operations = described.authorized_operations
    may_read = None if operations is None else AclOperation.READ in map(AclOperation, operations)
    return Group(len(described.members), may_read)


# --- the response topic ----------------------------------------------------------------------------------------------


def watch(config: Config, partitions: int, watch_s: float) -> Traffic:
    """Read new records from every partition, without joining a group or committing offsets."""
    topic = config.gateway.response_topic
    properties = consumer_properties(LinkSettings(_client(config, {}), topic, [], fetch_wait_ms=10))
    consumer = Consumer(properties, logger=cluster.silent_logger())
    records, by_broker, youngest_ms, oldest_ms = 0, False, inf, -inf
    try:
        consumer.assign(_ends(consumer, topic, partitions))
        ends_at = time.monotonic() + watch_s
        while (left_s := ends_at - time.monotonic()) > 0:
            message = consumer.poll(left_s)
            if message is None or message.error():
                continue
            kind, stamp_ms = message.timestamp()
            age_ms = time.time() * 1000 - stamp_ms
            records, by_broker = records + 1, kind == TIMESTAMP_LOG_APPEND_TIME
            youngest_ms, oldest_ms = min(youngest_ms, age_ms), max(oldest_ms, age_ms)
    finally:
        consumer.close()
    return Traffic(watch_s, records, by_broker, youngest_ms, oldest_ms)


def _ends(consumer: Any, topic: str, partitions: int) -> list[Any]:
    """The current end offset of every partition. librdkafka would resolve "at the end" later, to a later offset."""
    everything = [TopicPartition(topic, number, FROM_END) for number in range(partitions)]
    try:
        # ListOffsets takes this in place of a timestamp: one round trip for all.
        found = consumer.offsets_for_times(everything, timeout=ASK_TIMEOUT_S)
    except KafkaException:
        return everything
    return [one if one.error is None and one.offset >= 0 else everything[one.partition] for one in found]
