"""The topics that a configuration needs: are they there and fit, and making those that are missing.

Asking Kafka and judging the answer are two steps: `look` brings home plain facts, `judge` is a pure function over
them. The embedded broker has no admin API (it names no controller); there the facts end with the metadata.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, NewPartitions, NewTopic

from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.errors import ConfigError, StartError
from fastgw.ids import PARTITIONS_MAX
from fastgw.kafka import groups
from fastgw.kafka.link import LinkSettings
from fastgw.kafka.properties import client_properties, consumer_properties, producer_properties, record_bytes

REACH_TIMEOUT_S = 5.0
MEET_LOOK_S = 0.05  # between two looks whether all brokers have answered
MEET_AGAIN_S = 1.5  # for which a broker that cannot be reached is tried again
UNRESOLVED = "Failed to resolve"  # as librdkafka says it
# A broker that it knows by number, which it has from a bootstrap address: where that one said that it is.
_ADVERTISED = re.compile(r"(?:[a-z_]+://)?(\S+:\d+)/\d+: (.*)").match
RESPONSE_RETENTION_MS = 3_600_000  # replies are not an archive
REQUEST_PARTITIONS = 4
REPLICATION_MAX = 3
# How many nodes a group is laid out for when its response topic is made: nobody can count nodes that come and go.
GROUP_NODES = 4

GRANT = "grant the user of [kafka.client]"
BROKER_RECORD_BYTES = 1_048_588  # what a topic takes where nothing is set

_SETTINGS = (
    "min.insync.replicas", "cleanup.policy", "retention.ms", "max.message.bytes", "message.timestamp.type",
)  # fmt: skip

Level = Literal["error", "warning"]


class Topic(NamedTuple):
    """What is known about one topic; what could not be asked is None."""

    name: str
    partitions: int  # 0: it does not exist, or may not be seen
    replicas: int | None = None  # of its worst partition
    in_sync: int | None = None  # of its worst partition
    refused: str = ""  # why nothing could be learned of it
    is_forbidden: bool = False  # ... and whether that is for want of a right
    operations: frozenset[str] | None = None  # what we are allowed to do: "READ", "WRITE"
    settings: Mapping[str, str] | None = None


class Met(NamedTuple):
    """What came of speaking with each broker of a cluster."""

    unreachable: Mapping[str, str]  # the address that a broker advertises -> why it cannot be reached there
    creates_topics: bool = False  # a broker says that it creates topics on demand


class Facts(NamedTuple):
    """What a cluster says about the topics of a configuration."""

    brokers: int
    topics: Mapping[str, Topic]
    has_admin: bool  # False: the embedded broker, only metadata could be asked
    met: Met = Met({})
    absences: Mapping[tuple[str, str], str] = {}  # (service_group, topic) -> why nobody takes what is in the topic


class TopicFinding(NamedTuple):
    """One thing that is wrong (the gateway cannot work) or unwise."""

    level: Level
    about: str  # such as "topic orders"
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" + (f"; {self.advice}" if self.advice else "")


class BrokersUnreachable(StartError):
    """A broker answers, but at the addresses that the cluster advertises nobody can be reached. Says what to do."""


@dataclass(frozen=True)
class Findings:
    """The result of an examination."""

    facts: Facts
    found: tuple[TopicFinding, ...]

    @property
    def errors(self) -> list[TopicFinding]:
        return [finding for finding in self.found if finding.level == "error"]

    @property
    def warnings(self) -> list[TopicFinding]:
        return [finding for finding in self.found if finding.level == "warning"]


class Step(NamedTuple):
    """What `create` did about one topic."""

    action: Literal["created", "grew", "exists"]
    topic: str
    partitions: int
    replication: int | None  # None: it was there, see `check`

    def __str__(self) -> str:
        copies = f", replication {self.replication}" if self.replication else ""
        return f"{self.action} {self.topic}: {self.partitions} partitions{copies}"


# --- what is needed --------------------------------------------------------------------------------------------------


def check_client(config: Config) -> None:
    """Let librdkafka judge the properties of [kafka.client]; needs no broker.

    Raises:
        ConfigError: it does not know one, or not its value.
    """
    settings = client_properties("", config.kafka.client)
    del settings["bootstrap.servers"]  # without it the clients have nobody to connect to
    fetch_wait_ms = config.kafka.fetch_wait_ns // NS_PER_MS
    link = LinkSettings(settings, config.gateway.response_topic, [1000], config.kafka.linger_ms,
                        config.kafka.sticky_linger_ms, fetch_wait_ms)  # fmt: skip
    logger = silent_logger()
    try:
        Producer(producer_properties(link, 0), logger=logger)
        Consumer(consumer_properties(link), logger=logger).close()
    except (KafkaException, TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.source}: kafka.client: expected librdkafka properties, got: {_why(error)}"
        ) from None


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


# --- check -----------------------------------------------------------------------------------------------------------


def check(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> list[TopicFinding]:
    """Whether the gateway can work with the topics as they are; the warnings.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`, or a topic is missing or not fit.
    """
    findings = examine(config, timeout_s)
    if findings.errors:
        raise StartError("; ".join(map(str, findings.errors)))
    return findings.warnings


def examine(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> Findings:
    """Everything that can be said about the topics; nothing that is wrong with a topic is raised.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`.
    """
    facts = look(config, timeout_s)
    return Findings(facts, tuple(judge(config, facts)))


def judge(config: Config, facts: Facts) -> Iterator[TopicFinding]:
    """What is wrong or unwise about the brokers and the topics."""
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
    for pair, users in groups_of(config).items():
        if pair in facts.absences:
            yield _judge_absence(pair[0], users, facts.absences[pair])


def _judge_broker(address: str, why: str, facts: Facts) -> TopicFinding:
    # One of several may be restarting just now.
    return _unreachable(address, why, "error" if len(facts.met.unreachable) == facts.brokers else "warning")


def _unreachable(address: str, why: str, level: Level) -> TopicFinding:
    host = address.rpartition(":")[0]
    text = f"expected to reach it at the address that it advertises, got: {why}"
    if UNRESOLVED in why:
        advice = f"correct the broker's advertised.listeners, or have this machine resolve {host}"
        return TopicFinding("error", f"broker {address}", text, advice)
    advice = f"start it; or correct its advertised.listeners, if {address} is no address for this machine"
    return TopicFinding(level, f"broker {address}", text, advice)


def _judge_absence(group: str, users: list[str], why: str) -> TopicFinding:
    # A warning: the service may be started later.
    advice = f"requests to route {_names(users)} get 503 no_consumer until a consumer of this group reads the topic"
    if why.startswith("Kafka does not say"):
        advice = f"{GRANT} DESCRIBE on the group; without it service_group does nothing"
    return TopicFinding("warning", f'service_group "{group}"', why, advice)


def _missing(config: Config, topic: Topic, users: list[str], has_admin: bool) -> TopicFinding:
    who = f"needed by route {_names(users)}" if users else "the response topic"
    if topic.refused:
        text = f"expected to see it ({who}), got: {topic.refused}"
        advice = f"{GRANT} DESCRIBE on it" if topic.is_forbidden else "see what the brokers log about it"
        return TopicFinding("error", f"topic {topic.name}", text, advice)
    count = REQUEST_PARTITIONS if users else recommended_partitions(config)
    command = f"fastgw topics {config.source}" if has_admin else f"fastgw broker {topic.name}:{count}"
    return TopicFinding(
        "error", f"topic {topic.name}", f"expected it to exist ({who}), got no such topic", f"`{command}` creates it"
    )


def _names(users: list[str]) -> str:
    return ", ".join(f'"{user}"' for user in users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")


def _judge_rights(topic: Topic, users: list[str]) -> Iterator[TopicFinding]:
    if topic.operations is None:
        return
    # The gateway writes to its own response topic, too: canaries, and replies that belong to another node.
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
        yield TopicFinding("error", f"topic {topic.name}", text, "bring the brokers with the other replicas back")
    elif topic.replicas is not None and topic.replicas > 1 and topic.replicas == least:
        text = f"min.insync.replicas = {least} of {topic.replicas} replicas: one broker that is down stops every write"
        yield TopicFinding("warning", f"topic {topic.name}", text, f"set it to {least - 1}, or add a replica")


def _judge_response(config: Config, topic: Topic, has_admin: bool) -> Iterator[TopicFinding]:
    needed, wise = processes(config), recommended_partitions(config)
    if topic.partitions < needed:
        text = f"expected at least {needed} partitions, one for each worker, got {topic.partitions}"
        command = f"fastgw topics {config.source}" if has_admin else f"fastgw broker {topic.name}:{wise}"
        yield TopicFinding("error", f"topic {topic.name}", text, f"`{command}` makes enough")
    elif topic.partitions > PARTITIONS_MAX:
        text = f"expected at most {PARTITIONS_MAX} partitions, got {topic.partitions}"
        yield TopicFinding("error", f"topic {topic.name}", text, "take a new topic: no partition can be taken away")
    elif topic.partitions < wise or topic.partitions & (topic.partitions - 1):
        text = f"a power of two is recommended, here at least {wise}"
        yield TopicFinding("warning", f"topic {topic.name}", f"{topic.partitions} partitions", text)
    if "compact" in (topic.settings or {}).get("cleanup.policy", ""):
        text = "cleanup.policy = compact never deletes replies, each has its own key"
        yield TopicFinding("warning", f"topic {topic.name}", text, "set cleanup.policy = delete")


# --- asking Kafka ----------------------------------------------------------------------------------------------------


def look(config: Config, timeout_s: float = REACH_TIMEOUT_S) -> Facts:
    """Facts about every topic of the configuration; a topic that does not exist is not made by asking.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
        StartError: no broker can be reached within `timeout_s`.
    """
    with _admin(config) as (admin, troubles):
        metadata = _metadata(config, admin, troubles, timeout_s)
        names = list(users_of(config))
        has_admin = _has_admin(metadata)
        if not has_admin:
            return Facts(len(metadata.brokers), _from_metadata(metadata, names), has_admin)
        facts = Facts(len(metadata.brokers), {}, has_admin, meet(admin, metadata.brokers.values(), troubles, timeout_s))
        if len(facts.met.unreachable) == facts.brokers:
            away = [str(_judge_broker(address, why, facts)) for address, why in facts.met.unreachable.items()]
            raise BrokersUnreachable(f"kafka.bootstrap = {config.kafka.bootstrap} answers, but {'; '.join(away)}")
        topics = _described(admin, names, timeout_s)
        return facts._replace(topics=topics, absences=_absences(config, admin, topics, timeout_s))


def _absences(config: Config, admin: Any, topics: Mapping[str, Topic], timeout_s: float) -> dict[tuple[str, str], str]:
    absences = {}
    for group, topic in groups_of(config):
        if not topics[topic].partitions:
            continue  # that is said already
        try:
            seen = groups.look(admin, group, timeout_s)
        except KafkaException as error:
            absences[group, topic] = f"Kafka does not say who is there: {_why(error)}"
            continue
        near = () if seen.exists else groups.alike(admin, group, timeout_s)
        if trouble := seen.trouble(topic, near):
            absences[group, topic] = trouble
    return absences


def meet(admin: Any, brokers: Iterable[Any], troubles: Sequence[str], timeout_s: float) -> Met:
    """Speak with each broker at the address that it advertises; one that refuses to answer is reached as well.

    Args:
        admin: an admin client.
        brokers: as they stand in the metadata.
        troubles: what the client's `error_cb` was told, as it grows.
        timeout_s: for all of them together.
    """
    # librdkafka takes only one broker in a request.
    asked = {
        broker: next(
            iter(admin.describe_configs([ConfigResource("broker", str(broker.id))], request_timeout=timeout_s).values())
        )
        for broker in brokers
    }
    began, unreachable = monotonic(), {}
    while True:
        admin.poll(MEET_LOOK_S)  # has the client tell its troubles
        waited_s = monotonic() - began
        silent = {broker: _trouble_with(broker, troubles) for broker, answer in asked.items() if not answer.done()}
        # A trouble may pass at once, with the next attempt; a name that does not resolve hardly does.
        if not any(not why or (waited_s < MEET_AGAIN_S and UNRESOLVED not in why) for why in silent.values()):
            break
        if waited_s > timeout_s:
            break
    creates_topics = False
    for broker, answer in asked.items():
        address = f"{broker.host}:{broker.port}"
        error = answer.exception() if answer.done() else None
        if broker in silent or (error is not None and error.args[0].code() < 0):  # librdkafka's own: no broker's word
            why = _trouble_with(broker, troubles) or (_why(error) if error else f"no answer in {timeout_s:g} s")
            unreachable[address] = why
        elif error is None:
            setting = answer.result().get("auto.create.topics.enable")
            creates_topics = creates_topics or (setting is not None and setting.value == "true")
    return Met(unreachable, creates_topics)


def _trouble_with(broker: Any, troubles: Sequence[str]) -> str:
    """The last trouble with this broker, without its name; empty: none."""
    # "sasl_ssl://kafka-1:9092/1: Failed to resolve 'kafka-1:9092': Name or service not known (after 3ms in state ...)"
    name = f"{broker.host}:{broker.port}/{broker.id}: "
    found = [text.partition(name)[2] for text in troubles if name in text]
    return found[-1].partition(" (after ")[0] if found else ""


@contextmanager
def _admin(config: Config) -> Iterator[tuple[Any, list[str]]]:
    """An admin client, and the list that its troubles are written to."""
    check_client(config)
    troubles: list[str] = []
    settings = client_properties(config.kafka.bootstrap, config.kafka.client)
    settings["error_cb"] = lambda error: troubles.append(error.str())
    admin = AdminClient(settings, logger=silent_logger())
    try:
        yield admin, troubles
    except KafkaException as error:
        raise StartError(f"Kafka at {config.kafka.bootstrap}: expected an answer, got: {_why(error)}") from None


def silent_logger() -> logging.Logger:
    # librdkafka would print every failed attempt to stderr; the one that counts is in our own message.
    logger = logging.getLogger("fastgw.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _why(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return str(cause.str() if hasattr(cause, "str") else cause).rstrip(".").replace("\n", " ")


def _metadata(config: Config, admin: Any, troubles: list[str], timeout_s: float) -> Any:
    try:
        # Never for one topic by name: brokers that create topics on demand would create it.
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)
        why = troubles[0] if troubles else _why(error)
        if advertised := _ADVERTISED(why):  # the bootstrap address has answered, and sent us to nobody
            raise BrokersUnreachable(str(_unreachable(advertised[1], advertised[2], "error"))) from None
        expected = f"expected a broker within {timeout_s:g} s"
        raise StartError(f"kafka.bootstrap = {config.kafka.bootstrap}: {expected}, got: {why}") from None


def _has_admin(metadata: Any) -> bool:
    # The embedded broker names a controller that is none of its brokers; admin calls would wait for it in vain.
    return metadata.controller_id in metadata.brokers


def _from_metadata(metadata: Any, names: Iterable[str]) -> dict[str, Topic]:
    found = {}
    for name in names:
        topic = metadata.topics.get(name)
        found[name] = Topic(name, len(topic.partitions) if topic else 0)
    return found


def _described(admin: Any, names: list[str], timeout_s: float) -> dict[str, Topic]:
    futures = admin.describe_topics(
        TopicCollection(names), include_authorized_operations=True, request_timeout=timeout_s
    )
    found = {}
    for name, future in futures.items():
        try:
            found[name] = _topic(name, future.result())
        except KafkaException as error:
            code = error.args[0].name()
            refused = "" if code == "UNKNOWN_TOPIC_OR_PART" else _why(error)
            found[name] = Topic(name, 0, refused=refused, is_forbidden=code == "TOPIC_AUTHORIZATION_FAILED")
    settings = _settings(admin, [name for name, topic in found.items() if topic.partitions], timeout_s)
    return {name: topic._replace(settings=settings.get(name)) for name, topic in found.items()}


def _topic(name: str, description: Any) -> Topic:
    partitions = description.partitions
    operations = description.authorized_operations
    return Topic(
        name,
        len(partitions),
        replicas=min(len(partition.replicas) for partition in partitions),
        in_sync=min(len(partition.isr) for partition in partitions),
        operations=None if operations is None else frozenset(map(_right, operations)),
    )


def _right(operation: Any) -> str:
    return str(AclOperation(operation).name)


def _settings(admin: Any, names: list[str], timeout_s: float) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource("topic", name) for name in names]
    found = {}
    for resource, future in admin.describe_configs(resources, request_timeout=timeout_s).items():
        try:
            entries = future.result()
        except KafkaException:
            continue  # the right to describe settings is a rare one, and nothing depends on it
        found[resource.name] = {key: entries[key].value for key in _SETTINGS if key in entries}
    return found


# --- create ----------------------------------------------------------------------------------------------------------


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
    with _admin(config) as (admin, troubles):
        metadata = _metadata(config, admin, troubles, timeout_s)
        if not _has_admin(metadata):
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
            raise StartError(f"topic {name}: expected to create it, got: {_why(error)}") from None


def _wait_visible(admin: Any, steps: list[Step], timeout_s: float) -> None:
    """Until the brokers know what the controller did; whoever starts next shall find the topics."""
    ends = monotonic() + timeout_s
    pause = threading.Event()
    while monotonic() < ends:
        topics = admin.list_topics(timeout=timeout_s).topics
        if all(step.topic in topics and len(topics[step.topic].partitions) >= step.partitions for step in steps):
            return
        pause.wait(0.05)
