"""Records without key: together on one partition or on all of them, through a real gateway and Kafka."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.actors.load import drive
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

PARTITIONS = 4
REQUESTS = 800  # of a round
# Pearson's statistic of records that go to four partitions at random stays below this 999 times in 1,000 (3 degrees of
# freedom). Where they go in batches of n it is n times as large: with 64 connections above it 19 times in 20.
EVEN_BELOW = 16.3
ROUNDS_MAX = 8
ROUTES = """
[[route]]
method = "POST"
path = "/even"
topic = "{even}"
spread = "even"
[[route]]
method = "POST"
path = "/auto"
topic = "{auto}"
timeout = "20s"
"""


def records_on(bootstrap, topic):
    """How many records each partition of a topic has had."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "counts"})
    try:
        return [consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(PARTITIONS)]
    finally:
        consumer.close()


def unevenness(counts):
    """Pearson's chi-squared of these counts against equal ones."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


async def drive_until_even(gateway, bootstrap, topic):
    """Rounds of requests until three in a row were spread evenly; one in a thousand is not, by chance."""
    even = 0
    for _ in range(ROUNDS_MAX):
        before = await asyncio.to_thread(records_on, bootstrap, topic)
        round_ = await drive([gateway.port], ["/even"], REQUESTS, connections=64)
        assert round_.failed == 0
        after = await asyncio.to_thread(records_on, bootstrap, topic)
        counts = [new - old for new, old in zip(after, before, strict=True)]
        even = even + 1 if unevenness(counts) < EVEN_BELOW else 0
        if even == 3:
            return
    raise AssertionError(f"expected the records of a round on all partitions alike, the last were {counts}")


@pytest.mark.parametrize("link", ["native", "public"])
def test_even_uses_every_partition_and_auto_does_once_the_service_turns_out_slow(
    tmp_path, kafka_bootstrap, make_topics, link
):
    topics = make_topics({"replies": 4, "even": PARTITIONS, "auto": PARTITIONS})
    gateway = Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [], workers=1,
        more=ROUTES.format(**topics), kafka=f'link = "{link}"',
    )  # fmt: skip
    with (
        gateway,
        replier(kafka_bootstrap, "header", [topics["even"]]),
        replier(kafka_bootstrap, "slow", [topics["auto"]]),
    ):

        async def load():
            enough = asyncio.Event()
            slow = asyncio.create_task(drive([gateway.port], ["/auto"], 100_000, connections=16, enough=enough))
            await drive_until_even(gateway, kafka_bootstrap, topics["even"])
            await asyncio.to_thread(eventually, lambda: '"even": true' in gateway.log_text, 30, "auto has decided")
            enough.set()
            return await slow

        slow = asyncio.run(load())
        assert slow.failed == 0
