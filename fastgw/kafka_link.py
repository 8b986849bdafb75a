"""The Kafka link on confluent-kafka's public API: the only file on the request path that knows this client.

Two things shape it. A consumer wakes nobody by a file descriptor, so one thread waits in `poll` and hands whatever has
come to the loop with one call: a batch costs one wake-up. (`consume(N, t)` waits for N messages or all of t; hence
`poll(t)` first, then `consume(N, 0)`.) And since version 2.16 all calls on one consumer are serialised, so every other
call on it is made on that same thread, between two polls, from a queue of commands.

Producing happens on the loop: `produce` never waits. Delivery reports are fetched by `serve`, on the loop as well.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from fastgw import errors, kafka_wire
from fastgw.errors import Ending, QueueFull, SendRefused
from fastgw.messages import Record, Reply

log = structlog.get_logger("fastgw.kafka")

FROM_BEGINNING = OFFSET_BEGINNING
POLL_S = 0.05  # how long a command for the consumer may wait
BATCH = 512  # messages handed to the loop at once
POSITION_TIMEOUT_S = 5.0

# Certain refusals: librdkafka reports these for records that are in no log.
_ENDINGS = {
    KafkaError.MSG_SIZE_TOO_LARGE: errors.RECORD_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: errors.RECORD_TOO_LARGE,
    KafkaError.UNKNOWN_TOPIC_OR_PART: errors.TOPIC_UNKNOWN,
    KafkaError.TOPIC_EXCEPTION: errors.TOPIC_UNKNOWN,
    KafkaError._UNKNOWN_TOPIC: errors.TOPIC_UNKNOWN,
    KafkaError._UNKNOWN_PARTITION: errors.TOPIC_UNKNOWN,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
    KafkaError.INVALID_RECORD: errors.REFUSED_SEND,
}


class LinkEvents(Protocol):
    """What the link tells its owner; every call is made on the loop."""

    def replies(self, replies: Sequence[Reply]) -> None:
        """Records of the response topic, in batches, each partition's in order.

        A record that cannot be decoded comes as well, without correlation id (`b""`): it is counted, and costs the
        others of its batch nothing.
        """

    def delivered(self, token: int, latency_ns: int) -> None:
        """The record sent with `token` is in its topic."""

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        """It is not, or nobody can say."""

    def producer_died(self, delivery_class: int, detail: str) -> None:
        """A fatal producer error: a new producer is in place, nothing the old one had in hand will be confirmed."""

    def positioned(self, offsets: Mapping[int, int]) -> None:
        """Partition -> the offset from which it is read now."""


def client_settings(bootstrap: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What producer and consumer share; `extra` is the operator's `[kafka.client]`."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "fastgw",
        "enable.metrics.push": False,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
        **extra,
    }


class KafkaLink:
    """One worker's producers and its consumer.

    Attributes of the loop: everything but `_commands` (both threads) and `_consumer` (the Kafka thread once started).
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        reply_topic: str,
        delivery_timeouts_ms: Sequence[int],
        events: LinkEvents,
        loop: asyncio.AbstractEventLoop,
        *,
        linger_ms: float = 1,
        sticky_linger_ms: int = 2,
        fetch_wait_ms: int = 100,
        queue_messages: int = 100_000,
    ) -> None:
        """
        Args:
            client: see `client_settings`.
            reply_topic: read by `assign`ment of partitions, never by group.
            delivery_timeouts_ms: one producer for each delivery class; below the deadlines of the class's routes, so
                that librdkafka's verdict comes before the client's patience ends.
            queue_messages: how many records may wait in one producer before `send` raises QueueFull.
        """
        self._reply_topic = reply_topic
        self._events = events
        self._loop = loop
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = False
        common = {**client, "logger": logging.getLogger("fastgw.librdkafka")}
        self._producer_settings = [
            {
                **common,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": linger_ms,
                "sticky.partitioning.linger.ms": sticky_linger_ms,
                "delivery.timeout.ms": timeout_ms,
                "request.timeout.ms": min(30_000, timeout_ms),
                "queue.buffering.max.messages": queue_messages,
                "queue.buffering.max.kbytes": 131_072,
                # Bounds how long a record for a topic that does not exist is kept before its fate is told.
                "topic.metadata.propagation.max.ms": 1000,
                "error_cb": self._on_client_error,
            }
            for timeout_ms in delivery_timeouts_ms
        ]
        self._producers = [Producer(settings) for settings in self._producer_settings]
        self._consumer = Consumer(
            {
                **common,
                "group.id": "fastgw-no-group",  # asked for by the client; never joined, nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": fetch_wait_ms,
                "fetch.queue.backoff.ms": 5,
                "fetch.error.backoff.ms": 50,
                "check.crcs": False,
                "error_cb": self._on_client_error,
            }
        )
        self._thread = threading.Thread(target=self._consume, name="fastgw-kafka", daemon=True)

    def start(self) -> None:
        """Starts reading; partitions come with `read`."""
        self._thread.start()

    # Sending: on the loop.

    def send(self, record: Record, token: int, delivery_class: int) -> None:
        """Hands a record to librdkafka.

        Raises:
            QueueFull: no room; nothing was sent.
            SendRefused: refused at once; nothing was sent.
        """
        try:
            self._producers[delivery_class].produce(
                record.topic,
                record.value,
                record.key,
                record.partition,
                headers=record.headers,
                on_delivery=partial(self._on_delivery, token),
            )
        except BufferError:
            raise QueueFull("librdkafka's send queue is full") from None
        except KafkaException as refused:
            error = refused.args[0]
            if error.code() == KafkaError._FATAL:
                self._replace_producer(delivery_class, error.str())
                raise SendRefused(errors.QUEUE_FULL, "the producer had died and was replaced; send again") from None
            raise SendRefused(_ENDINGS.get(error.code(), errors.REFUSED_SEND), error.str()) from None

    def post(self, record: Record) -> bool:
        """Sends a record whose fate nobody waits for (canaries, replies sent on); False if there is no room."""
        try:
            self._producers[0].produce(record.topic, record.value, record.key, record.partition, headers=record.headers)
        except (BufferError, KafkaException):
            return False
        return True

    def serve(self) -> None:
        """Takes in the delivery reports that have come; to be called with every batch and on a timer."""
        for delivery_class, producer in enumerate(self._producers):
            try:
                producer.poll(0)
            except KafkaException as fatal:
                self._replace_producer(delivery_class, fatal.args[0].str())

    def _on_delivery(self, token: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._events.delivered(token, int(message.latency() * 1e9))
        else:
            self._events.undelivered(token, _ENDINGS.get(error.code(), errors.SEND_UNKNOWN), error.str())

    def _replace_producer(self, delivery_class: int, detail: str) -> None:
        log.error("producer died, replaced", delivery_class=delivery_class, detail=detail)
        self._producers[delivery_class] = Producer(self._producer_settings[delivery_class])
        self._events.producer_died(delivery_class, detail)

    def _on_client_error(self, error: KafkaError) -> None:
        log.warning("kafka client", code=error.name(), detail=error.str())

    # Reading: commands are queued by the loop and obeyed by the Kafka thread.

    def read(self, partitions: Sequence[int], at: int = OFFSET_END) -> None:
        """Starts reading these partitions at their end, or at OFFSET_BEGINNING.

        `positioned` tells when, and from where. Retried until done.
        """
        self._commands.put(partial(self._position, list(partitions), at))

    def stop_reading(self, partitions: Sequence[int]) -> None:
        """Stops reading these partitions."""
        gone = [TopicPartition(self._reply_topic, partition) for partition in partitions]
        self._commands.put(partial(self._consumer.incremental_unassign, gone))

    def _consume(self) -> None:
        consumer, hand_over = self._consumer, self._loop.call_soon_threadsafe
        while not self._stopping:
            self._obey()
            first = consumer.poll(POLL_S)
            if first is not None:
                batch = consumer.consume(BATCH, 0)
                batch.insert(0, first)
                hand_over(self._on_batch, batch)
        consumer.close()

    def _obey(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if command is None:
                return
            try:
                command()
            except KafkaException as failed:
                log.warning("kafka consumer command failed", detail=str(failed))

    def _position(self, partitions: list[int], at: int) -> None:
        asked = [TopicPartition(self._reply_topic, partition, at) for partition in partitions]
        found, failed = [], []
        try:
            # ListOffsets takes these two in place of timestamps (-1 end, -2 beginning): one round trip for all.
            answers = self._consumer.offsets_for_times(asked, timeout=POSITION_TIMEOUT_S)
        except KafkaException as error:
            log.warning("cannot position the reply consumer, trying again", detail=error.args[0].str())
            answers = []
            failed = partitions
        for answer in answers:
            if answer.error is None and answer.offset >= 0:
                found.append(answer)
            else:
                failed.append(answer.partition)
        if found:
            self._consumer.incremental_assign(found)
            offsets = {answer.partition: answer.offset for answer in found}
            self._loop.call_soon_threadsafe(self._events.positioned, offsets)
        if failed and not self._stopping:
            self._commands.put(None)  # ends this round of commands: a retry waits for the next poll
            self._commands.put(partial(self._position, failed, at))

    def _on_batch(self, batch: list[Message]) -> None:
        self.serve()  # first the acks, then the replies that followed them
        replies = []
        for message in batch:
            if message.error() is None:
                replies.append(_decoded(message))
            else:
                log.warning("reply consumer", detail=message.error().str())
        self._events.replies(replies)

    def close(self, timeout_s: float) -> int:
        """Flushes what is left to send and stops reading; returns how many records were not sent in time."""
        self._stopping = True
        left: int = sum(producer.flush(timeout_s) for producer in self._producers)
        self._thread.join(timeout_s + POSITION_TIMEOUT_S)
        return left


def _decoded(message: Message) -> Reply:
    try:
        return kafka_wire.decode_reply(message)
    except Exception:  # what the client library makes of a poisonous record is nothing that anybody could list
        log.exception("reply not decoded", partition=message.partition(), offset=message.offset())
        return Reply(b"", message.partition(), message.offset(), [], b"")
