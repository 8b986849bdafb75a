"""A requester that knows the wire format and nothing else of fastgw, and services that it asks."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from fastgw.service import Service
from tests.waiting import eventually

REPLY_PARTITIONS = 8
JOIN_S = 30.0
FAST = {"fetch.wait.max.ms": 5}  # the embedded broker's Fetch does not wake on new records


class Requester:
    """Sends requests as the gateway does and keeps every reply by correlation id."""

    def __init__(self, bootstrap: str, request_topic: str, reply_topic: str) -> None:
        self.request_topic, self.reply_topic = request_topic, reply_topic
        self.replies: dict[str, list[Message]] = {}
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "requester", **FAST})
        places = [TopicPartition(reply_topic, partition, 0) for partition in range(REPLY_PARTITIONS)]
        self._consumer.assign(places)

    def send(
        self,
        body: bytes = b"",
        *,
        partition: int | None = 0,
        timeout_s: float = 60,
        request_partition: int = -1,
        **headers: str | None,
    ) -> str:
        """One request; headers given as None are left out. `partition` is that of the reply.

        Returns:
            The correlation id.
        """
        correlation_id = str(uuid.uuid4())
        wire: dict[str, str | None] = {
            "correlation_id": correlation_id,
            "reply_to": self.reply_topic,
            "reply_partition": None if partition is None else str(partition),
            "deadline": str(int((time.time() + timeout_s) * 1000)),
            "http_method": "POST",
            "http_path": "/echo",
            "http_route": "/echo",
            **headers,
        }
        record_headers = [(name, value.encode()) for name, value in wire.items() if value is not None]
        self._producer.produce(self.request_topic, body, partition=request_partition, headers=record_headers)
        return correlation_id

    def reply(self, correlation_id: str, timeout_s: float = 20) -> Message:
        """The first reply to a request."""
        if correlation_id not in self.replies:
            eventually(lambda: self.take() or correlation_id in self.replies, timeout_s, f"a reply to {correlation_id}")
        return self.replies[correlation_id][0]

    def ask(self, body: bytes = b"", **headers: Any) -> Message:
        return self.reply(self.send(body, **headers))

    def take(self) -> None:
        """Takes what has arrived."""
        self._producer.poll(0)
        first = self._consumer.poll(0.02)
        for message in [first, *self._consumer.consume(500, 0)] if first is not None else []:
            assert message.error() is None, message.error()
            self.replies.setdefault(message.key().decode(), []).append(message)

    def close(self) -> None:
        self._producer.flush(10)
        self._consumer.close()


class Place:
    """A request topic, a response topic, and a requester between them."""

    def __init__(self, bootstrap: str, request_topic: str, reply_topic: str) -> None:
        self.bootstrap, self.topic = bootstrap, request_topic
        self.requester = Requester(bootstrap, request_topic, reply_topic)

    def service(self, **settings: Any) -> Service:
        settings["client"] = FAST | settings.get("client", {})
        return Service(self.topic, bootstrap=self.bootstrap, **settings)

    def committed(self) -> int:
        """How many records the group is done with, over all partitions."""
        with contextlib.closing(Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.topic})) as consumer:
            count = len(consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions)
            places = consumer.committed([TopicPartition(self.topic, partition) for partition in range(count)], 10)
        return sum(max(place.offset, 0) for place in places)


@contextlib.contextmanager
def serving(service: Service) -> Iterator[Service]:
    """The service in a thread, joined to its group; what it raises is raised here."""
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            service.serve()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=serve, name="service under test")
    thread.start()
    try:
        eventually(lambda: service.wait_until_joined(0) or raised, JOIN_S, "joined its group")
        assert not raised, raised
        yield service
    finally:
        service.stop()
        thread.join(JOIN_S)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def headers_of(message: Message) -> dict[str, bytes]:
    return dict(message.headers())
