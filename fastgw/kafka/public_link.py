"""The Kafka link on confluent-kafka's public API. No other file on the request path uses this client.

Reading needs a thread, because a consumer has no file descriptor that the loop could watch. The thread waits in `poll`
and hands all fetched messages to the loop with one call, so a batch costs one wake-up. (`consume(N, t)` waits for N
messages or for all of t; hence first `poll(t)`, then `consume(N, 0)`.) Since version 2.16 all calls on one consumer are
serialised. So the same thread makes all other calls on the consumer, between two polls, from a queue of commands.

Sending happens on the loop: `produce` never waits. The loop also calls `poll` for the delivery reports.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from fastgw import errors
from fastgw.client_lines import of_error
from fastgw.dialects import plain
from fastgw.errors import QueueFull, SendRefused
from fastgw.kafka import client_log
from fastgw.kafka.client_log import CLIENT_LOG
from fastgw.kafka.error_codes import FATAL, PURGED, REFUSALS
from fastgw.kafka.link import (
    ANY,
    FROM_BEGINNING,
    FROM_END,
    NEVER,
    POSITION_TIMEOUT_S,
    LinkEvents,
    LinkSettings,
    Properties,
    place,
)
from fastgw.kafka.producer_pool import DIED, Channel, ProducerPool
from fastgw.kafka.properties import consumer_properties, producer_properties
from fastgw.kafka.statistics import figures_of
from fastgw.messages import SPREAD, Record, Reply

log = structlog.get_logger("fastgw.kafka")

POLL_S = 0.05  # how long a command for the consumer may wait
BATCH = 512  # messages handed to the loop at once


class KafkaLink:
    """One worker's producers and its consumer. See `link.Link` for the interface.

    Both threads use `_commands`. Once started, the Kafka thread owns `_consumer`, `_reading` and `_unpositioned`. The
    loop owns all other attributes.
    """

    def __init__(self, settings: LinkSettings, events: LinkEvents, loop: asyncio.AbstractEventLoop) -> None:
        self._reply_topic = settings.reply_topic
        self._memory = _Memory(settings.waiting_bytes)
        self._events = events
        self._loop = loop
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = False
        self._wish = 0  # number of the last `assign`
        self._wished: dict[int, int] = {}  # partition -> the number of the `assign` that asked for it
        self._next_offsets: dict[int, int] = {}  # partition -> the offset after the last record handed over
        own = {
            **client_log.listening(),
            "stats_cb": _on_statistics,
        }
        # The first kind of producer batches records without a key on one partition, the second spreads them. There is
        # one more kind for each partitioner that a topic needs, because here a client has only one partitioner.
        partitioners = sorted(set(settings.partitioners.values()))
        self._properties = [
            _kinds_of_properties(producer_properties(settings, number) | own, partitioners)
            for number in range(len(settings.delivery_timeouts_ms))
        ]
        self._pool = ProducerPool(
            2 + len(partitioners),
            settings.delivery_timeouts_ms,
            make=self._new_sender,
            close=_leave_to_collector,
            oldest_ns=_oldest_ns,
            take_reports=_take_last_reports,
        )
        self._together, self._spread, *keyed = map(self._pool.of_kind, range(2 + len(partitioners)))
        by_partitioner = dict(zip(partitioners, keyed, strict=True))
        self._keyed = {topic: by_partitioner[wanted] for topic, wanted in settings.partitioners.items()}
        self._consumer = Consumer(consumer_properties(settings) | own)
        self._reading: set[int] = set()
        self._unpositioned: dict[int, int] = {}  # partition, whose offsets are not known yet -> number of its `assign`
        self._thread = threading.Thread(target=self._consume, name="fastgw-kafka", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # Sending: on the loop.

    def preload_topic(self, delivery_class: int, topic: str) -> None:
        """Does nothing: with this API a producer asks for a topic when it sends."""

    def send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:  # noqa: ARG002
        """Send a record. librdkafka makes the batches, so `concurrency_hint` is ignored and each record lingers."""
        channels = self._spread if record.partition == SPREAD else self._together
        if record.key is not None:
            channels = self._keyed.get(record.topic, channels)
        channel = channels[delivery_class]
        try:
            channel.producer.send(record, max(record.partition, ANY), token, now_ns)
        except BufferError:
            raise QueueFull("too many records, or too many bytes, wait until Kafka acknowledges earlier ones") from None
        except KafkaException as refused:
            error = refused.args[0]
            if error.code() == FATAL:
                self._pool.replace_dead(channel, time.monotonic_ns(), error.str())
                raise SendRefused(errors.QUEUE_FULL, "the producer died and was replaced; send again") from None
            raise SendRefused(REFUSALS.get(error.code(), errors.REFUSED_SEND), error.str()) from None

    def cancel_unsent(self, token: int) -> bool:  # noqa: ARG002
        """False: this link hands each record to librdkafka at once."""
        return False

    def send_untracked(self, record: Record) -> bool:
        channel = self._together[0]
        try:
            channel.producer.send(record, record.partition, None, time.monotonic_ns())
        except BufferError:
            return False
        except KafkaException as refused:
            if refused.args[0].code() == FATAL:
                self._pool.replace_dead(channel, time.monotonic_ns(), refused.args[0].str())
            return False
        return True

    def waiting(self) -> int:
        return sum([producer.waiting() for producer in self._pool.producers()])

    def waiting_bytes(self) -> int:
        return self._memory.held_bytes

    def poll(self) -> None:
        now_ns = time.monotonic_ns()
        for channel in self._pool.channels:
            fatal = channel.producer.take_reports()
            if fatal is not None:
                self._pool.replace_dead(channel, now_ns, fatal)
            if channel.spare is not None:
                channel.spare.take_reports()
        self._pool.retire_overdue(now_ns)
        self._pool.settle_retired(now_ns)

    def _new_sender(self, kind: int, delivery_class: int) -> _Sender:
        return _Sender(self._properties[delivery_class][kind], self._events, self._memory)

    # Reading: the loop queues commands, and the Kafka thread executes them.

    def assign(self, starts: Mapping[int, int]) -> None:
        self._wish += 1
        self._wished.update(dict.fromkeys(starts, self._wish))
        self._commands.put(partial(self._begin, dict(starts), self._wish))

    def stop_reading(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._wished.pop(partition, None)
        self._commands.put(partial(self._let_go, frozenset(partitions)))

    def reached(self, partition: int) -> int:
        return self._next_offsets.get(partition, 0)

    def _positioned(self, starts: dict[int, int], ends: dict[int, int], fresh: Collection[int], wish: int) -> None:
        """On the loop. `stop_reading` may have been called since the Kafka thread got the offsets: ignore those."""
        still = {partition: at for partition, at in starts.items() if self._wished.get(partition, NEVER) <= wish}
        self._next_offsets.update({partition: at for partition, at in still.items() if partition in fresh})
        if still:
            self._events.positioned(still, {partition: ends[partition] for partition in still})

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
                _say("kafka consumer command failed", failed.args[0])

    def _begin(self, starts: dict[int, int], wish: int) -> None:
        unasked = {partition: 0 for partition, start in starts.items() if start == FROM_BEGINNING}
        self._assign(dict.fromkeys(unasked, FROM_BEGINNING), unasked, unasked, wish)
        wanted = {partition: start for partition, start in starts.items() if partition not in unasked}
        self._unpositioned.update(dict.fromkeys(wanted, wish))
        self._position(wanted, wish)

    def _position(self, wanted: dict[int, int], wish: int) -> None:
        """Ask for the offsets of the partitions that are still wanted. Ask again later for those that are missing."""
        wanted = {number: start for number, start in wanted.items() if self._unpositioned.get(number) == wish}
        if not wanted or self._stopping:
            return
        ends = self._offsets_at(FROM_END, wanted)
        placed = place(wanted, ends)
        begins = self._offsets_at(FROM_BEGINNING, placed.within)
        within = {partition: max(begin, placed.within[partition]) for partition, begin in begins.items()}
        starts = placed.starts | within
        for partition in starts:
            del self._unpositioned[partition]
        self._assign(placed.assign | within, starts, ends, wish)
        self._commands.put(None)  # ends this round of commands: a retry waits for the next poll
        self._commands.put(partial(self._position, wanted, wish))

    def _offsets_at(self, at: int, partitions: Collection[int]) -> dict[int, int]:
        """Where the logs of these partitions begin or end, as far as Kafka answers."""
        if not partitions:
            return {}
        asked = [TopicPartition(self._reply_topic, partition, at) for partition in partitions]
        try:
            # ListOffsets accepts these two in place of a timestamp: one round trip for all partitions.
            answers = self._consumer.offsets_for_times(asked, timeout=POSITION_TIMEOUT_S)
        except KafkaException as error:
            _say("cannot position the reply consumer, trying again", error.args[0])
            return {}
        return {answer.partition: answer.offset for answer in answers if answer.error is None and answer.offset >= 0}

    def _assign(self, assign: dict[int, int], starts: dict[int, int], ends: dict[int, int], wish: int) -> None:
        """`assign`: from where librdkafka is to read; `starts`: the same as offsets."""
        fresh = assign.keys() - self._reading
        if fresh:
            self._consumer.incremental_assign(
                [TopicPartition(self._reply_topic, number, assign[number]) for number in fresh]
            )
            self._reading |= fresh
        if starts:
            self._loop.call_soon_threadsafe(self._positioned, starts, ends, fresh, wish)

    def _let_go(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self._unpositioned.pop(partition, None)
        gone = partitions & self._reading
        if gone:
            self._reading -= gone
            self._consumer.incremental_unassign([TopicPartition(self._reply_topic, number) for number in gone])

    def _on_batch(self, batch: list[Message]) -> None:
        self.poll()  # acknowledgements first: replies come after them
        replies = []
        for message in batch:
            if message.error() is None:
                replies.append(_decoded(message))
                self._next_offsets[message.partition()] = message.offset() + 1
            else:
                _say("reply consumer", message.error())
        self._events.replies(replies)

    def close(self, timeout_s: float) -> int:
        self._stopping = True
        left: int = sum(sender.flush(timeout_s) for sender in self._pool.producers())
        self._thread.join(timeout_s + POSITION_TIMEOUT_S)
        return left


class _Memory:
    """Counts the records of all producers, from `send` until their delivery reports."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0


