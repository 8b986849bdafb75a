"""The service side: answers the requests that the gateway writes to a topic.

    from fastgw.service import Reply, Service

    orders = Service("orders", bootstrap="localhost:9092")

    @orders.handle("POST /orders")
    def create(request):
        return Reply({"id": 42}, status=201)

    orders.run()

The thread that calls `run` owns both Kafka clients. Each turn of its loop takes the records that have arrived (`poll`,
then `consume` without waiting), runs the handlers, queues the replies, serves the delivery reports and stores offsets.
Batches keep this cheap: all records that arrive together share one wake-up, one fetch and one produce request. Async
handlers run on an event loop in another thread. Sync handlers run in a thread pool if `concurrency` is above 1. Both
pass their replies directly to the producer, which is thread-safe, and use nothing else of this thread. Handlers that
use `yield` have threads and a producer of their own (`streams`).

Delivery is at least once. The offset of a record is stored when its reply, or the first item of its stream, is on the
response topic (delivery report) and all records before it are settled. librdkafka commits stored offsets every second,
when a partition is revoked and on close. So a crash repeats about the last second of work and loses none.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple, overload

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fastgw import client_lines, topic_names
from fastgw.dialects import plain, streams
from fastgw.errors import ConfigError, FastgwError, StartError
from fastgw.service import clients
from fastgw.service.handlers import EVERYTHING, Handler, Handlers
from fastgw.service.log import CLIENT_LOG, Warnings, log
from fastgw.service.loop_thread import AsyncJob, LoopThread
from fastgw.service.messages import IDEMPOTENCY_KEY, Problem, ReplyRecord, Request, decimal, is_over, reply_record
from fastgw.service.outputs import EXPIRED, Collected, Output, Stream
from fastgw.service.progress import InHand, OffsetProgress
from fastgw.service.repeats import Repeats
from fastgw.service.replies import NOT_ALLOWED, QUEUE_FULL_WAIT_S, Replies, Work, no_handler, refused
from fastgw.service.streams import Streams

POLL_S = 0.1  # duration of one wait for records; a stop is noticed within this time
BATCH_RECORDS_MAX = 500
BATCH_TARGET_NS = 250_000_000  # a batch must not delay a rebalance or exceed max.poll.interval.ms
ASYNC_CONCURRENCY = 100  # concurrent async handlers if `concurrency` is not given
MESSAGE_MAX_BYTES = 1_000_000  # librdkafka's default of `message.max.bytes`
CANCEL_REMEMBERED_S = 600  # if a cancel record has no deadline; the gateway's default of `max_duration`
REVOKE_WAIT_S = 5.0  # how long a rebalance waits for running work; the new owner repeats what takes longer

LEGAL_TOPIC = re.compile(topic_names.LEGAL.encode()).fullmatch


class Counts(NamedTuple):
    """What a service has done since its start, in records."""

    taken: int  # read from the request topic
    unreadable: int  # dropped: header names are not UTF-8
    expired: int  # dropped, or answered 504 if the gateway asks for it: their deadline had passed
    unknown_route: int  # answered 404: no handler
    failed: int  # answered 500: the handler raised, or its result cannot be sent
    replied: int  # replies written to the response topic; a stream counts once, at its end
    undeliverable: int  # replies that Kafka refused permanently
    repeated: int  # answered with the reply to another request with the same idempotency key


class Service:
    """A service: handlers for the requests on one topic, and the loop that calls them.

    Args:
        topic: the request topic.
        bootstrap: Kafka's `host:port`, several separated by commas.
        group: the consumer group; by default the topic's name. Processes of one group share the work.
        concurrency: how many handlers may run at the same time; those that use `yield` are counted separately. By
            default sync handlers run one after the other on the consumer's thread (the cheapest way), and up to 100
            async handlers run concurrently, and 100 that use `yield`. Above 1, sync handlers run in a pool of this many
            threads. Concurrent requests are not kept in order.
        client: librdkafka properties for both clients, such as `security.protocol`.
        linger_ms: how long a reply may wait to share a produce request with others.
        start_wait_s: how long to wait for a broker at the start.
        stop_wait_s: how long a stop waits for running handlers. Streams that take longer end with an error.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        topic: str,
        *,
        bootstrap: str = "localhost:9092",
        group: str | None = None,
        concurrency: int | None = None,
        client: clients.Properties | None = None,
        linger_ms: float = 1,
        start_wait_s: float = 10,
        stop_wait_s: float = 10,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ConfigError(f"Service({topic!r}): concurrency must be at least 1, got {concurrency}")
        clients.check(client or {})
        # Settings: fixed from here on.
        self.topic = topic
        self._bootstrap = bootstrap
        self._group = group or topic
        self._client = dict(client or {})
        self._linger_ms = linger_ms
        self._start_wait_s = start_wait_s
        self._stop_wait_s = stop_wait_s
        self._concurrency = concurrency
        self._handlers = Handlers(topic)
        # Shared with other threads.
        self._stop = threading.Event()
        self._joined = threading.Event()
        self._in_hand = InHand(concurrency or ASYNC_CONCURRENCY)
        self._replies = Replies()
        self._repeats = Repeats()
        self._streams = Streams(self._replies, self._handlers.asynchronous, concurrency or ASYNC_CONCURRENCY)
        # Bound once, because they are called for every request.
        self._find, self._async_handlers = self._handlers.find, self._handlers.asynchronous
        self._streaming_handlers = self._handlers.streaming
        self._answer_of, self._send = self._replies.answer_of, self._replies.send
        self._try_produce = self._replies.try_produce
        # The consumer's thread only.
        self._progress: dict[int, OffsetProgress] = {}
        self._batch_records = 16  # grows to what BATCH_TARGET_NS allows
        self._taken = self._unreadable = self._expired = self._unknown_route = 0
        self._warnings = Warnings()
        self._last_client_error = ""
        self._is_held = False  # no records are taken, because too many streams wait to begin
        self._consumer: Any = None
        self._producer: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._loop_thread: LoopThread | None = None

    def __repr__(self) -> str:
        state = "stopping" if self._stop.is_set() else "joined" if self._joined.is_set() else "not joined"
        return f"Service(topic={self.topic} group={self._group} {state} partitions={sorted(self._progress)})"

    # ---- public API ------------------------------------------------------------------------------------------------

    @overload
    def handle(self, route: Handler) -> Handler: ...
    @overload
    def handle(self, route: str = "") -> Callable[[Handler], Handler]: ...
    def handle(self, route: str | Handler = "") -> Handler | Callable[[Handler], Handler]:
        """Registers a handler, sync or async: `@orders.handle` for all requests, `@orders.handle("GET /orders/{id}")`,
        `@orders.handle("/orders/{id}")` or `@orders.handle("GET")` for some. The most specific handler is called.

        A handler that uses `yield` answers with a stream.

        The path must equal the gateway's route template.

        Raises:
            ConfigError: the route is invalid or already has a handler.
        """
        if not isinstance(route, str):
            self._handlers.add(EVERYTHING, route)
            return route
        place = self._handlers.place_of(route)

        def register(handler: Handler) -> Handler:
            self._handlers.add(place, handler)
            return handler

        return register

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, as the main program. Then finishes its work, commits, leaves the group.

        A permanent failure ends the program with one line on stderr and exit code 2 (wrong setting, broker unreachable,
        topic missing) or 1 (Kafka refused this client). A second signal ends it at once.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._on_signal)
        try:
            self.serve()
        except FastgwError as error:
            print(f"{self.topic}: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def serve(self) -> None:
        """Serves in the calling thread until `stop`.

        Raises:
            ConfigError: there is no handler, or librdkafka does not accept a property.
            StartError: the broker does not answer, or the topic does not exist.
            FastgwError: Kafka refused this client permanently; running work was finished or will be repeated.
        """
        self._open()
        try:
            while not self._stop.is_set():
                self._turn()
                self._warnings.sum_up()
                CLIENT_LOG.sum_up()
        finally:
            self._close()

    def stop(self) -> None:
        """Makes `run` or `serve` end. Returns at once; any thread may call it."""
        self._stop.set()

    def wait_until_joined(self, timeout_s: float) -> bool:
        """Waits for the first assignment of the group (which may be empty); False after the timeout."""
        return self._joined.wait(timeout_s)

    @property
    def counts(self) -> Counts:
        """The counts so far."""
        return Counts(
            self._taken,
            self._unreadable,
            self._expired,
            self._unknown_route,
            self._replies.failed,
            self._replies.replied + self._streams.replied,
            self._replies.undeliverable + self._streams.undeliverable,
            self._repeats.answered,
        )

    # ---- one turn of the loop --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        # Handlers on other threads limit how much is taken. While none may start, rebalances wait for one to end.
        room = self._in_hand.wait_for_room(POLL_S)
        self._hold(self._streams.are_full())
        if room:
            self._handle_batch(self._take(min(room, self._batch_records)))
        self._producer.poll(0)
        self._replies.settle_refused()
        self._store_offsets()
        if self._streams.failure is not None:
            raise self._streams.failure

    def _hold(self, is_held: bool) -> None:
        # Streams may take minutes, and a member that does not poll loses its partitions: so they are paused and polled.
        # While held, each turn pauses what a rebalance may have added.
        if is_held:
            self._consumer.pause(self._consumer.assignment())
        elif self._is_held:
            self._consumer.resume(self._consumer.assignment())
        self._is_held = is_held

    def _take(self, most: int) -> list[Any]:
        # consume() waits for the full number of records, so poll() does the waiting.
        first = self._consumer.poll(POLL_S)
        if first is None:
            return []
        return [first, *self._consumer.consume(most - 1, 0)] if most > 1 else [first]

    def _handle_batch(self, messages: list[Any]) -> None:
        if not messages:
            return
        started_ns = time.monotonic_ns()
        async_jobs: list[AsyncJob] = []
        for message in messages:
            if self._stop.is_set():  # the rest is not committed and will be read again
                break
            self._begin(message, async_jobs)
        if async_jobs and self._loop_thread:
            self._loop_thread.start(async_jobs)
        took_ns = time.monotonic_ns() - started_ns
        affordable = BATCH_TARGET_NS * len(messages) // max(took_ns, 1)
        self._batch_records = max(1, min(BATCH_RECORDS_MAX, affordable, self._batch_records * 2))

    def _begin(self, message: Any, async_jobs: list[AsyncJob]) -> None:
        if message.error() is not None:
            self._on_consumer_error(message.error())
            return
        self._taken += 1
        work = self._work(message)
        if work is None:
            return
        headers = work.request.record_headers
        if streams.CANCEL in headers and plain.REPLY_TO not in headers:
            self._cancel(work)
            return
        is_expired = is_over(work.request)
        if is_expired and headers.get(streams.ANSWER_EXPIRED) != streams.YES:
            self._drop_expired(work)
            return
        handler = self._find(work.request)
        if handler is None:
            self._answer_unknown(work)
            return
        is_keyed = IDEMPOTENCY_KEY in headers and not _wants_stream(work)
        if is_keyed and not self._is_first(work):
            return
        if is_expired:
            self._answer_expired(work)
        elif handler in self._streaming_handlers:
            self._streams.start(handler, self._output(work))
        elif handler in self._async_handlers:
            self._in_hand.enter()
            async_jobs.append(partial(self._run_async, handler, work))
        elif self._pool:
            self._in_hand.enter()
            self._pool.submit(self._run_in_pool, handler, work)
        elif is_keyed:
            self._send_answers(work, self._answer_of(handler, work))
        else:
            self._send(work, self._answer_of(handler, work))

    def _work(self, message: Any) -> Work | None:
        partition, offset = message.partition(), message.offset()
        progress = self._progress.get(partition)
        if progress is None:
            progress = self._progress[partition] = OffsetProgress()
        progress.start(offset)
        try:
            headers = dict(message.headers() or ())
        except (SystemError, UnicodeError):  # confluent-kafka raises these if a header's name is not UTF-8
            self._unreadable += 1
            self._warnings.warn("unreadable_record", f"topic={self.topic} partition={partition} offset={offset}")
            progress.finish(offset)
            return None
        reply_partition = decimal(headers.get(plain.REPLY_PARTITION), 9)
        return Work(
            Request(message.value() or b"", headers),
            progress,
            offset,
            _topic(headers.get(plain.REPLY_TO) or b""),
            -1 if reply_partition is None else reply_partition,
            headers.get(plain.CORRELATION_ID) or b"",
        )

    def _output(self, work: Work) -> Output:
        """Where the items of a handler that uses `yield` go."""
        if _wants_stream(work):
            until_epoch_ms = decimal(work.request.record_headers.get(streams.UNTIL), 13) or 0
            return Stream(work, self._streams, until_epoch_ms, time.monotonic_ns())
        until_epoch_ms = work.request.deadline_epoch_ms or 0  # then the client has its answer
        max_bytes = int(self._client.get("message.max.bytes", MESSAGE_MAX_BYTES))
        return Collected(work, self._streams, until_epoch_ms, max_bytes, self._answers, self._try_produce)

    def _cancel(self, work: Work) -> None:
        deadline_ms = work.request.deadline_epoch_ms
        left_ms = CANCEL_REMEMBERED_S * 1000 if deadline_ms is None else deadline_ms - time.time_ns() // 1_000_000
        self._streams.cancel(work.request.record_headers[streams.CANCEL] or b"", left_ms * 1_000_000)
        work.progress.finish(work.offset)

    def _is_first(self, work: Work) -> bool:
        """Whether the work has to be done, because no other request with its idempotency key has been seen."""
        self._in_hand.enter()  # it counts as a running handler while it waits for the other request's reply
        known = self._repeats.begin(work)
        if known is not False:
            self._in_hand.leave()
        if isinstance(known, ReplyRecord):
            self._send(work, known)
        return known is True

    def _answers(self, work: Work, reply: ReplyRecord) -> list[tuple[Work, ReplyRecord]]:
        """A reply, and its copies for requests that wait for it. Any thread may call this."""
        if IDEMPOTENCY_KEY not in work.request.record_headers:
            return [(work, reply)]
        waiting = self._repeats.end(work, reply)
        for _ in waiting:
            self._in_hand.leave()
        return [(work, reply), *waiting]

    def _send_answers(self, work: Work, reply: ReplyRecord) -> None:
        for each in self._answers(work, reply):
            self._send(*each)

    def _answer_expired(self, work: Work) -> None:
        self._note_expired(work, "expired_work_answered")
        self._send_answers(work, EXPIRED.problem(work))

    def _drop_expired(self, work: Work) -> None:
        self._note_expired(work, "expired_work_dropped")
        work.progress.finish(work.offset)

    def _note_expired(self, work: Work, event: str) -> None:
        self._expired += 1
        late_ms = time.time_ns() // 1_000_000 - (work.request.deadline_epoch_ms or 0)
        self._warnings.warn(
            event,
            f"topic={self.topic} late_ms={late_ms} correlation_id={work.request.correlation_id}:"
            " this service is too slow for its load, was down, or its clock differs from the gateway's",
        )

    def _answer_unknown(self, work: Work) -> None:
        self._unknown_route += 1
        reply, detail = no_handler(work, self.topic, self._handlers.names())
        self._warnings.warn("unknown_route", f"{detail} correlation_id={work.request.correlation_id}")
        self._send(work, reply)

    def _store_offsets(self) -> None:
        news = []
        for partition, progress in self._progress.items():
            offset = progress.committable()
            if offset >= 0:
                news.append(TopicPartition(self.topic, partition, offset))
        if news:
            with suppress(KafkaException):  # the partition was just revoked: its new owner repeats the work
                self._consumer.store_offsets(offsets=news)

    # ---- handlers --------------------------------------------------------------------------------------------------

    def _run_in_pool(self, handler: Handler, work: Work) -> None:
        try:
            for each in self._answers(work, self._answer_of(handler, work)):
                while not self._try_produce(*each):
                    time.sleep(QUEUE_FULL_WAIT_S)  # the consumer's thread empties the queue
        finally:
            self._in_hand.leave()

    async def _run_async(self, handler: Handler, work: Work) -> None:
        try:
            try:
                out = reply_record(work.correlation_id, await handler(work.request))
            except Problem as refusal:
                out = refused(work, refusal)
            except Exception:
                out = self._replies.failure(handler, work)
            for each in self._answers(work, out):
                while not self._try_produce(*each):
                    await asyncio.sleep(QUEUE_FULL_WAIT_S)
        finally:
            self._in_hand.leave()

    # ---- the group -------------------------------------------------------------------------------------------------

    def _on_assign(self, _consumer: Any, partitions: Iterable[Any]) -> None:
        log.info("assigned topic=%s group=%s partitions=%s", self.topic, self._group, _numbers(partitions))
        self._joined.set()

    def _on_revoke(self, _consumer: Any, partitions: Iterable[Any]) -> None:
        """Partitions are revoked: running work is finished first, so that the next owner need not repeat it.

        Streams may take minutes, so they are stopped.
        """
        log.info("revoked topic=%s group=%s partitions=%s", self.topic, self._group, _numbers(partitions))
        moved = self._streams.move(self._progress_of(partitions))
        self._streams.wait_until_done(moved, REVOKE_WAIT_S)
        self._in_hand.wait_until_none(REVOKE_WAIT_S)
        self._producer.flush(REVOKE_WAIT_S)
        self._store_offsets()
        self._forget(partitions)

    def _on_lost(self, _consumer: Any, partitions: Iterable[Any]) -> None:
        log.warning("lost topic=%s group=%s partitions=%s", self.topic, self._group, _numbers(partitions))
        self._streams.move(self._progress_of(partitions))
        self._forget(partitions)

    def _progress_of(self, partitions: Iterable[Any]) -> list[OffsetProgress]:
        return [self._progress[each.partition] for each in partitions if each.partition in self._progress]

    def _forget(self, partitions: Iterable[Any]) -> None:
        for partition in partitions:
            self._progress.pop(partition.partition, None)

    # ---- starting and stopping -------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._handlers:
            raise ConfigError(f"Service({self.topic!r}): no handler; put @service.handle above a function")
        try:
            self._make_clients()
        except KafkaException as error:
            raise ConfigError(f"Service({self.topic!r}): client property: {error.args[0].str().strip()}") from None
        try:
            self._check_topic()
        except StartError:
            self._consumer.close()
            raise
        if self._async_handlers:
            self._loop_thread = LoopThread(f"{self.topic} handlers")
        if self._concurrency is not None and self._concurrency > 1:
            self._pool = ThreadPoolExecutor(self._concurrency, f"{self.topic} handlers")
        if self._streaming_handlers:
            self._streams.open(self.topic, self._make_stream_producer, self._loop_thread)
        self._consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _make_clients(self) -> None:
        consumer = clients.consumer_properties(self._bootstrap, self.topic, self._group, self._client)
        producer = clients.producer_properties(self._bootstrap, self.topic, self._linger_ms, self._client)
        self._consumer = Consumer(consumer | {"error_cb": self._on_client_error}, logger=CLIENT_LOG)
        self._producer = Producer(producer | {"error_cb": self._on_client_error}, logger=CLIENT_LOG)
        self._replies.producer = self._producer

    def _make_stream_producer(self, on_error: Callable[[KafkaError], None]) -> Any:
        def tell(error: KafkaError) -> None:
            on_error(error)
            self._on_client_error(error)

        ours = clients.stream_producer_properties(self._bootstrap, self.topic, self._linger_ms, self._client)
        return Producer(ours | {"error_cb": tell}, logger=CLIENT_LOG)

    def _check_topic(self) -> None:
        try:
            found = self._consumer.list_topics(self.topic, timeout=self._start_wait_s).topics[self.topic]
        except KafkaException as error:
            with suppress(KafkaException, RuntimeError):
                self._consumer.poll(0)  # calls _on_client_error, which gets a better reason than "timed out"
            why = self._last_client_error or error.args[0].str()
            raise StartError(
                f"no Kafka broker answered at {self._bootstrap} within {self._start_wait_s:g} s ({why})"
            ) from None
        if found.error is not None:
            raise StartError(f"request topic {self.topic!r} cannot be read at {self._bootstrap}: {found.error.str()}")

    def _close(self) -> None:
        """Finishes running work, commits, leaves the group."""
        streams_until = time.monotonic() + self._stop_wait_s
        if not self._in_hand.wait_until_none(self._stop_wait_s):
            log.warning("handlers_abandoned topic=%s: their requests will be repeated", self.topic)
        self._streams.close(max(0.0, streams_until - time.monotonic()))
        if self._loop_thread:
            self._loop_thread.close()
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._producer.flush(self._stop_wait_s)
        self._store_offsets()
        self._consumer.close()
        self._warnings.sum_up(at_end=True)
        CLIENT_LOG.sum_up(at_end=True)
        log.info("stopped topic=%s %s", self.topic, " ".join(f"{k}={v}" for k, v in self.counts._asdict().items()))

    def _on_signal(self, signum: int, _frame: object) -> None:
        signal.signal(signum, signal.SIG_DFL)
        self.stop()

    def _on_client_error(self, error: KafkaError) -> None:
        line = client_lines.of_error(error.name(), error.str())
        if line.method == client_lines.DEBUG:
            return  # only idle connections were closed
        self._last_client_error = error.str()
        self._warnings.warn("kafka_error", f"topic={self.topic} code={line.code} {line.detail}", *line.kind)

    def _on_consumer_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in NOT_ALLOWED:
            raise FastgwError(f"group {self._group!r} cannot read topic {self.topic!r}: {error.str()}")
        self._warnings.warn("consumer_error", f"topic={self.topic} {error.str()}")


def _wants_stream(work: Work) -> bool:
    return work.request.record_headers.get(streams.REPLY_KIND) == streams.STREAM and work.reply_to != ""


@lru_cache(64)
def _topic(raw: bytes) -> str:
    """The reply topic; empty if there is none or its name is illegal."""
    return raw.decode() if LEGAL_TOPIC(raw) else ""


def _numbers(partitions: Iterable[Any]) -> list[int]:
    return sorted(partition.partition for partition in partitions)
