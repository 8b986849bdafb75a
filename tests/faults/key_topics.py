"""The evidence about idempotency keys that comes from Kafka: the lanes as a store reads them, and the records sent."""

from __future__ import annotations

import secrets

from confluent_kafka import Consumer, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from fastgw.core import idempotency
from fastgw.dialects import control, plain
from fastgw.dialects.control import BadControl, Claim, Released
from fastgw.store.lane import Grade, GradedReply
from fastgw.tokens import Secrets
from tests.faults.key_oracle import Sent, Written

AT_ONCE = 1000
READ_S = 5.0


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Every record of a topic, those of one partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"oracle-{secrets.token_hex(4)}", "enable.partition.eof": True}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
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


def lanes_of(bootstrap: str, admin: AdminClient, later: str, secret: str) -> dict[int, list[Written]]:
    """All records of the lanes, by partition."""
    found = admin.describe_topics(TopicCollection([later]))[later].result().topic_id
    halves = found.get_most_significant_bits(), found.get_least_significant_bits()
    topic_id = b"".join((half % (1 << 64)).to_bytes(8, "big") for half in halves)
    lanes: dict[int, list[Written]] = {}
    for message in read_all(bootstrap, later):
        reply, appended_ms = plain.decode_reply(message), message.timestamp()[1]
        lane = lanes.setdefault(reply.partition, [])
        if not control.is_control(reply):
            grade = Grade.FROM_500 if plain.status_of(reply.headers) >= 500 else Grade.BELOW_500
            lane.append(Written(appended_ms, reply.offset, GradedReply(reply.correlation_id, grade), reply.value))
            continue
        try:
            content = control.decode(reply, Secrets([secret.encode()]), topic_id)
        except BadControl as bad:
            raise AssertionError(f"a record that no gateway may have written: {reply}") from bad
        if isinstance(content, Claim | Released):
            lane.append(Written(appended_ms, reply.offset, content))
    return lanes


def sent_in(bootstrap: str, topic: str, route: str) -> list[Sent]:
    """The records of the request topic of a route with keys."""
    records = []
    for message in read_all(bootstrap, topic):
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
