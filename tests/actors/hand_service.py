"""A service whose every reply is written by the test itself, and a look into a topic from outside."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.waiting import eventually

ANSWER_S = 10.0
NO_LEADER_YET = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}

RecordHeaders = Sequence[tuple[str, bytes | None]]


class Taken(NamedTuple):
    """A request record as a service finds it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]
    partition: int

    @property
    def correlation_id(self) -> bytes:
        return self.headers["correlation_id"]


class HandService:
    """Reads request topics from their present end; replies when and how the test says."""

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        self._consumer = Consumer(_reading(bootstrap))
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "message.max.bytes": 16 << 20})
        ends = [
            TopicPartition(topic, partition, _span(self._consumer, topic, partition)[1])
            for topic in topics
            for partition in _partitions(self._consumer, topic)
        ]
        self._consumer.assign(ends)

    def close(self) -> None:
        self._consumer.close()

    def take(self, value: bytes | None = None) -> Taken:
        """The next request record; the next one with this `value`, if it is given."""
        while True:
            message = _next(self._consumer)
            if value is None or message.value() == value:
                return Taken(
                    message.topic(), message.key(), message.value(), dict(message.headers() or []), message.partition()
                )

    def reply(
        self, request: Taken, value: bytes | None = b"", headers: RecordHeaders = (), key: bytes | None = None
    ) -> None:
        """Replies where the request asks for it; `key` takes the place of the correlation id."""
        self.post(
            request.headers["reply_to"].decode(),
            int(request.headers["reply_partition"]),
            request.correlation_id if key is None else key,
            value,
            headers,
        )

    def post(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None = b"", headers: RecordHeaders = ()
    ) -> None:
        """Writes any record to any topic; it is there on return."""
        failed: list[object] = []
        self._producer.produce(
            topic, value, key, partition, headers=list(headers), on_delivery=lambda error, _: failed.append(error)
        )
        self._producer.flush(ANSWER_S)
        assert failed == [None]


@contextmanager
def hand_service(bootstrap: str, topics: Sequence[str]) -> Iterator[HandService]:
    """A hand service that is closed on the way out."""
    service = HandService(bootstrap, topics)
    try:
        yield service
    finally:
        service.close()


def values_in(bootstrap: str, topic: str) -> list[bytes]:
    """The values of all records that are in a topic now."""
    consumer = Consumer(_reading(bootstrap))
    try:
        spans = {number: _span(consumer, topic, number) for number in _partitions(consumer, topic)}
        there = sum(high - low for low, high in spans.values())
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in spans.items()])
        values: list[bytes] = []
        while len(values) < there:
            values.append(_next(consumer).value())
        return values
    finally:
        consumer.close()


def _next(consumer: Consumer) -> Message:
    # A list of one: a message counts as false when its value is empty.
    (message,) = eventually(lambda: consumer.consume(1, 0.2), ANSWER_S, "a record")
    assert message.error() is None, message.error()
    return message


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return list(consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions)


def _span(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition, and the one behind its last; waits while a new partition still has no leader."""

    def asked() -> tuple[int, int] | None:
        try:
            return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
        except KafkaException as error:
            if error.args[0].retriable() or error.args[0].code() in NO_LEADER_YET:
                return None
            raise

    span = eventually(asked, ANSWER_S, f"partition {partition} of {topic} has a leader")
    assert span is not None
    return span


def _reading(bootstrap: str) -> dict[str, object]:
    return {
        "bootstrap.servers": bootstrap,
        "group.id": f"hand-{secrets.token_hex(4)}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
    }
