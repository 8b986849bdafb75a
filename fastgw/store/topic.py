"""What both readers of the store ask of Kafka: which topic it is, and what comes next."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection

from fastgw.config import Config
from fastgw.kafka import cluster

LOOK_TIMEOUT_S = 5.0
NO_TOPIC_ID = bytes(16)  # of brokers without an admin API

_MASK = (1 << 64) - 1  # the two halves of a topic id are signed numbers


def look_up(consumer: Consumer, config: Config, topic: str) -> tuple[bytes, Collection[int]]:
    """The id of a topic, 16 bytes, and its partitions.

    Raises:
        KafkaException: there is no such topic, or Kafka does not say.
    """
    metadata = consumer.list_topics(timeout=LOOK_TIMEOUT_S)
    found = metadata.topics.get(topic)
    if found is None or found.error is not None:
        raise KafkaException(found.error if found else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    return _id_of(config, topic) if cluster.has_admin(metadata) else NO_TOPIC_ID, found.partitions


def _id_of(config: Config, topic: str) -> bytes:
    with cluster.admin_client(config) as (admin, _):
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=LOOK_TIMEOUT_S)
    found = described[topic].result().topic_id
    mixed = (found.get_most_significant_bits() & _MASK) << 64 | (found.get_least_significant_bits() & _MASK)
    return int(mixed).to_bytes(16, "big")


def next_messages(consumer: Consumer, most: int, wait_s: float, gather_s: float = 0.0) -> list[Any]:
    """Wait for a message; give it, and those that have come with it.

    `consume` with a timeout would wait until it has `most` messages, or until the time is over.

    Args:
        most: messages at once.
        wait_s: for the first one.
        gather_s: for more, after the first one.
    """
    first = consumer.poll(wait_s)
    if first is None:
        return []
    if gather_s:
        time.sleep(gather_s)
    return [first, *consumer.consume(most - 1, 0)]
