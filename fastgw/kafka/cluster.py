"""Asks a Kafka cluster for its brokers and topics, and checks whether each advertised address can be reached.

This module collects facts; `topic_checks` evaluates them. The embedded broker has no admin API, so for it there is only
the metadata.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource

from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.errors import ConfigError, StartError
from fastgw.kafka.link import LinkSettings
from fastgw.kafka.properties import client_properties, consumer_properties, producer_properties

REACH_TIMEOUT_S = 5.0
MEET_LOOK_S = 0.05  # pause between two checks whether all brokers have answered
MEET_AGAIN_S = 1.5  # how long to retry a broker that cannot be reached
EMBEDDED_CLUSTER = "mockCluster"  # how the ids of librdkafka's mock clusters begin
UNRESOLVED = "Failed to resolve"  # part of librdkafka's error text
# librdkafka's error about an advertised address. It contains the broker's id, which bootstrap addresses do not have.
_ADVERTISED = re.compile(r"(?:[a-z_]+://)?(\S+:\d+)/\d+: (.*)").match

_SETTINGS = (
    "min.insync.replicas", "cleanup.policy", "retention.ms", "max.message.bytes", "message.timestamp.type",
)  # fmt: skip


class Topic(NamedTuple):
    """The facts about one topic. None: not known."""

    name: str
    partitions: int  # 0: it does not exist, or the user may not see it
    replicas: int | None = None  # the smallest number that a partition has
    in_sync: int | None = None  # the smallest number that a partition has
    refused: str = ""  # Kafka's error when the topic could not be described
    is_forbidden: bool = False  # whether that error is a missing right
    operations: frozenset[str] | None = None  # what the user may do: "READ", "WRITE"
    settings: Mapping[str, str] | None = None


class Met(NamedTuple):
    """The result of contacting each broker of a cluster."""

    unreachable: Mapping[str, str]  # advertised address of a broker -> why it cannot be reached there
    creates_topics: bool = False  # a broker has auto.create.topics.enable


class BrokersUnreachable(StartError):
    """The bootstrap address answers, but no broker can be reached at its advertised address. Says what to do."""


def unreachable(address: str, why: str) -> tuple[str, str]:
    """The error text for a broker that cannot be reached at `address`, and the remedy."""
    host = address.rpartition(":")[0]
    text = f"expected to reach it at the address that it advertises, got: {why}"
    if UNRESOLVED in why:
        return text, f"correct the broker's advertised.listeners, or make {host} resolvable on this machine"
    return text, f"start it; or correct its advertised.listeners if this machine cannot use {address}"


def check_client(config: Config) -> None:
    """Let librdkafka check the properties of [kafka.client]. Needs no broker.

    Raises:
        ConfigError: librdkafka does not know a property, or refuses its value.
    """
    client = client_properties("", config.kafka.client)
    del client["bootstrap.servers"]  # without it the clients have no broker to connect to
    fetch_wait_ms = config.kafka.fetch_wait_ns // NS_PER_MS
    settings = LinkSettings(client, config.gateway.response_topic, [1000], config.kafka.linger_ms,
                            config.kafka.sticky_linger_ms, fetch_wait_ms)  # fmt: skip
    logger = silent_logger()
    try:
        Producer(producer_properties(settings, 0), logger=logger)
        Consumer(consumer_properties(settings), logger=logger).close()
    except (KafkaException, TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.source}: kafka.client: expected librdkafka properties, got: {reason(error)}"
        ) from None


@contextmanager
def admin_client(config: Config) -> Iterator[tuple[Any, list[str]]]:
    """An admin client, and a list to which its errors are appended."""
    check_client(config)
    troubles: list[str] = []
    properties = client_properties(config.kafka.bootstrap, config.kafka.client)
    properties["error_cb"] = lambda error: troubles.append(error.str())
    admin = AdminClient(properties, logger=silent_logger())
    try:
        yield admin, troubles
    except KafkaException as error:
        raise StartError(f"Kafka at {config.kafka.bootstrap}: expected an answer, got: {reason(error)}") from None


def silent_logger() -> logging.Logger:
    """A logger that discards everything, for clients whose errors are reported in another way."""
    # Without it librdkafka prints every failed attempt to stderr.
    logger = logging.getLogger("fastgw.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def reason(error: Exception) -> str:
    """The text of a Kafka client's exception, on one line."""
    cause = error.args[0] if error.args else error
    return str(cause.str() if hasattr(cause, "str") else cause).rstrip(".").replace("\n", " ")


