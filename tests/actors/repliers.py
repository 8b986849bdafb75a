"""Echo services that reply as clients in the field do: run as `python -m tests.actors.repliers BOOTSTRAP HOW TOPIC`.

HOW is murmur2 (aiokafka's default), crc32 and fnv1a (librdkafka's), random (keys ignored), header (the reply_partition
header honoured), slow (the same after 5 ms of work) or silent (never replies). Prints
"ready" once it owns partitions of every topic.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer

from tests.actors.running import running

LIBRDKAFKA_PARTITIONERS = {"crc32": "consistent", "fnv1a": "fnv1a", "random": "random", "header": "consistent"}
WORK_S = 0.005  # of the slow one, for each request
LIFE_S = 300  # a replier that its test has forgotten ends by itself


def echo_librdkafka(bootstrap: str, how: str, topics: Sequence[str]) -> None:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topics[0], "auto.offset.reset": "earliest",
         "fetch.wait.max.ms": 20, "enable.auto.commit": False}
    )  # fmt: skip
    settings = {"bootstrap.servers": bootstrap, "linger.ms": 1, "partitioner": LIBRDKAFKA_PARTITIONERS.get(how)}
    producer = Producer({name: value for name, value in settings.items() if value is not None})
    assigned: set[str] = set()

    def on_assign(_consumer: Consumer, partitions: list) -> None:
        assigned.update(partition.topic for partition in partitions)
        if assigned == set(topics):
            print("ready", flush=True)

    consumer.subscribe(list(topics), on_assign=on_assign)
    partitions: dict[str, int] = {}
    work = threading.Event()
    while True:
        first = consumer.poll(0.05)
        producer.poll(0)
        for message in [first, *consumer.consume(500, 0)] if first is not None else []:
            if message.error() is not None or how == "silent":
                continue
            headers = dict(message.headers())
            topic = headers["reply_to"].decode()
            where = {}
            if how == "slow":
                work.wait(WORK_S)
                producer.poll(0)
            if how in ("header", "slow"):
                where["partition"] = int(headers["reply_partition"])
            elif how == "random":
                # librdkafka's `random` sticks to one partition a batch: chosen here, every reply goes its own way.
                if topic not in partitions:
                    partitions[topic] = len(producer.list_topics(topic).topics[topic].partitions)
                where["partition"] = random.randrange(partitions[topic])
            producer.produce(topic, message.value(), headers["correlation_id"], **where)


async def echo_aiokafka(bootstrap: str, topics: Sequence[str]) -> None:
    consumer = AIOKafkaConsumer(
        *topics, bootstrap_servers=bootstrap, group_id=topics[0], auto_offset_reset="earliest",
        fetch_max_wait_ms=20, enable_auto_commit=False,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=1)
    await producer.start()
    await consumer.start()
    print("ready", flush=True)
    while True:
        for messages in (await consumer.getmany(timeout_ms=50)).values():
            for message in messages:
                headers = dict(message.headers)
                await producer.send(headers["reply_to"].decode(), message.value, key=headers["correlation_id"])


@contextmanager
def replier(bootstrap: str, how: str, topics: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A replier in a process of its own, ready; ended on the way out."""
    command = [sys.executable, "-m", "tests.actors.repliers", bootstrap, how, *topics]
    with running(command, "the replier did not start") as process:
        yield process


if __name__ == "__main__":
    import signal

    signal.alarm(LIFE_S)
    address, manner, *names = sys.argv[1:]
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if manner == "murmur2":
        asyncio.run(echo_aiokafka(address, names))
    else:
        echo_librdkafka(address, manner, names)