class _Sender:
    """One producer, and its records without a delivery report.

    Drop it only when all records have been reported. Until then librdkafka's callbacks refer to it, so neither it nor
    its threads would go away.
    """

    def __init__(self, properties: Properties, events: LinkEvents, memory: _Memory) -> None:
        self._memory = memory
        self._producer = Producer(properties)
        self.why = DIED  # the error text of records that are purged
        self._events = events
        self._in_hand: dict[int, int] = {}  # number of a record -> when it was sent (ns); the oldest comes first
        self._count = 0

    def oldest_ns(self) -> int:
        """When the oldest record without a delivery report was sent; NEVER if there is none."""
        return next(iter(self._in_hand.values()), NEVER)

    def send(self, record: Record, partition: int, token: int | None, now_ns: int) -> None:
        """Send a record. `token` None: without a callback. Raises the errors of `produce`; BufferError: no room."""
        size_bytes = len(record.value) + len(record.key or b"")
        size_bytes += sum([len(name) + len(value) for name, value in record.headers])
        if self._memory.held_bytes + size_bytes > self._memory.max_bytes:
            raise BufferError
        self._count += 1
        self._producer.produce(
            record.topic,
            record.value,
            record.key,
            partition,
            headers=record.headers,
            on_delivery=partial(self._on_delivery, self._count, token, size_bytes),
        )
        self._memory.held_bytes += size_bytes
        self._in_hand[self._count] = now_ns

    def take_reports(self) -> str | None:
        """Process delivery reports. Returns the text of a fatal error when it is first reported."""
        try:
            self._producer.poll(0)
        except KafkaException as fatal:
            return str(fatal.args[0].str())
        return None

    def purge(self) -> None:
        """Give up all records. They are reported at once, as undelivered."""
        self._producer.purge(blocking=False)

    def waiting(self) -> int:
        """The number of records without a delivery report, plus the reports not processed yet."""
        return len(self._producer)

    def flush(self, timeout_s: float) -> int:
        """Send all records and wait for their reports; return how many are left."""
        try:
            return int(self._producer.flush(timeout_s))
        except KafkaException:  # a fatal error: what is left cannot be sent
            return len(self._producer)

    def _on_delivery(
        self, count: int, token: int | None, size_bytes: int, error: KafkaError | None, message: Message
    ) -> None:
        del self._in_hand[count]
        self._memory.held_bytes -= size_bytes
        if token is None:
            return
        if error is None:
            self._events.delivered(token, time.monotonic_ns(), message.partition())
        else:
            why = self.why if error.code() in PURGED else error.str()
            self._events.undelivered(token, REFUSALS.get(error.code(), errors.SEND_UNKNOWN), why)


def _kinds_of_properties(together: Properties, partitioners: Sequence[str]) -> list[Properties]:
    """The properties of a delivery class's producers, by kind."""
    spread = together | {"sticky.partitioning.linger.ms": 0}
    return [together, spread, *(spread | {"partitioner": partitioner} for partitioner in partitioners)]


# Callbacks for the pool.


def _oldest_ns(channel: Channel) -> int:
    oldest_ns: int = channel.producer.oldest_ns()
    return oldest_ns


def _take_last_reports(sender: _Sender, why: str) -> None:
    sender.why = why
    sender.take_reports()  # ignore a fatal error: the producer has a successor


def _leave_to_collector(_sender: _Sender) -> None:
    """confluent-kafka closes a producer when it is collected."""


def _say(event: str, error: KafkaError) -> None:
    CLIENT_LOG.say(of_error(error.name(), error.str()), event)


def _on_statistics(text: str) -> None:
    log.info("kafka statistics", **figures_of(text))


def _decoded(message: Message) -> Reply:
    try:
        return plain.decode_reply(message)
    except Exception:  # a malformed record can raise any error in the client library
        log.exception("reply not decoded", partition=message.partition(), offset=message.offset())
        return Reply(b"", message.partition(), message.offset(), [], b"")
