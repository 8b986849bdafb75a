"""The Kafka link on librdkafka itself: no Kafka thread of ours, no Python object for a delivery report.

The library is the one that confluent_kafka has loaded (see `_klink`): the loop watches two eventfds, one for replies,
one for everything else, and an alarm. Against the public API this saves a thread, the hand-over of the GIL and a
wake-up a batch, and it knows of every record that failed whether it may be in the log.

    not_recorded   librdkafka never gave the record to a broker, or the broker refused it
    unknown        it left and was not acknowledged

Records leave in flights (see `batching`), which a timer and the delivery reports let go. A producer whose oldest record
is about to be overdue is retired (see `kafka_client.BEYOND_REACH_MS`): a successor takes what comes from then on.

Where nothing may wait. Positions are asked for with ListOffsets of the admin API, whose answer is one more event: one
round trip, and the offset is known before the first record is fetched (assigning "the end" would leave it unknown until
a record comes). Assigning is a hand-over to librdkafka's main thread and back, a tenth of a millisecond, at start and
when partitions move. A client is destroyed on a thread of its own, because that waits for librdkafka's threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import confluent_kafka  # loads the library that is used here
import structlog

from fastgw import errors
from fastgw._ctable import SlotRange
from fastgw.client_lines import Line, of_error, of_log
from fastgw.dialects import plain
from fastgw.errors import Ending, FastgwError, QueueFull, SendRefused
from fastgw.kafka import _klink
from fastgw.kafka._klink import ClientError, Consumer, Delivered, LogLine, Offsets, Producer, Statistics, Undelivered
from fastgw.kafka.batching import RecordQueue, RefusedRecord
from fastgw.kafka.client_log import CLIENT_LOG
from fastgw.kafka.link import (
    FROM_BEGINNING,
    FROM_END,
    NEVER,
    POSITION_TIMEOUT_S,
    PURGED,
    QUEUE_BYTES,
    QUEUE_FULL,
    REFUSALS,
    REPLACE_AGAIN_NS,
    LinkEvents,
    LinkSettings,
    Settings,
    figures_of,
    patience,
)
from fastgw.messages import Record

log = structlog.get_logger("fastgw.kafka")

OLDEST, TOO_NEW = 0x02100000, 0x03000000  # librdkafka 2.16.0 up to, not including, 3.0: what this file was run with
POSITION_AGAIN_S = 0.1  # between two questions for offsets that could not be told
# One start in forty, librdkafka does not notice that it has been told the leaders of the partitions, and looks again
# three seconds later. The same question once more is answered at once.
POSITION_REPEAT_S = 0.2
FLUSH_SLICE_MS = 20  # how often a flush looks for records that have failed
GIVEN_UP_AT_ONCE = 1000  # records whose time is up, on one tick: their answers must not hold up the loop
NewClient = TypeVar("NewClient", Producer, Consumer)


class NativeUnavailable(FastgwError):
    """The library cannot be used this way here; the text says why."""


def open_library(path: str | None = None, oldest: int = OLDEST, too_new: int = TOO_NEW) -> str:
    """Gets hold of confluent_kafka's librdkafka; returns its version. The arguments are for tests.

    Raises:
        NativeUnavailable: there is none as a library of its own, it lacks a function, or its version is another.
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
    # The file's name changes with every wheel; what confluent_kafka has mapped is right for wheels and own builds.
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if os.path.basename(path).startswith("librdkafka"):
                return f"/{path}"
    raise NativeUnavailable(f"confluent_kafka {confluent_kafka.__version__} has no librdkafka as a library of its own")


