"""The evidence about idempotency keys that comes from Kafka: the lanes as a store reads them, and the records sent."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from confluent_kafka import Consumer, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from fastgw.core import idempotency
from fastgw.dialects import control, plain
from fastgw.dialects.control import BadControl, Claim, Control, Released
from fastgw.messages import Reply
from fastgw.store.lane import Grade, GradedReply
from fastgw.tokens import Secrets
from tests.faults.key_oracle import Sent, Written

AT_ONCE = 1000
READ_S = 5.0
NO_STARTS: Mapping[int, int] = MappingProxyType({})


def ends_of(bootstrap: str, topic: str) -> dict[int, int]:
    """Where each partition of a topic ends now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "oracle"})
    try:
        partitions = consumer.list_topics(topic, timeout=READ_S).topics[topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=READ_S)[1]
            for number in partitions
        }
    finally:
        consumer.close()


def read_all(bootstrap: str, topic: str, starts: Mapping[int, int] = NO_STARTS) -> list[Message]:
    """Every record of a topic, those of one partition in order, from these offsets on or from the beginning."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"oracle-{secrets.token_hex(4)}", "enable.partition.eof": True}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, starts.get(number, 0)) for number in partitions])
        found: list[Message] = []
        ended: set[int] = set()
        while len(ended) < len(partitions):
            for message in consumer.consume(AT_ONCE, READ_S):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
        return found
    finally:
        consumer.close()


def id_of(admin: AdminClient, topic: str) -> bytes:
    """The 16 bytes of a topic's id."""
    found = admin.describe_topics(TopicCollection([topic]))[topic].result().topic_id
    halves = found.get_most_significant_bits(), found.get_least_significant_bits()
    return b"".join((half % (1 << 64)).to_bytes(8, "big") for half in halves)


def lanes_of(
    bootstrap: str, later: str, secret: str, topic_ids: Sequence[bytes], starts: Mapping[int, int] = NO_STARTS
) -> dict[int, list[Written]]:
    """All records of the lanes, by partition.

    Args:
        topic_ids: of the topic, and of those before it with the same name. A node that does not know yet that the
            topic was made anew writes for a former one, and no node takes that.
    """
    lanes: dict[int, list[Written]] = {}
    for message in read_all(bootstrap, later, starts):
        reply, appended_ms = plain.decode_reply(message), message.timestamp()[1]
        lane = lanes.setdefault(reply.partition, [])
        if not control.is_control(reply):
            grade = Grade.FROM_500 if plain.status_of(reply.headers) >= 500 else Grade.BELOW_500
            lane.append(Written(appended_ms, reply.offset, GradedReply(reply.correlation_id, grade), reply.value))
            continue
        topic_id, content = _decoded(reply, Secrets([secret]), topic_ids)
        if topic_id == topic_ids[0] and isinstance(content, Claim | Released):
            lane.append(Written(appended_ms, reply.offset, content))
    return lanes


def _decoded(reply: Reply, secrets: Secrets, topic_ids: Sequence[bytes]) -> tuple[bytes, Control | None]:
    """The topic that a control record was written for, and its content."""
    for topic_id in topic_ids:
        try:
            return topic_id, control.decode(reply, secrets, topic_id)
        except BadControl:
            continue
    raise AssertionError(f"a record that no gateway may have written: {reply}")


def sent_in(bootstrap: str, topic: str, route: str, starts: Mapping[int, int] = NO_STARTS) -> list[Sent]:
    """The records of the request topic of a route with keys."""
    records = []
    for message in read_all(bootstrap, topic, starts):
        headers = dict(message.headers())
        hash_ = idempotency.key_hash(route, "", headers["idempotency_key"].decode())
        records.append(Sent(hash_, int(headers["idempotency_attempt"]), headers["correlation_id"]))
    return records


def contested(lanes: dict[int, list[Written]], within_ms: int) -> int:
    """How many keys were claimed twice within so short a time."""
    last: dict[bytes, int] = {}
    keys = set()
    for records in lanes.values():
        for written in records:
            if isinstance(written.content, Claim):
                key_hash = written.content.key_hash
                if written.appended_ms - last.get(key_hash, -within_ms - 1) <= within_ms:
                    keys.add(key_hash)
                last[key_hash] = written.appended_ms
    return len(keys)
