"""Checks whether the gateway can work with the topics as they are.

Asking Kafka and evaluating the answer are two steps: `look` collects facts, `judge` is a pure function of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaException

from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.errors import StartError
from fastgw.ids import PARTITIONS_MAX
from fastgw.kafka import cluster, groups
from fastgw.kafka.cluster import REACH_TIMEOUT_S, UNRESOLVED, BrokersUnreachable, Met, Topic
from fastgw.kafka.topics import (
    REQUEST_PARTITIONS,
    groups_of,
    kept_ms,
    least_stream_partitions,
    processes,
    recommended_partitions,
    reply_record_bytes,
    stream_partitions,
    users_of,
)

GRANT = "grant the user of [kafka.client]"

Level = Literal["error", "warning"]


class Facts(NamedTuple):
    """The facts about the topics of a configuration."""

    brokers: int
    topics: Mapping[str, Topic]
    has_admin: bool  # False: the embedded broker, which gives only metadata
    met: Met = Met({})
    absences: Mapping[tuple[str, str], str] = {}  # (service_group, topic) -> why the group does not consume the topic


class TopicFinding(NamedTuple):
    """One error (the gateway cannot work) or warning."""

    level: Level
    about: str  # such as "topic orders"
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" + (f"; {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Findings:
    """The result of `examine`."""

    facts: Facts
    found: tuple[TopicFinding, ...]

    @property
    def errors(self) -> list[TopicFinding]:
        return [finding for finding in self.found if finding.level == "error"]

    @property
    def warnings(self) -> list[TopicFinding]:
        return [finding for finding in self.found if finding.level == "warning"]


def check(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> list[TopicFinding]:
    """Check whether the gateway can work with the topics as they are; return the warnings.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`, or a topic is missing or unsuitable.
    """
    findings = examine(config, timeout_s)
    if findings.errors:
        raise StartError("; ".join(map(str, findings.errors)))
    return findings.warnings


def examine(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> Findings:
    """All findings about the topics. Errors of topics are returned, not raised.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`.
    """
    facts = look(config, timeout_s)
    return Findings(facts, tuple(judge(config, facts)))


def judge(config: Config, facts: Facts) -> Iterator[TopicFinding]:
    """The findings about the brokers and the topics."""
    for address, why in facts.met.unreachable.items():
        yield _judge_broker(address, why, facts)
    for name, users in users_of(config).items():
        topic = facts.topics[name]
        if not topic.partitions:
            yield _missing(config, topic, users, facts.has_admin)
            continue
        yield from _judge_rights(topic, users)
        yield from _judge_replication(topic)
        if name == config.gateway.response_topic:
            yield from _judge_response(config, topic, facts.has_admin)
        elif name == config.later.topic:
            yield from _judge_kept(config, topic, facts.has_admin)
        elif name == config.streams.topic:
            yield from _judge_streams(config, topic, facts.has_admin)
    for pair, users in groups_of(config).items():
        if pair in facts.absences:
            yield _judge_absence(pair[0], users, facts.absences[pair])


def _judge_broker(address: str, why: str, facts: Facts) -> TopicFinding:
    text, advice = cluster.unreachable(address, why)
    # One of several brokers may just be restarting. But a name that does not resolve will not fix itself.
    is_error = UNRESOLVED in why or len(facts.met.unreachable) == facts.brokers
    return TopicFinding("error" if is_error else "warning", f"broker {address}", text, advice)


def _judge_absence(group: str, users: list[str], why: str) -> TopicFinding:
    # A warning: the service may be started later.
    advice = f"requests to route {_names(users)} get 503 no_consumer until a consumer of this group reads the topic"
    if why.startswith("Kafka does not describe"):
        advice = f"{GRANT} DESCRIBE on the group; without this right service_group has no effect"
    return TopicFinding("warning", f'service_group "{group}"', why, advice)


def _missing(config: Config, topic: Topic, users: list[str], has_admin: bool) -> TopicFinding:
    who = f"needed by route {_names(users)}" if users else _purpose(config, topic.name)
    if topic.refused:
        text = f"expected to see it ({who}), got: {topic.refused}"
        advice = f"{GRANT} DESCRIBE on it" if topic.is_forbidden else "see what the brokers log about it"
        return TopicFinding("error", f"topic {topic.name}", text, advice)
    count = REQUEST_PARTITIONS
    if not users:
        count = _own_partitions(config, topic.name)
    command = f"fastgw topics {config.source}" if has_admin else f"fastgw broker {topic.name}:{count}"
    return TopicFinding(
        "error", f"topic {topic.name}", f"expected it to exist ({who}), got no such topic", f"`{command}` creates it"
    )


def _purpose(config: Config, topic: str) -> str:
    purposes = {config.later.topic: "the topic of kept replies", config.streams.topic: "the topic of streams"}
    return purposes.get(topic, "the response topic")


def _own_partitions(config: Config, topic: str) -> int:
    """How many partitions one of the gateway's own topics should have."""
    if topic == config.later.topic:
        return config.later.lanes
    return stream_partitions(config) if topic == config.streams.topic else recommended_partitions(config)