class NativeLink:
    """One worker's producers and its consumer, all on the loop's thread. See kafka_client.Link for what it promises."""

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
            events: told what happens.
            loop: watches the eventfds.
            slots: where delivered records are marked as recorded, in C; without it `events.delivered` is called.

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
        self._alarm_ns = NEVER  # when it will go off
        # One for each delivery class, then one for each whose records do not wait for others.
        self._classes = len(settings.delivery_timeouts_ms)
        steered = {"sticky.partitioning.linger.ms": 0}
        gathering = [settings.producer(number) | steered for number in range(self._classes)]
        at_once = [producer | {"linger.ms": 0} for producer in gathering]
        self._producer_settings = [_as_text(producer) for producer in (*gathering, *at_once)]
        self._topics: list[set[str]] = [set() for _ in range(self._classes)]
        self._producers = [self._new_producer(number) for number in range(2 * self._classes)]
        self._spares: dict[int, Producer] = {}  # number -> who would succeed its producer
        self._replace_from_ns = [0] * len(self._producers)
        self._flights = [
            RecordQueue(
                producer,
                0 if number >= self._classes else int(settings.linger_ms * 1_000_000),
                settings.sticky_linger_ms * 1_000_000,
                QUEUE_BYTES,
                self._come_back,
                partial(self._refuse_late, number),
            )
            for number, producer in enumerate(self._producers)
        ]
        self._patience = [patience(timeout_ms) for timeout_ms in (*settings.delivery_timeouts_ms,) * 2]
        self._retired: list[_Retired] = []
        self._consumer = _made(
            lambda: Consumer(
                _as_text(settings.consumer()),
                settings.reply_topic,
                plain.CORRELATION_ID,
                self._reply_fd,
                self._event_fd,
            )
        )
        self._reading: set[int] = set()
        self._questions: dict[int, set[int]] = {}  # number -> partitions whose end is asked for
        self._question = 0
        self._closed = False

    def _new_producer(self, number: int) -> Producer:
        settings = self._producer_settings[number]
        producer = _made(lambda: Producer(settings, self._slots, self._event_fd, self._partitioners))
        for topic in self._topics[number % self._classes]:
            producer.introduce(topic)
        return producer

    def start(self) -> None:
        self._loop.add_reader(self._reply_fd, self._on_reply_fd)
        self._loop.add_reader(self._event_fd, self._on_event_fd)
        self._loop.add_reader(self._alarm_fd, self._on_alarm_fd)

    # Sending.

    def preload_topic(self, delivery_class: int, topic: str) -> None:
        self._topics[delivery_class].add(topic)
        for producer in self._producers[delivery_class :: self._classes]:
            producer.introduce(topic)

    def send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:
        # Records with a key stay in the order of their requests, and only one producer can promise that.
        number = delivery_class if concurrency_hint or record.key is not None else delivery_class + self._classes
        if record.partition < 0:
            flights = self._flights[number]
            refused = flights.send(record, token, concurrency_hint, now_ns)
        else:
            producer = self._producers[number]
            refused = producer.send(record.topic, record.value, record.key, record.headers, record.partition, token)
        if refused is None:
            return
        if refused[0] == QUEUE_FULL:
            raise QueueFull(refused[1])
        raise SendRefused(*_why_refused(*refused, self._has_died(number, refused[1])))

    def cancel_unsent(self, token: int) -> bool:
        return any(flights.withdraw(token) for flights in self._flights)

    def _has_died(self, number: int, detail: str) -> bool:
        """Whether that is why a record was refused; if so, the producer has a successor now, or soon."""
        if self._producers[number].fatal() is None:
            return False
        self._replace_producer(number, detail)
        return True

    def send_untracked(self, record: Record) -> bool:
        refused = self._producers[0].send(
            record.topic, record.value, record.key, record.headers, record.partition, _klink.UNTRACKED
        )
        if refused is not None:
            self._has_died(0, refused[1])
        return refused is None

    # RecordQueue.

    def _come_back(self, due_ns: int) -> None:
        if due_ns < self._alarm_ns:
            self._alarm_ns = due_ns
            _klink.set_alarm(self._alarm_fd, due_ns)

    def _on_alarm_fd(self) -> None:
        _klink.clear(self._alarm_fd)
        self._alarm_ns = NEVER
        now_ns = time.monotonic_ns()
        for flights in self._flights:
            flights.leave(now_ns)

    def _refuse_late(self, number: int, refusals: Sequence[RefusedRecord]) -> None:
        died = self._has_died(number, refusals[0][2])
        for token, code, text in refusals:
            self._events.undelivered(token, *_why_refused(code, text, died))

    def _give_up_waiting(self) -> None:
        now_ns = time.monotonic_ns()
        for flights, given in zip(self._flights, self._patience, strict=True):
            for token in flights.expired(now_ns - given.unsent_ns, GIVEN_UP_AT_ONCE):
                self._events.undelivered(token, errors.NOT_SENT, "the record had not been sent")
            flights.leave(now_ns)

    # What comes back.

    def poll(self) -> None:
        self._take_producers_events()
        self._retire_overdue()
        self._give_up_waiting()
        self._take_consumers_events()
        self._take_replies()

    def _on_reply_fd(self) -> None:
        _klink.clear(self._reply_fd)
        self._take_producers_events()  # first the acks, then the replies that followed them
        self._take_replies()

    def _on_event_fd(self) -> None:
        _klink.clear(self._event_fd)
        self._take_producers_events()
        self._take_consumers_events()

    def _take_replies(self) -> None:
        replies = self._consumer.replies()
        if replies:
            self._events.replies(replies)
            if len(replies) == _klink.BATCH:  # there may be more, and librdkafka tells of an empty queue's filling only
                self._loop.call_soon(self._take_replies)

    def _take_producers_events(self) -> None:
        for number, producer in enumerate(self._producers):
            told = producer.events()
            landed = producer.landed()
            if landed:  # first: who is told may send again, and must not go with a flight that has ended
                self._flights[number].landed(landed, time.monotonic_ns())
            self._tell(told, number)
        for spare in self._spares.values():
            self._tell(spare.events())
        if self._retired:
            self._bury(time.monotonic_ns())

    def _take_consumers_events(self) -> None:
        for event in self._consumer.events():
            if isinstance(event, Offsets):
                self._offsets_told(event)
            else:
                self._log(event)

    def _tell(
        self,
        events: Sequence[Delivered | Undelivered | ClientError | LogLine | Statistics],
        number: int = -1,
        why_purged: str = "",
    ) -> None:
        """`number` -1: the producer has a successor already."""
        for event in events:
            if isinstance(event, Delivered):
                self._events.delivered(event.token, event.at_ns)
            elif isinstance(event, Undelivered):
                self._tell_fate(event._replace(text=why_purged) if why_purged and event.code in PURGED else event)
            elif isinstance(event, ClientError) and event.fatal and number >= 0:
                self._replace_producer(number, f"{event.name}: {event.text}")
            else:
                self._log(event)

    def _tell_fate(self, failed: Undelivered) -> None:
        if failed.status == _klink.PERSISTED:
            self._events.delivered(failed.token, time.monotonic_ns())
        elif failed.status == _klink.NOT_PERSISTED:
            self._events.undelivered(failed.token, REFUSALS.get(failed.code, errors.NOT_SENT), failed.text)
        else:
            self._events.undelivered(failed.token, errors.SEND_UNKNOWN, failed.text)

    # A producer's end.

    def _replace_producer(self, number: int, detail: str) -> None:
        old = self._producers[number]
        if self._closed or old.fatal() is None:
            return  # the error is told by an event and by the next `send`: the second one means a producer that is gone
        now_ns = time.monotonic_ns()
        if now_ns < self._replace_from_ns[number]:
            old.purge()
            return  # dead until a later `send` finds it so
        log.error("producer died, replaced", delivery_class=number % self._classes, detail=detail)
        self._retire(number, now_ns, now_ns, "the producer had died")

    def _retire_overdue(self) -> None:
        if self._closed:
            return
        now_ns = time.monotonic_ns()
        for number, given in enumerate(self._patience):
            age_ns = now_ns - min(self._flights[number].oldest_ns(), self._producers[number].strays_since_ns())
            if age_ns >= given.retire_ns:
                log.warning("producer retired, Kafka is late", delivery_class=number % self._classes)
                self._retire(number, now_ns, now_ns + given.grace_ns, "Kafka did not acknowledge it in time")
            elif age_ns >= given.spare_ns:
                if number not in self._spares:
                    self._spares[number] = self._new_producer(number)
            elif number in self._spares:
                _in_background(self._spares.pop(number).close)

    def _retire(self, number: int, now_ns: int, until_ns: int, why: str) -> None:
        """Has another producer go on; this one may finish what it holds until that time."""
        self._retired.append(_Retired(self._producers[number], until_ns, why))
        self._replace_from_ns[number] = now_ns + REPLACE_AGAIN_NS
        spare = self._spares.pop(number, None)
        successor = self._producers[number] = spare or self._new_producer(number)
        self._flights[number].go_on_with(successor)
        self._loop.call_later(POSITION_REPEAT_S, self._wake_producers)

    def _bury(self, now_ns: int) -> None:
        for retired in list(self._retired):
            producer = retired.producer
            if now_ns >= retired.until_ns:
                producer.purge()  # what it holds comes back as undelivered, each record with what is known of it
            self._tell(producer.events(), why_purged=retired.why)
            if producer.waiting() == 0:
                self._retired.remove(retired)
                _in_background(producer.close)

    # Reading.

    def assign(self, partitions: Sequence[int], at: int = FROM_END) -> None:
        if self._closed:
            return
        if at == FROM_BEGINNING:
            self._assign(dict.fromkeys(partitions, FROM_BEGINNING), dict.fromkeys(partitions, 0))
        else:
            self._ask(set(partitions))

    def _ask(self, partitions: set[int]) -> None:
        if partitions and not self._closed:
            self._question += 1
            self._questions[self._question] = partitions
            self._consumer.ask_offsets(partitions, FROM_END, self._question, int(POSITION_TIMEOUT_S * 1000))
            self._loop.call_later(POSITION_REPEAT_S, self._repeat, self._question)

    def _repeat(self, question: int) -> None:
        partitions = self._questions.get(question)
        if partitions and not self._closed:
            self._consumer.ask_offsets(partitions, FROM_END, question, int(POSITION_TIMEOUT_S * 1000))

    def _offsets_told(self, answer: Offsets) -> None:
        wanted = self._questions.pop(answer.request, None)
        if wanted is None:
            return  # the question was repeated, and this is the other answer
        offsets = {partition: offset for partition, offset in answer.found.items() if partition in wanted}
        missing = wanted - offsets.keys()
        if missing:
            why = answer.text or next(iter(answer.failed.values()), "no answer")
            CLIENT_LOG.say(Line("warning", "", why), "cannot position the reply consumer, trying again")
            self._question += 1
            self._questions[self._question] = missing  # where `stop_reading` finds it until it is asked again
            self._loop.call_later(POSITION_AGAIN_S, self._ask_again, self._question)
        if offsets:
            self._wake_producers()
        self._assign(offsets, offsets)

    def _wake_producers(self) -> None:
        """Sees that no producer is without its id, without which it sends nothing, when the first request comes.

        librdkafka asks for the id half a second after its start, or when a broker tells it of topics. The first answer
        of a broker comes too early for that: it ends the connection that it came by. So there has to be a second one,
        and it is caused here, when the consumer has just got its own, and a little after a producer was replaced.
        """
        for producer in self._producers:
            producer.introduce(self._reply_topic)

    def _ask_again(self, question: int) -> None:
        self._ask(self._questions.pop(question))

    def _assign(self, starts: dict[int, int], offsets: dict[int, int]) -> None:
        fresh = {partition: start for partition, start in starts.items() if partition not in self._reading}
        refused = self._consumer.assign(fresh) if fresh else None
        if refused is not None:
            CLIENT_LOG.say(Line("warning", "", refused[1]), "kafka consumer command failed")
            return
        self._reading.update(fresh)
        if offsets:
            self._loop.call_soon(self._events.positioned, offsets)

    def stop_reading(self, partitions: Sequence[int]) -> None:
        if self._closed:
            return
        gone = set(partitions)
        for wanted in self._questions.values():
            wanted -= gone
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
        for flights in self._flights:
            flights.leave_all(now_ns)
        producers = [*self._producers, *self._spares.values(), *(retired.producer for retired in self._retired)]
        for producer in producers:
            while producer.waiting() and time.monotonic() < deadline:
                producer.flush(FLUSH_SLICE_MS)
                self._tell(producer.events())
        for producer in producers:
            self._tell(producer.events())  # what is not taken in would count as waiting
        left = sum(producer.waiting() for producer in producers)
        clients = [*producers, self._consumer]
        for client in clients:
            client.mute()  # before the descriptors go: librdkafka must not write to whoever gets their numbers next
        os.close(self._reply_fd)
        os.close(self._event_fd)
        os.close(self._alarm_fd)
        burials = [_in_background(client.close) for client in clients]
        for burial in burials:
            burial.join(max(0.1, deadline - time.monotonic()))
        return left

    # What people are told.

    def _log(self, event: ClientError | LogLine | Statistics) -> None:
        if isinstance(event, Statistics):
            log.info("kafka statistics", **figures_of(event.text))
        elif isinstance(event, LogLine):
            CLIENT_LOG.say(of_log(event.level, event.facility, event.text))
        else:
            CLIENT_LOG.say(of_error(event.name, event.text))


class _Retired(NamedTuple):
    """A producer that has a successor; kept until the fate of each of its records is told."""

    producer: Producer
    until_ns: int  # when (monotonic) what it still holds is given up
    why: str  # it is given up then


def _why_refused(code: int, text: str, died: bool) -> tuple[Ending, str]:
    if died:  # the code is that of what was fatal
        return errors.QUEUE_FULL, "the producer had died and was replaced; send again"
    return errors.QUEUE_FULL if code == QUEUE_FULL else REFUSALS.get(code, errors.REFUSED_SEND), text


def _as_text(settings: Settings) -> list[tuple[str, str]]:
    return [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in settings.items()]


def _made(make: Callable[[], NewClient]) -> NewClient:
    try:
        return make()
    except ValueError as refused:
        raise errors.ConfigError(f"kafka.client: {refused}") from None


def _in_background(close: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=close, name="fastgw-kafka-close", daemon=True)
    thread.start()
    return thread
