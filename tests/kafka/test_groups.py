"""What is told of a consumer group that a route names as its service's."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from fastgw.kafka import groups
from fastgw.kafka.groups import Group
from tests.waiting import eventually


def group(members=1, reads=("orders",), exists=True, is_moving=False):
    return Group("service", exists, members, is_moving, tuple(reads))


def test_a_group_that_reads_the_topic_or_is_being_rebalanced_is_no_trouble():
    assert group().trouble("orders") == ""
    assert group(is_moving=True, reads=()).trouble("orders") == ""
    assert group(is_moving=True).consumers("orders") is None
    assert group(3, ["orders", "orders", "pings"]).consumers("orders") == 2


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (group(0, (), exists=False), 'no such consumer group (did you mean "hello"?)'),
        (group(0, ()), "the consumer group has no members"),
        (group(2, ("a", "b")), "no member of the consumer group has a partition of topic orders; they read a, b"),
        (group(2, ()), "no member of the consumer group has a partition of topic orders; they read nothing"),
        (group(1, "abcd"), "... a, b, c and others"),
    ],
)
def test_why_nobody_takes_what_is_in_the_topic(seen, told):
    assert seen.trouble("orders", ["hello"]).endswith(told.removeprefix("... "))


def test_names_are_alike_within_a_typo():
    names = ["hello", "hello-service", "shop", "helo"]
    assert groups.alike_among(names, "helo") == ["hello"]
    assert groups.alike_among(names, "hello-servce") == ["hello-service"]
    assert groups.alike_among(names, "quite-another") == []


NOT_LOADED = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


def look(admin: AdminClient, group: str) -> Group:
    """What Kafka says of a group, once its coordinator has loaded: the first group of a broker makes it do so."""

    def answer() -> Group | None:
        try:
            return groups.look(admin, group, 10)
        except KafkaException as error:
            if error.args[0].code() not in NOT_LOADED:
                raise
            return None

    found = eventually(answer, 20, "the coordinator has loaded")
    assert found is not None
    return found


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_groups_of_both_protocols_are_seen(kafka_bootstrap, make_topics, protocol):
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    topic = make_topics({"orders": 2})["orders"]
    assert look(admin, topic) == Group(topic, False, 0, False, ())
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": topic, "group.protocol": protocol})
    consumer.subscribe([topic])
    eventually(lambda: consumer.poll(0.1) or look(admin, topic).consumers(topic) == 1, 30, "it is seen")
    assert groups.alike(admin, f"{topic}x", 10)[:1] == [topic]
    consumer.close()
    eventually(lambda: look(admin, topic) == Group(topic, True, 0, False, ()), 10, "it is empty")
    admin.delete_consumer_groups([topic])[topic].result(10)
