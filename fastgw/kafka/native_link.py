"""The Kafka link that uses librdkafka directly: no Kafka thread of its own, no Python object per delivery report.

It uses the library that confluent_kafka has loaded (see `_klink`). The loop watches two eventfds, one for replies and
one for all other events, and an alarm. Compared with the public API this saves a thread, and for each batch a hand-over
of the GIL and a wake-up. It also knows for every failed record whether it may be in the log:

    not_recorded   librdkafka never gave the record to a broker, or the broker refused it
    unknown        it left and was not acknowledged

Records leave in batches (see `batching`), when a timer fires or a delivery report arrives. A producer whose oldest
record is about to be overdue is retired, and a successor sends the next records (see `producer_pool`, which also lists
the facts about librdkafka).

Nothing here may wait. The link asks for offsets with ListOffsets of the admin API; the answer is an event. This takes
one round trip, or two where reading starts inside the log, and the offset is known before the first record is fetched.
(After assigning "the end", the offset would be unknown until a record arrives.) Assigning takes a hand-over to
librdkafka's main thread and back, a tenth of a millisecond; it happens at start and when partitions move. A client is
destroyed on a thread of its own (`producer_pool`, fact 5).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import TypeVar

import confluent_kafka  # loads the library that is used here
import structlog

from fastgw import errors, loaded_library
from fastgw._ctable import SlotRange
from fastgw.client_lines import Line, of_error, of_log
from fastgw.config.units import NS_PER_MS
from fastgw.dialects import plain
from fastgw.errors import Ending, FastgwError, QueueFull, SendRefused
from fastgw.kafka import _klink
from fastgw.kafka._klink import (
    Client,
    ClientError,
    Consumer,
    Delivered,
    LogLine,
    Offsets,
    Producer,
    RecordMemory,
    Statistics,
    Undelivered,
)
from fastgw.kafka.batching import RecordQueue, RefusedRecord
from fastgw.kafka.client_log import CLIENT_LOG
from fastgw.kafka.error_codes import PURGED, QUEUE_FULL, REFUSALS
from fastgw.kafka.link import (
    FROM_BEGINNING,
    FROM_END,
    NEVER,
    POSITION_TIMEOUT_S,
    LinkEvents,
    LinkSettings,
    Properties,
    place,
)
from fastgw.kafka.producer_pool import Channel, ProducerPool
from fastgw.kafka.properties import consumer_properties, producer_properties
from fastgw.kafka.statistics import figures_of
from fastgw.messages import Record

log = structlog.get_logger("fastgw.kafka")

OLDEST, TOO_NEW = 0x02100000, 0x03000000  # librdkafka from 2.16.0 up to, not including, 3.0
POSITION_AGAIN_S = 0.1  # pause before offsets that could not be found are asked for again
# In one of forty starts, librdkafka does not notice that it has learned the partition leaders, and tries again three
# seconds later. If the same request is repeated, it is answered at once.
POSITION_REPEAT_S = 0.2
FLUSH_SLICE_MS = 20  # how often a flush checks for failed records
GIVEN_UP_AT_ONCE = 1000  # records given up in one tick at most: their answers must not block the loop
NewClient = TypeVar("NewClient", Producer, Consumer)


class ProducerKind(IntEnum):
    """How a producer treats a record that could share a batch with others."""

    GATHERING = 0  # it lingers
    AT_ONCE = 1


@dataclass
class Question:
    """One request for the offsets at which partitions begin or end, until it is answered."""

    at: int  # FROM_BEGINNING or FROM_END
    wanted: dict[int, int]  # partition -> from where it is to be read
    ends: dict[int, int] = field(default_factory=dict)  # what is known already


class NativeUnavailable(FastgwError):
    """The native link cannot use librdkafka here; the text says why."""


def open_library(path: str | None = None, oldest: int = OLDEST, too_new: int = TOO_NEW) -> str:
    """Load confluent_kafka's librdkafka and return its version. The arguments are for tests.

    Raises:
        NativeUnavailable: there is no separate library file, it lacks a function, or its version does not fit.
    """
    found = path or _library_path()
    try:
        version, text = _klink.load(found)
    except OSError as error:
        raise NativeUnavailable(str(error)) from None
    if not oldest <= version < too_new:
        raise NativeUnavailable(
            f"librdkafka {text}: expected {oldest:#010x} up to {too_new:#010x}, got {version:#010x}"
        )
    return text


def _library_path() -> str:
    if path := loaded_library.path_of("librdkafka"):
        return path
    raise NativeUnavailable(f"confluent_kafka {confluent_kafka.__version__} has no librdkafka as a separate library")


class NativeLink:
    """One worker's producers and its consumer, all on the loop's thread. See `link.Link` for the interface."""

    def __init__(
        self,
        settings: LinkSettings,
        events: LinkEvents,
        loop: asyncio.AbstractEventLoop,
        slots: SlotRange | None = None,
    ) -> None:
        """
        Args:
            settings: topics, timeouts, librdkafka properties.
            events: gets the callbacks.
            loop: watches the eventfds.
            slots: delivered records are marked as recorded here, in C; `events.delivered` is called only for slots
                that are not of the kind SINGLE, or without `slots`.

        Raises:
            ConfigError: a librdkafka property is unknown or has a wrong value.
        """
        self._events = events
        self._loop = loop
        self._slots = slots
        self._reply_topic = settings.reply_topic
        self._partitioners = dict(settings.partitioners)
        self._reply_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._alarm_fd = _klink.alarm()
        self._alarm_ns = NEVER  # when the alarm goes off
        classes = range(len(settings.delivery_timeouts_ms))
        self._properties = [_kinds_of_properties(settings, delivery_class) for delivery_class in classes]
        self._topics: list[set[str]] = [set() for _ in settings.delivery_timeouts_ms]
        self._memory = RecordMemory(settings.waiting_bytes)
        self._pool = ProducerPool(
            len(ProducerKind),
            settings.delivery_timeouts_ms,
            make=self._new_producer,
            close=_close_in_background,
            oldest_ns=self._oldest_ns,
            take_reports=self._take_last_reports,
            replaced=self._switch_producer,
        )
        self._queues = [self._new_queue(channel, settings) for channel in self._pool.channels]
        self._gathering = [self._queues[channel.number] for channel in self._pool.of_kind(ProducerKind.GATHERING)]
        self._at_once = [self._queues[channel.number] for channel in self._pool.of_kind(ProducerKind.AT_ONCE)]
        self._consumer = _made(
            lambda: Consumer(
                _as_text(consumer_properties(settings)),
                settings.reply_topic,
                plain.CORRELATION_ID,
                self._reply_fd,
                self._event_fd,
            )
        )
        self._reading: set[int] = set()
        self._questions: dict[int, Question] = {}  # by the number of the request
        self._question = 0
        self._closed = False

    def _new_producer(self, kind: int, delivery_class: int) -> Producer:
        properties = self._properties[delivery_class][kind]
        producer = _made(lambda: Producer(properties, self._slots, self._event_fd, self._partitioners, self._memory))
        for topic in self._topics[delivery_class]:
            producer.preload_topic(topic)
        return producer

    def _new_queue(self, channel: Channel, settings: LinkSettings) -> RecordQueue:
        return RecordQueue(
            channel.producer,
            int(settings.linger_ms * NS_PER_MS) if channel.kind == ProducerKind.GATHERING else 0,
            settings.sticky_linger_ms * NS_PER_MS,
            self._memory,
            self._wake_at,
            partial(self._refuse_late, channel),
        )

    def start(self) -> None:
        self._loop.add_reader(self._reply_fd, self._on_reply_fd)
        self._loop.add_reader(self._event_fd, self._on_event_fd)
        self._loop.add_reader(self._alarm_fd, self._on_alarm_fd)

    # Sending.

    def preload_topic(self, delivery_class: int, topic: str) -> None:
        self._topics[delivery_class].add(topic)
        for channel in self._pool.channels:
            if channel.delivery_class == delivery_class:
                channel.producer.preload_topic(topic)

    def send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:
        # Records with a key must keep the order of their requests, so they all go through the same producer.
        gathers = concurrency_hint != 0 or record.key is not None
        queue = (self._gathering if gathers else self._at_once)[delivery_class]
        if record.partition < 0:
            refused = queue.send(record, token, concurrency_hint, now_ns)
        else:
            producer = queue.producer
            refused = producer.send(record.topic, record.value, record.key, record.headers, record.partition, token)
        if refused is None:
            return
        if refused[0] == QUEUE_FULL:
            raise QueueFull(refused[1])
        kind = ProducerKind.GATHERING if gathers else ProducerKind.AT_ONCE
        raise SendRefused(*_why_refused(*refused, self._has_died(kind, delivery_class, refused[1])))

    def cancel_unsent(self, token: int) -> bool:
        return any(queue.cancel_unsent(token) for queue in self._queues)

    def send_untracked(self, record: Record) -> bool:
        refused = self._gathering[0].send_untracked(record, time.monotonic_ns())
        if refused is not None:
            self._has_died(ProducerKind.GATHERING, 0, refused[1])
        return refused is None

    # Records that wait for a batch.

    def _wake_at(self, due_ns: int) -> None:
        if due_ns < self._alarm_ns:
            self._alarm_ns = due_ns
            _klink.set_alarm(self._alarm_fd, due_ns)

    def _on_alarm_fd(self) -> None:
        _klink.clear(self._alarm_fd)
        self._alarm_ns = NEVER
        now_ns = time.monotonic_ns()
        for queue in self._queues:
            queue.flush_due(now_ns)

    def _refuse_late(self, channel: Channel, refusals: Sequence[RefusedRecord]) -> None:
        died = self._has_died(channel.kind, channel.delivery_class, refusals[0][2])
        for token, code, text in refusals:
            if token >= 0:  # nobody asks for the others
                self._events.undelivered(token, *_why_refused(code, text, died))

    def _give_up_waiting(self) -> None:
        now_ns = time.monotonic_ns()
        for channel in self._pool.channels:
            queue = self._queues[channel.number]
            for token in queue.cancel_older(now_ns - channel.times.unsent_ns, GIVEN_UP_AT_ONCE):
                if token >= 0:
                    self._events.undelivered(token, errors.NOT_SENT, "the record had not been sent")
            queue.flush_due(now_ns)

    # Events.

    def waiting(self) -> int:
        handed_over: int = sum([producer.waiting() for producer in self._pool.producers()])
        return handed_over + sum([queue.waiting for queue in self._queues])

    def waiting_bytes(self) -> int:
        return self._memory.held_bytes

    def poll(self) -> None:
        self._take_producers_events()
        if not self._closed:
            self._pool.retire_overdue(time.monotonic_ns())
        self._give_up_waiting()
        self._take_consumers_events()
        self._take_replies()

    def _on_reply_fd(self) -> None:
        _klink.clear(self._reply_fd)
        self._take_producers_events()  # acknowledgements first: replies come after them
        self._take_replies()

    def _on_event_fd(self) -> None:
        _klink.clear(self._event_fd)
        self._take_producers_events()
        self._take_consumers_events()

    def _take_replies(self) -> None:
        replies = self._consumer.replies()
        if replies:
            self._events.replies(replies)
            if len(replies) == _klink.REPLIES_MAX:  # there may be more, and librdkafka wakes only for an empty queue
                self._loop.call_soon(self._take_replies)

    def _take_producers_events(self) -> None:
        for channel in self._pool.channels:
            producer = channel.producer
            events = producer.events()
            batches = producer.acknowledged()
            if batches:  # first: `_tell` may send records, and they must not join a batch that has ended
                queue = self._queues[channel.number]
                queue.acknowledged(batches, time.monotonic_ns())
            self._tell(events, channel)
            if channel.spare is not None:
                self._tell(channel.spare.events())
        if self._pool.retired:
            self._pool.settle_retired(time.monotonic_ns())

    def _take_consumers_events(self) -> None:
        for event in self._consumer.events():
            if isinstance(event, Offsets):
                self._offsets_told(event)
            else:
                self._log(event)

    def _tell(
        self,
        events: Sequence[Delivered | Undelivered | ClientError | LogLine | Statistics],
        channel: Channel | None = None,
        why_purged: str = "",
    ) -> None:
        """`channel` None: the producer is retired or a spare."""
        for event in events:
            if isinstance(event, Delivered):
                self._events.delivered(event.token, event.at_ns, event.partition)
            elif isinstance(event, Undelivered):
                self._tell_fate(event._replace(text=why_purged) if why_purged and event.code in PURGED else event)
            elif isinstance(event, ClientError) and event.fatal and channel is not None:
                self._replace_dead(channel, f"{event.name}: {event.text}")
            else:
                self._log(event)

    def _tell_fate(self, failed: Undelivered) -> None:
        if failed.status == _klink.PERSISTED:
            self._events.delivered(failed.token, time.monotonic_ns(), failed.partition)
        elif failed.status == _klink.NOT_PERSISTED:
            self._events.undelivered(failed.token, REFUSALS.get(failed.code, errors.NOT_SENT), failed.text)
        else:
            self._events.undelivered(failed.token, errors.SEND_UNKNOWN, failed.text)

    # A producer's end.

    def _has_died(self, kind: int, delivery_class: int, detail: str) -> bool:
        """Whether the producer has had a fatal error. If so, it is replaced, now or soon."""
        channel = self._pool.of_kind(kind)[delivery_class]
        if channel.producer.fatal() is None:
            return False
        self._replace_dead(channel, detail)
        return True

    def _replace_dead(self, channel: Channel, detail: str) -> None:
        # The error is reported twice (fact 1). The second time, the producer may have been replaced already.
        if not self._closed and channel.producer.fatal() is not None:
            self._pool.replace_dead(channel, time.monotonic_ns(), detail)

    def _oldest_ns(self, channel: Channel) -> int:
        queue = self._queues[channel.number]
        producer: Producer = channel.producer
        return min(queue.oldest_ns(), producer.unbatched_since_ns())

    def _take_last_reports(self, producer: Producer, why: str) -> None:
        self._tell(producer.events(), why_purged=why)

    def _switch_producer(self, channel: Channel) -> None:
        self._queues[channel.number].switch_to(channel.producer)
        self._loop.call_later(POSITION_REPEAT_S, self._wake_producers)

    def _wake_producers(self) -> None:
        """Let every producer get its producer id before the first request comes. It sends nothing without the id.

        For that a producer needs topic metadata from a broker a second time (fact 3). This is called when the consumer
        has got its first answer, and a little after a producer was replaced.
        """
        for channel in self._pool.channels:
            channel.producer.preload_topic(self._reply_topic)

    # Reading.

    def assign(self, starts: Mapping[int, int]) -> None:
        if self._closed:
            return
        unasked = {partition: 0 for partition, start in starts.items() if start == FROM_BEGINNING}
        self._assign(dict.fromkeys(unasked, FROM_BEGINNING), unasked, unasked)
        self._ask(Question(FROM_END, {partition: at for partition, at in starts.items() if partition not in unasked}))

    def _ask(self, question: Question) -> None:
        if question.wanted and not self._closed:
            number = self._number(question)
            self._send_question(question, number)
            self._loop.call_later(POSITION_REPEAT_S, self._repeat, number)

    def _number(self, question: Question) -> int:
        self._question += 1
        self._questions[self._question] = question
        return self._question

    def _send_question(self, question: Question, number: int) -> None:
        self._consumer.ask_offsets(question.wanted, question.at, number, int(POSITION_TIMEOUT_S * 1000))

    def _repeat(self, number: int) -> None:
        question = self._questions.get(number)
        if question is not None and question.wanted and not self._closed:
            self._send_question(question, number)

    def _offsets_told(self, answer: Offsets) -> None:
        question = self._questions.pop(answer.request, None)
        if question is None:
            return  # the request was repeated, and this is the second answer
        told = {partition: offset for partition, offset in answer.found.items() if partition in question.wanted}
        missing = {partition: at for partition, at in question.wanted.items() if partition not in told}
        if missing:
            why = answer.text or next(iter(answer.failed.values()), "no answer")
            CLIENT_LOG.say(Line("warning", "", why), "cannot position the reply consumer, trying again")
            # Kept under a number, so that `stop_reading` finds it until the link asks again.
            number = self._number(Question(question.at, missing, question.ends))
            self._loop.call_later(POSITION_AGAIN_S, self._ask_again, number)
        if told:
            self._wake_producers()
        if question.at == FROM_END:
            self._ends_told(question.wanted, told)
        else:
            starts = {partition: max(begin, question.wanted[partition]) for partition, begin in told.items()}
            self._assign(starts, starts, {partition: question.ends[partition] for partition in told})

    def _ask_again(self, number: int) -> None:
        self._ask(self._questions.pop(number))

    def _ends_told(self, wanted: dict[int, int], ends: dict[int, int]) -> None:
        placed = place(wanted, ends)
        self._assign(placed.assign, placed.starts, ends)
        self._ask(Question(FROM_BEGINNING, placed.within, ends))

    def _assign(self, assign: dict[int, int], starts: dict[int, int], ends: dict[int, int]) -> None:
        """`assign`: from where librdkafka is to read; `starts`: the same as offsets."""
        fresh = {partition: at for partition, at in assign.items() if partition not in self._reading}
        refused = self._consumer.assign(fresh) if fresh else None
        if refused is not None:
            CLIENT_LOG.say(Line("warning", "", refused[1]), "kafka consumer command failed")
            return
        self._reading.update(fresh)
        for partition in fresh:
            self._consumer.set_next_offset(partition, starts[partition])
        if starts:
            ends = {partition: ends[partition] for partition in starts}
            self._loop.call_soon(self._events.positioned, starts, ends)

    def reached(self, partition: int) -> int:
        return self._consumer.next_offset(partition)

    def stop_reading(self, partitions: Sequence[int]) -> None:
        if self._closed:
            return
        gone = set(partitions)
        for question in self._questions.values():
            for partition in gone:
                question.wanted.pop(partition, None)
        gone &= self._reading
        self._reading -= gone
        refused = self._consumer.unassign(gone) if gone else None
        if refused is not None:
            CLIENT_LOG.say(Line("warning", "", refused[1]), "kafka consumer command failed")

    # The end.

    def close(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._loop.remove_reader(self._reply_fd)
        self._loop.remove_reader(self._event_fd)
        self._loop.remove_reader(self._alarm_fd)
        self._closed = True
        now_ns = time.monotonic_ns()
        for queue in self._queues:
            queue.flush_all(now_ns)
        producers: list[Producer] = self._pool.producers()
        for producer in producers:
            while producer.waiting() and time.monotonic() < deadline:
                producer.flush(FLUSH_SLICE_MS)
                self._tell(producer.events())
        for producer in producers:
            self._tell(producer.events())  # `waiting` counts events that were not taken
        left = sum(producer.waiting() for producer in producers)
        clients = [*producers, self._consumer]
        for client in clients:
            client.mute()  # first: librdkafka must not write to descriptors that were closed and reused
        os.close(self._reply_fd)
        os.close(self._event_fd)
        os.close(self._alarm_fd)
        threads = [_close_in_background(client) for client in clients]
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        return left

    # Logging.

    def _log(self, event: ClientError | LogLine | Statistics) -> None:
        if isinstance(event, Statistics):
            log.info("kafka statistics", **figures_of(event.text))
        elif isinstance(event, LogLine):
            CLIENT_LOG.say(of_log(event.level, event.facility, event.text))
        else:
            CLIENT_LOG.say(of_error(event.name, event.text))


def _why_refused(code: int, text: str, died: bool) -> tuple[Ending, str]:
    if died:  # `code` is that of the fatal error
        return errors.QUEUE_FULL, "the producer died and was replaced; send again"
    return errors.QUEUE_FULL if code == QUEUE_FULL else REFUSALS.get(code, errors.REFUSED_SEND), text


def _kinds_of_properties(settings: LinkSettings, delivery_class: int) -> list[list[tuple[str, str]]]:
    """The properties of a delivery class's producers, by kind."""
    # `batching` chooses the partitions of records without a key.
    gathering = producer_properties(settings, delivery_class) | {"sticky.partitioning.linger.ms": 0}
    at_once = gathering | {"linger.ms": 0}
    return [_as_text(gathering), _as_text(at_once)]


def _as_text(properties: Properties) -> list[tuple[str, str]]:
    return [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in properties.items()]


def _made(make: Callable[[], NewClient]) -> NewClient:
    try:
        return make()
    except ValueError as refused:
        raise errors.ConfigError(f"kafka.client: {refused}") from None


def _close_in_background(client: Client) -> threading.Thread:
    thread = threading.Thread(target=client.close, name="fastgw-kafka-close", daemon=True)
    thread.start()
    return thread