def metadata_of(config: Config, admin: Any, troubles: Sequence[str], timeout_s: float) -> Any:
    """The cluster's metadata, as confluent-kafka gives it.

    Raises:
        StartError: no broker can be reached within `timeout_s`.
    """
    try:
        # Never ask for a topic by name: a broker with auto.create.topics.enable would create it.
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)
        why = troubles[0] if troubles else reason(error)
        if advertised := _ADVERTISED(why):  # the bootstrap address answered, the advertised one did not
            text, advice = unreachable(advertised[1], advertised[2])
            raise BrokersUnreachable(f"broker {advertised[1]}: {text}; {advice}") from None
        expected = f"expected a broker within {timeout_s:g} s"
        raise StartError(f"kafka.bootstrap = {config.kafka.bootstrap}: {expected}, got: {why}") from None


def has_admin(metadata: Any) -> bool:
    """Whether the cluster can be asked for more than its metadata: the embedded broker cannot."""
    # Not by the controller: a cluster that elects one has none for a moment.
    return not (metadata.cluster_id or "").startswith(EMBEDDED_CLUSTER)


def meet(admin: Any, brokers: Iterable[Any], troubles: Sequence[str], timeout_s: float) -> Met:
    """Contact each broker at its advertised address. A broker that answers with an error counts as reached.

    Args:
        admin: an admin client.
        brokers: the brokers of the metadata.
        troubles: the list to which the client's `error_cb` appends; it grows during this call.
        timeout_s: for all brokers together.
    """
    asked = {broker: _asked_for_settings(admin, broker, timeout_s) for broker in brokers}
    silent = _wait_for_answers(admin, asked, troubles, timeout_s)
    away, creates_topics = {}, False
    for broker, answer in asked.items():
        error = answer.exception() if answer.done() else None
        if broker in silent or (error is not None and error.args[0].code() < 0):  # librdkafka's own error
            why = _trouble_with(broker, troubles) or (reason(error) if error else f"no answer in {timeout_s:g} s")
            away[f"{broker.host}:{broker.port}"] = why
        elif error is None:
            setting = answer.result().get("auto.create.topics.enable")
            creates_topics = creates_topics or (setting is not None and setting.value == "true")
    return Met(away, creates_topics)


def _asked_for_settings(admin: Any, broker: Any, timeout_s: float) -> Any:
    # librdkafka allows only one broker per request.
    (answer,) = admin.describe_configs([ConfigResource("broker", str(broker.id))], request_timeout=timeout_s).values()
    return answer


def _wait_for_answers(
    admin: Any, asked: Mapping[Any, Any], troubles: Sequence[str], timeout_s: float
) -> Collection[Any]:
    """The brokers that have not answered."""
    began = monotonic()
    while True:
        admin.poll(MEET_LOOK_S)  # calls `error_cb`
        waited_s = monotonic() - began
        silent = {broker: _trouble_with(broker, troubles) for broker, answer in asked.items() if not answer.done()}
        # The next attempt may succeed, but hardly if the name does not resolve.
        may_pass = any(not why or (waited_s < MEET_AGAIN_S and UNRESOLVED not in why) for why in silent.values())
        if not may_pass or waited_s > timeout_s:
            return silent.keys()


def _trouble_with(broker: Any, troubles: Sequence[str]) -> str:
    """The last error about this broker, without its name; empty: none."""
    # "sasl_ssl://kafka-1:9092/1: Failed to resolve 'kafka-1:9092': Name or service not known (after 3ms in state ...)"
    name = f"{broker.host}:{broker.port}/{broker.id}: "
    found = [text.partition(name)[2] for text in troubles if name in text]
    return found[-1].partition(" (after ")[0] if found else ""


def topics_of(metadata: Any, names: Iterable[str]) -> dict[str, Topic]:
    """The facts about these topics that the metadata contains."""
    found = {}
    for name in names:
        topic = metadata.topics.get(name)
        found[name] = Topic(name, len(topic.partitions) if topic else 0)
    return found


def described(admin: Any, names: list[str], timeout_s: float) -> dict[str, Topic]:
    """All facts about these topics."""
    futures = admin.describe_topics(
        TopicCollection(names), include_authorized_operations=True, request_timeout=timeout_s
    )
    found = {}
    for name, future in futures.items():
        try:
            found[name] = _topic(name, future.result())
        except KafkaException as error:
            code = error.args[0].name()
            refused = "" if code == "UNKNOWN_TOPIC_OR_PART" else reason(error)
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
            continue  # few users have the right DESCRIBE_CONFIGS, and the settings are optional
        found[resource.name] = {key: entries[key].value for key in _SETTINGS if key in entries}
    return found
