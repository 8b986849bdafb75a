"""Reads the topic of kept replies, all its partitions, on a thread of its own.

The thread waits for Kafka; everything else happens on the store's loop. The thread hands each batch over and waits
until the loop has taken it, so no queue can grow between the two.

    look up the topic ──> the store says where to read on ──> read ──> look it up again every 10 s ...
         ^                                                                  │ another id, or more partitions,
         └──────────────────────────────────────────────────────────────────┘ or an offset that does not exist

While one thread reads, another one asks Kafka where the partitions end, and whether the topic is still the same. It has
a client of its own: a broker answers the requests of one connection in order, so a question would wait for the fetch
before it, and the records after the question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fastgw.config import Config
from fastgw.dialects import control
from fastgw.dialects.plain import decode_reply
from fastgw.kafka import client_log, cluster
from fastgw.kafka.properties import store_consumer_properties
from fastgw.messages import Reply
from fastgw.store.topic import LOOK_TIMEOUT_S, look_up, next_messages
from fastgw.throttle import Troubles

log = structlog.get_logger("fastgw.store")

LOOK_EVERY_S = 10.0
LOOK_AGAIN_S = 1.0  # after a look that failed
PULSE_S = 1.0
PULSE_TIMEOUT_S = 2.0
BATCH = 1000  # records
POLL_S = 0.1
# After so many records, more come soon. A batch costs as much as three records, so the next one waits for them.
BUSY, GATHER_S = 4, 0.004


class Located(NamedTuple):
    """The topic as it is now."""

    topic_id: bytes  # 16 bytes
    bounds: Mapping[int, tuple[int, int]]  # partition -> the first offset that is kept, and the next one to be written


class Arrived(NamedTuple):
    """A record and the time at which the broker appended it (ms since 1970)."""

    reply: Reply
    appended_ms: int


class Batch(NamedTuple):
    """What one look brought."""

    records: list[Arrived]  # those of one partition in order
    next_offsets: dict[int, int]
    ends: dict[int, int]  # partition -> the offset at which its end was reached


class Pulse(NamedTuple):
    """Proof that Kafka answers: where each partition ended when it was asked."""

    asked_ms: int  # since 1970
    ends: dict[int, int]


class Taker(Protocol):
    """The store, as its reader sees it. All calls are made on the loop, one at a time."""

    def located(self, located: Located) -> Mapping[int, int]:
        """The topic was found. Returns where to read on, for each partition."""

    def took(self, batch: Batch) -> None: ...

    def felt(self, pulse: Pulse) -> None: ...

    def lost(self) -> None:
        """Kafka does not answer."""


class TopicReader:
    """Reads on until `stop`."""

    def __init__(
        self,
        config: Config,
        taker: Taker,
        send_home: Callable[[Sequence[Reply]], list[Reply]],
        on_loop: Callable[[Callable[[], Any]], Any],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        Args:
            send_home: see `SplitReplies.send_home`. It may wait for Kafka: this thread calls it.
            on_loop: runs a function on the loop, waits for it, and returns its result.
            on_failure: called when the thread ends with an error. Errors of Kafka do not end it.
        """
        self._config = config
        self._topic = config.later.topic
        self._taker = taker
        self._send_home = send_home
        self._on_loop = on_loop
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._troubles = Troubles()
        self._thread = threading.Thread(target=self._run, name="topic reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop reading. The loop must run meanwhile, or have stopped to take anything."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read_topic()
        except BaseException as error:
            self._on_failure(error)

    def _read_topic(self) -> None:
        """Read the topic until it has changed."""
        consumer = Consumer(self._client_settings())
        is_over = threading.Event()
        try:
            located = self._look(consumer)
            if located is None:
                self._stopping.wait(LOOK_AGAIN_S)
                return
            starts = self._on_loop(lambda: self._taker.located(located))
            consumer.assign([TopicPartition(self._topic, number, offset) for number, offset in starts.items()])
            asking = threading.Thread(target=self._ask, args=(located, is_over), name="topic watch", daemon=True)
            asking.start()
            try:
                self._read_on(consumer, is_over)
            finally:
                is_over.set()
                asking.join()  # what it says about this topic must not come after the next one was located
        finally:
            consumer.close()

    def _client_settings(self) -> dict[str, Any]:
        return {
            **store_consumer_properties(self._config, "fastgw-store"),
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",  # it may be another topic with this name: look it up again
            **client_log.listening(),
        }

    def _read_on(self, consumer: Consumer, is_over: threading.Event) -> None:
        messages: list[Any] = []
        while not self._stopping.is_set() and not is_over.is_set():
            is_busy = len(messages) >= BUSY
            messages = next_messages(consumer, BATCH, POLL_S, GATHER_S if is_busy else 0.0)
            batch = _batch(messages)
            if batch is not None and self._has_sent_home(batch, is_over):
                self._on_loop(lambda batch=batch: self._taker.took(batch))  # type: ignore[misc]
            if any(_is_reset(message.error()) for message in messages):
                log.error("kept replies are looked up again: the topic does not have what was to be read")
                return

    def _has_sent_home(self, batch: Batch, is_over: threading.Event) -> bool:
        """Send replies to their home before the store keeps the position behind them. False: reading ends."""
        left = [one.reply for one in batch.records if not control.is_control(one.reply)]
        while left := self._send_home(left):
            if is_over.is_set() or self._stopping.wait(LOOK_AGAIN_S):
                return False
        return True

    def _ask(self, located: Located, is_over: threading.Event) -> None:
        """Ask Kafka about the topic until `is_over`; set it when the topic is another one."""
        try:
            # The ends of read_committed would hide that the store waits for an open transaction.
            consumer = Consumer({**self._client_settings(), "isolation.level": "read_uncommitted"})
            try:
                self._ask_on(consumer, located, is_over)
            finally:
                consumer.close()
        except BaseException as error:
            is_over.set()
            self._on_failure(error)

    def _ask_on(self, consumer: Consumer, located: Located, is_over: threading.Event) -> None:
        next_look_s = time.monotonic() + LOOK_EVERY_S
        while not self._stopping.is_set() and not is_over.is_set():
            self._feel(consumer, located)
            if time.monotonic() >= next_look_s:
                now = self._look(consumer)
                if now is not None and (now.topic_id, now.bounds.keys()) != (located.topic_id, located.bounds.keys()):
                    is_over.set()
                next_look_s = time.monotonic() + (LOOK_EVERY_S if now is not None else LOOK_AGAIN_S)
            is_over.wait(PULSE_S)

    def _feel(self, consumer: Consumer, located: Located) -> None:
        """Ask where the partitions end. A consumer that gets nothing may be at the end, or cut off from Kafka."""
        asked_ms = int(time.time() * 1000)
        try:
            ends = {
                number: consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=PULSE_TIMEOUT_S)[1]
                for number in located.bounds
            }
        except KafkaException:  # librdkafka logs why
            self._on_loop(self._taker.lost)
            return
        self._on_loop(lambda: self._taker.felt(Pulse(asked_ms, ends)))

    def _look(self, consumer: Consumer) -> Located | None:
        """The topic as it is now; None: Kafka does not say."""
        try:
            topic_id, partitions = look_up(consumer, self._config, self._topic)
            bounds = {
                number: consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=LOOK_TIMEOUT_S)
                for number in partitions
            }
        except KafkaException as error:
            # Once, and not every second of an outage, in which the error may change.
            if self._troubles.begins(("topic",), "cannot be looked at"):
                log.warning("cannot look up the topic of kept replies", topic=self._topic, error=cluster.reason(error))
            self._on_loop(self._taker.lost)
            return None
        self._troubles.begins(("topic",), "")
        return Located(topic_id, bounds)


def _is_reset(error: KafkaError | None) -> bool:
    """Whether the topic does not have the offset from which it is read: its log was cut, or it was made anew."""
    return error is not None and error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


def _batch(messages: list[Any]) -> Batch | None:
    """What these messages bring; None: nothing."""
    batch = Batch([], {}, {})
    records, next_offsets = batch.records, batch.next_offsets
    for message in messages:
        error = message.error()
        if error is None:
            reply = decode_reply(message)
            records.append(Arrived(reply, message.timestamp()[1]))
            next_offsets[reply.partition] = reply.offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            batch.ends[message.partition()] = message.offset()
            next_offsets[message.partition()] = message.offset()
        elif not _is_reset(error):
            client_log.CLIENT_LOG.client_error(error)
    return batch if next_offsets else None
