"""What a Kafka cluster says: its brokers, its topics, and whether each broker can be reached where it says it is.

Facts only; `topic_checks` judges them. The embedded broker has no admin API (it names no controller); there the facts
end with the metadata.
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
MEET_LOOK_S = 0.05  # between two looks whether all brokers have answered
MEET_AGAIN_S = 1.5  # for which a broker that cannot be reached is tried again
UNRESOLVED = "Failed to resolve"  # as librdkafka says it
# A broker that it knows by number, which it has from a bootstrap address: where that one said that it is.
_ADVERTISED = re.compile(r"(?:[a-z_]+://)?(\S+:\d+)/\d+: (.*)").match

_SETTINGS = (
    "min.insync.replicas", "cleanup.policy", "retention.ms", "max.message.bytes", "message.timestamp.type",
)  # fmt: skip


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
    """What a cluster says when each of its brokers is spoken to."""

    unreachable: Mapping[str, str]  # the address that a broker advertises -> why it cannot be reached there
    creates_topics: bool = False  # a broker says that it creates topics on demand


class BrokersUnreachable(StartError):
    """A broker answers, but at the addresses that the cluster advertises nobody can be reached. Says what to do."""


def unreachable(address: str, why: str) -> tuple[str, str]:
    """What is wrong with a broker that cannot be reached at `address`, and what to do about it."""
    host = address.rpartition(":")[0]
    text = f"expected to reach it at the address that it advertises, got: {why}"
    if UNRESOLVED in why:
        return text, f"correct the broker's advertised.listeners, or have this machine resolve {host}"
    return text, f"start it; or correct its advertised.listeners, if {address} is no address for this machine"


def check_client(config: Config) -> None:
    """Let librdkafka judge the properties of [kafka.client]; needs no broker.

    Raises:
        ConfigError: it does not know one, or not its value.
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
    """An admin client, and the list that its troubles are written to."""
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
    """For clients whose errors come another way."""
    # librdkafka would print every failed attempt to stderr; the one that counts is in our own message.
    logger = logging.getLogger("fastgw.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def reason(error: Exception) -> str:
    """The text of a Kafka client's exception, in one line."""
    cause = error.args[0] if error.args else error
    return str(cause.str() if hasattr(cause, "str") else cause).rstrip(".").replace("\n", " ")


def metadata_of(config: Config, admin: Any, troubles: Sequence[str], timeout_s: float) -> Any:
    """The cluster's metadata, as confluent-kafka gives it.

    Raises:
        StartError: no broker can be reached within `timeout_s`.
    """
    try:
        # Never for one topic by name: brokers that create topics on demand would create it.
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)
        why = troubles[0] if troubles else reason(error)
        if advertised := _ADVERTISED(why):  # the bootstrap address has answered, and sent us to nobody
            text, advice = unreachable(advertised[1], advertised[2])
            raise BrokersUnreachable(f"broker {advertised[1]}: {text}; {advice}") from None
        expected = f"expected a broker within {timeout_s:g} s"
        raise StartError(f"kafka.bootstrap = {config.kafka.bootstrap}: {expected}, got: {why}") from None


def has_admin(metadata: Any) -> bool:
    """Whether the cluster can be asked for more than its metadata."""
    # The embedded broker names a controller that is none of its brokers; admin calls would wait for it in vain.
    return metadata.controller_id in metadata.brokers


def meet(admin: Any, brokers: Iterable[Any], troubles: Sequence[str], timeout_s: float) -> Met:
    """Speak with each broker at the address that it advertises; one that refuses to answer is reached as well.

    Args:
        admin: an admin client.
        brokers: as they stand in the metadata.
        troubles: what the client's `error_cb` was told, as it grows.
        timeout_s: for all of them together.
    """
    asked = {broker: _asked_for_settings(admin, broker, timeout_s) for broker in brokers}
    silent = _wait_for_answers(admin, asked, troubles, timeout_s)
    away, creates_topics = {}, False
    for broker, answer in asked.items():
        error = answer.exception() if answer.done() else None
        if broker in silent or (error is not None and error.args[0].code() < 0):  # librdkafka's own: no broker's word
            why = _trouble_with(broker, troubles) or (reason(error) if error else f"no answer in {timeout_s:g} s")
            away[f"{broker.host}:{broker.port}"] = why
        elif error is None:
            setting = answer.result().get("auto.create.topics.enable")
            creates_topics = creates_topics or (setting is not None and setting.value == "true")
    return Met(away, creates_topics)


def _asked_for_settings(admin: Any, broker: Any, timeout_s: float) -> Any:
    # librdkafka takes only one broker in a request.
    (answer,) = admin.describe_configs([ConfigResource("broker", str(broker.id))], request_timeout=timeout_s).values()
    return answer


def _wait_for_answers(
    admin: Any, asked: Mapping[Any, Any], troubles: Sequence[str], timeout_s: float
) -> Collection[Any]:
    """The brokers that have not answered."""
    began = monotonic()
    while True:
        admin.poll(MEET_LOOK_S)  # has the client tell its troubles
        waited_s = monotonic() - began
        silent = {broker: _trouble_with(broker, troubles) for broker, answer in asked.items() if not answer.done()}
        # A trouble may pass at once, with the next attempt; a name that does not resolve hardly does.
        may_pass = any(not why or (waited_s < MEET_AGAIN_S and UNRESOLVED not in why) for why in silent.values())
        if not may_pass or waited_s > timeout_s:
            return silent.keys()


def _trouble_with(broker: Any, troubles: Sequence[str]) -> str:
    """The last trouble with this broker, without its name; empty: none."""
    # "sasl_ssl://kafka-1:9092/1: Failed to resolve 'kafka-1:9092': Name or service not known (after 3ms in state ...)"
    name = f"{broker.host}:{broker.port}/{broker.id}: "
    found = [text.partition(name)[2] for text in troubles if name in text]
    return found[-1].partition(" (after ")[0] if found else ""


def topics_of(metadata: Any, names: Iterable[str]) -> dict[str, Topic]:
    """What the metadata alone says about these topics."""
    found = {}
    for name in names:
        topic = metadata.topics.get(name)
        found[name] = Topic(name, len(topic.partitions) if topic else 0)
    return found


def described(admin: Any, names: list[str], timeout_s: float) -> dict[str, Topic]:
    """Everything that the cluster says about these topics."""
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
            continue  # the right to describe settings is a rare one, and nothing depends on it
        found[resource.name] = {key: entries[key].value for key in _SETTINGS if key in entries}
    return found