def _names(users: list[str]) -> str:
    return ", ".join(f'"{user}"' for user in users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")


def _judge_rights(topic: Topic, users: list[str]) -> Iterator[TopicFinding]:
    if topic.operations is None:
        return
    # The gateway also writes to its response topic: canaries, and replies that belong to another node.
    for right in ("WRITE",) if users else ("READ", "WRITE"):
        if right not in topic.operations:
            text = f"expected the right to {right}, got {_rights(topic.operations)}"
            yield TopicFinding("error", f"topic {topic.name}", text, f"{GRANT} {right} on it")


def _rights(operations: Iterable[str]) -> str:
    return ", ".join(sorted(operations)) or "none"


def _judge_replication(topic: Topic) -> Iterator[TopicFinding]:
    least = int((topic.settings or {}).get("min.insync.replicas", 1))
    if topic.in_sync is not None and topic.in_sync < least:
        text = f"expected min.insync.replicas = {least} in sync, got {topic.in_sync}"
        yield TopicFinding("error", f"topic {topic.name}", text, "start the brokers that have the other replicas")
    elif topic.replicas is not None and topic.replicas > 1 and topic.replicas == least:
        text = f"min.insync.replicas = {least} of {topic.replicas} replicas: if one broker is down, all writes fail"
        yield TopicFinding("warning", f"topic {topic.name}", text, f"set it to {least - 1}, or add a replica")


def _judge_response(config: Config, topic: Topic, has_admin: bool) -> Iterator[TopicFinding]:
    needed, wise = processes(config), recommended_partitions(config)
    if topic.partitions < needed:
        text = f"expected at least {needed} partitions, one for each worker, got {topic.partitions}"
        command = f"fastgw topics {config.source}" if has_admin else f"fastgw broker {topic.name}:{wise}"
        yield TopicFinding("error", f"topic {topic.name}", text, f"`{command}` creates enough")
    elif topic.partitions > PARTITIONS_MAX:
        text = f"expected at most {PARTITIONS_MAX} partitions, got {topic.partitions}"
        yield TopicFinding("error", f"topic {topic.name}", text, "use a new topic: Kafka cannot remove partitions")
    elif topic.partitions < wise or topic.partitions & (topic.partitions - 1):
        text = f"a power of two is recommended, here at least {wise}"
        yield TopicFinding("warning", f"topic {topic.name}", f"{topic.partitions} partitions", text)
    if "compact" in (topic.settings or {}).get("cleanup.policy", ""):
        text = "cleanup.policy = compact never deletes replies, because each reply has its own key"
        yield TopicFinding("warning", f"topic {topic.name}", text, "set cleanup.policy = delete")


def _judge_kept(config: Config, topic: Topic, has_admin: bool) -> Iterator[TopicFinding]:
    """The topic of kept replies. Its partition count, its clock and its retention are part of what is promised."""
    about, lanes = f"topic {topic.name}", config.later.lanes
    if topic.partitions != lanes:
        text = f"expected later.lanes = {lanes} partitions, got {topic.partitions}"
        command = f"`fastgw topics {config.source}`" if has_admin else f"`fastgw broker {topic.name}:{lanes}`"
        advice = f"{command} adds them" if topic.partitions < lanes else "set later.topic to a new name"
        yield TopicFinding("error", about, text, advice)
    settings = topic.settings
    if settings is None:
        if has_admin:
            text = "expected to see its settings, on which status URLs and idempotency keys depend, got none"
            yield TopicFinding("warning", about, text, f"{GRANT} DESCRIBE_CONFIGS on it")
        return
    if settings.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        text = f"expected message.timestamp.type = LogAppendTime, got {settings['message.timestamp.type']}"
        yield TopicFinding("error", about, text, "set it: one clock must order what services and gateways write")
    if "compact" in settings.get("cleanup.policy", ""):
        yield TopicFinding("error", about, "cleanup.policy = compact deletes records that decide", "set it to delete")
    retention_ms, wanted_ms = int(settings.get("retention.ms", "-1")), kept_ms(config)
    if 0 <= retention_ms < wanted_ms:
        text = f"expected retention.ms of at least {wanted_ms}, got {retention_ms}"
        advice = "raise it to later.keep and the longest work_timeout, or replies end before their status URLs"
        yield TopicFinding("warning", about, text, advice)
    yield from _judge_record_size(config, about, settings)


def _judge_streams(config: Config, topic: Topic, has_admin: bool) -> Iterator[TopicFinding]:
    """The topic of streams: each node needs a partition of it, and its records must outlive a slow reader."""
    about, least = f"topic {topic.name}", least_stream_partitions(config)
    if topic.partitions < least:
        text = f"expected at least {least} partitions, one for each node, got {topic.partitions}"
        count = stream_partitions(config)
        command = f"fastgw topics {config.source}" if has_admin else f"fastgw broker {topic.name}:{count}"
        yield TopicFinding("error", about, text, f"`{command}` creates enough")
    settings = topic.settings
    if settings is None:
        return
    if "compact" in settings.get("cleanup.policy", ""):
        text = "cleanup.policy = compact deletes items of streams that have not been read"
        yield TopicFinding("error", about, text, "set it to delete")
    retention_ms, wanted_ms = int(settings.get("retention.ms", "-1")), config.streams.keep_ns // NS_PER_MS
    if 0 <= retention_ms < wanted_ms:
        text = f"expected retention.ms of at least {wanted_ms} (streams.keep), got {retention_ms}"
        yield TopicFinding("warning", about, text, "raise it, or slow clients lose their streams")
    yield from _judge_record_size(config, about, settings)


def _judge_record_size(config: Config, about: str, settings: Mapping[str, str]) -> Iterator[TopicFinding]:
    wanted = reply_record_bytes(config)
    got = int(settings.get("max.message.bytes", wanted))
    if got < wanted:
        text = f"expected max.message.bytes of at least {wanted} (limits.max_reply and headers), got {got}"
        yield TopicFinding("warning", about, text, "raise it, or lower limits.max_reply: Kafka refuses larger replies")


def look(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> Facts:
    """Collect facts about every topic of the configuration. This never creates a topic.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`.
    """
    with cluster.admin_client(config) as (admin, troubles):
        metadata = cluster.metadata_of(config, admin, troubles, timeout_s)
        names = list(users_of(config))
        has_admin = cluster.has_admin(metadata)
        if not has_admin:
            return Facts(len(metadata.brokers), cluster.topics_of(metadata, names), has_admin)
        met = cluster.meet(admin, metadata.brokers.values(), troubles, timeout_s)
        facts = Facts(len(metadata.brokers), {}, has_admin, met)
        if len(facts.met.unreachable) == facts.brokers:
            away = [str(_judge_broker(address, why, facts)) for address, why in facts.met.unreachable.items()]
            raise BrokersUnreachable(f"kafka.bootstrap = {config.kafka.bootstrap} answers, but {'; '.join(away)}")
        topics = cluster.described(admin, names, timeout_s)
        return facts._replace(topics=topics, absences=_absences(config, admin, topics, timeout_s))


def _absences(config: Config, admin: Any, topics: Mapping[str, Topic], timeout_s: float) -> dict[tuple[str, str], str]:
    absences = {}
    for group, topic in groups_of(config):
        if not topics[topic].partitions:
            continue  # the missing topic is already a finding
        try:
            seen = groups.look(admin, group, timeout_s)
        except KafkaException as error:
            absences[group, topic] = f"Kafka does not describe the group: {cluster.reason(error)}"
            continue
        near = () if seen.exists else groups.alike(admin, group, timeout_s)
        if trouble := seen.trouble(topic, near):
            absences[group, topic] = trouble
    return absences
