"""Records without key: together on one partition or on all of them, through a real gateway and Kafka."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.gateways import Gateway
from tests.load import drive
from tests.repliers import replier
from tests.waiting import eventually

PARTITIONS = 4
REQUESTS = 800
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
            even = await drive([gateway.port], ["/even"], REQUESTS, connections=16)
            await asyncio.to_thread(eventually, lambda: '"even": true' in gateway.log_text, 30, "auto has decided")
            enough.set()
            return even, await slow

        even, slow = asyncio.run(load())
        assert even.failed == slow.failed == 0
        assert min(records_on(kafka_bootstrap, topics["even"])) > REQUESTS / PARTITIONS / 2
