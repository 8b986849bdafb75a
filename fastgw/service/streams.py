"""Runs the handlers that use `yield`, and lets time pass for what they have yielded.

A sync handler has a thread of its own, because it may block between two items for as long as it likes. An async one
runs on the event loop of the other async handlers. The consumer's thread only starts and stops them. One more thread
serves the producer of streams: it calls the delivery reports, writes what had to wait, sends beats, and ends what is
over.

That producer is not the one of the replies. It is idempotent, so that a retry neither repeats a record nor changes the
order. It can enter a fatal state, and is replaced then: the streams of that moment end with an error, later ones do not
notice.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError

from fastgw.service.cancels import Cancels
from fastgw.service.handlers import Handler
from fastgw.service.log import log
from fastgw.service.loop_thread import LoopThread
from fastgw.service.messages import Problem, is_over
from fastgw.service.outputs import CANCELLED, EXPIRED, MOVED, STOPPED, Output, Stream
from fastgw.service.progress import OffsetProgress
from fastgw.service.replies import QUEUE_FULL_WAIT_S, Replies, refused

LOOK_NS = 5_000_000  # how long an output that waits may have to wait for a look at it
CLOCK_NS = 100_000_000  # how exact beats and the end of a handler's time are
IDLE_S = 1.0  # how often an idle producer is served: its log lines and errors
QUEUE_MAX = 1000  # requests that wait for the end of other handlers; with more, no further records are taken
LAST_RECORDS_S = 2.0  # how long the ends of stopped streams may take

MakeProducer = Callable[[Callable[[KafkaError], None]], Any]
"""Makes an idempotent producer that tells its errors to the function."""


class Streams:
    """The runs of one service. The consumer's thread uses it, except where a method says otherwise.

    Attributes:
        replied, undeliverable: streams so far, by whether Kafka took their end.
        failure: why the own thread ended; None: it works.
    """

    def __init__(self, replies: Replies, asynchronous: Collection[Handler], limit: int) -> None:
        """
        Args:
            replies: makes the replies of handlers that fail.
            asynchronous: the async handlers.
            limit: how many handlers may run at the same time.
        """
        # Fixed by `open`.
        self._replies = replies
        self._asynchronous = asynchronous
        self._limit = limit
        self._name = ""
        self._make_producer: MakeProducer | None = None
        self._loop_thread: LoopThread | None = None
        self._thread: threading.Thread | None = None
        # The consumer's thread only.
        self._cancels = Cancels()
        # The own thread only, except that others read the producer.
        self._producer: Any = None
        self._next_look_ns = self._next_clock_ns = 0
        self._is_producer_dead = False
        self.failure: BaseException | None = None
        # Guarded by _changed.
        self._changed = threading.Condition()
        self._outputs: dict[Output, None] = {}  # those from which something may still come
        self._by_id: dict[bytes, Output] = {}
        self._queue: deque[tuple[Handler, Output]] = deque()  # runs that have not begun
        self._running = 0
        self._is_closing = False
        self.replied = self.undeliverable = 0
        # Appended to by any thread, taken by the own one.
        self._to_look_at: deque[Output] = deque()

    def __repr__(self) -> str:
        return f"<Streams {self._running} running, {len(self._queue)} queued, {len(self._outputs)} open>"

    # ---- the consumer's thread -------------------------------------------------------------------------------------

    def open(self, name: str, make_producer: MakeProducer, loop_thread: LoopThread | None) -> None:
        """Makes the producer and starts the thread.

        Args:
            name: of the threads.
            make_producer: makes the producer, also its successors.
            loop_thread: runs the async handlers.
        """
        self._name, self._make_producer, self._loop_thread = name, make_producer, loop_thread
        self._producer = make_producer(self._on_error)
        self._thread = threading.Thread(target=self._serve, name=f"{name} streams", daemon=True)
        self._thread.start()

    def are_full(self) -> bool:
        """Whether so many requests wait for a handler that no others should be taken."""
        return len(self._queue) >= QUEUE_MAX

    def start(self, handler: Handler, output: Output) -> None:
        """Starts a handler now, or when another one has ended."""
        correlation_id = output.work.correlation_id
        with self._changed:
            self._outputs[output] = None
            self._by_id[correlation_id] = output
            self._changed.notify_all()
        if self._cancels.take(correlation_id, time.monotonic_ns()):
            output.stop(CANCELLED)
            return
        with self._changed:
            if self._running >= self._limit:
                self._queue.append((handler, output))
                return
            self._running += 1
        self._begin(handler, output)

    def cancel(self, correlation_id: bytes, remembered_ns: int) -> None:
        """Stops the handler of a request.

        Args:
            correlation_id: the request's.
            remembered_ns: for how long an id that is not known is remembered.
        """
        with self._changed:
            output = self._by_id.get(correlation_id)
        if output is not None:
            output.stop(CANCELLED)
        else:
            now_ns = time.monotonic_ns()
            self._cancels.remember(correlation_id, now_ns + remembered_ns, now_ns)

    def move(self, partitions: Collection[OffsetProgress]) -> list[Output]:
        """Stops the streams of partitions that another process takes over.

        Handlers whose items are collected go on, like those that do not use `yield`.

        Returns:
            The streams that were stopped, for `wait_until_done`.
        """
        moved: list[Output] = [
            output for output in self._open() if isinstance(output, Stream) and output.work.progress in partitions
        ]
        for output in moved:
            output.leave(MOVED)
        return moved

    def wait_until_done(self, outputs: Iterable[Output], timeout_s: float) -> bool:
        """Waits until Kafka has the last record of each of these; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._outputs.keys().isdisjoint(outputs), timeout_s)

    def close(self, wait_s: float) -> None:
        """Waits for the handlers, stops those that take longer, and ends the thread.

        Requests that have not begun are left to the next process.
        """
        with self._changed:
            queued = list(self._queue)
            self._queue.clear()
            self._is_closing = True
        for _, output in queued:
            output.leave(STOPPED)
        self.wait_until_done(self._open(), wait_s)
        for output in self._open():
            output.leave(STOPPED)
        self.wait_until_done(self._open(), LAST_RECORDS_S)
        if self._thread is None:
            return
        with self._changed:
            self._outputs.clear()
            self._changed.notify_all()
        self._thread.join()

    def _open(self) -> list[Output]:
        with self._changed:
            return list(self._outputs)

    # ---- the handlers' threads -------------------------------------------------------------------------------------

    def _begin(self, handler: Handler, output: Output) -> None:
        if handler in self._asynchronous:
            assert self._loop_thread is not None
            self._loop_thread.start([partial(self._run_async, handler, output)])
        else:
            name = f"{self._name} stream"
            threading.Thread(target=self._run, args=(handler, output), name=name, daemon=True).start()

    def _run(self, handler: Handler, output: Output) -> None:
        try:
            if _may_begin(output):
                _exhaust(handler(output.work.request), output)
            output.complete()
        except Problem as refusal:
            output.fail(refused(output.work, refusal))
        except BaseException:  # SystemExit too: it would end the thread and nothing else
            output.fail(self._replies.failure(handler, output.work))
        finally:
            self._begin_next()

    async def _run_async(self, handler: Handler, output: Output) -> None:
        output.interrupt = _interrupt_of_this_task()
        try:
            if _may_begin(output):
                await _exhaust_async(handler(output.work.request), output)
            output.complete()
        except Problem as refusal:
            output.fail(refused(output.work, refusal))
        except asyncio.CancelledError:
            if not output.is_stopped:  # it comes from within the handler
                output.fail(self._replies.failure(handler, output.work))
        except Exception:
            output.fail(self._replies.failure(handler, output.work))
        finally:
            self._begin_next()

    def _begin_next(self) -> None:
        with self._changed:
            if not self._queue:
                self._running -= 1
                return
            handler, output = self._queue.popleft()
        self._begin(handler, output)

    # ---- what outputs need: any thread -----------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        headers: list[tuple[str, bytes]],
        on_delivery: Callable[..., None] | None,
    ) -> None:
        """See `outputs.Owner`."""
        self._producer.produce(topic, value, key, partition, on_delivery, headers=headers)

    def look_again(self, output: Output) -> None:
        """See `outputs.Owner`."""
        self._to_look_at.append(output)

    def on_done(self, output: Output, is_delivered: bool | None) -> None:
        """See `outputs.Owner`."""
        with self._changed:
            self._outputs.pop(output, None)
            if self._by_id.get(output.work.correlation_id) is output:
                del self._by_id[output.work.correlation_id]
            self.replied += is_delivered is True
            self.undeliverable += is_delivered is False
            self._changed.notify_all()

    # ---- the own thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not (self._is_closing and not self._outputs):
                self._turn()
        except BaseException as failure:
            self.failure = failure  # raised by the consumer's thread
            with self._changed:
                self._outputs.clear()  # nobody needs to wait for them
                self._changed.notify_all()

    def _turn(self) -> None:
        with self._changed:
            is_busy = self._changed.wait_for(lambda: self._outputs or self._is_closing, IDLE_S)
        self._producer.poll(LOOK_NS / 1e9 if is_busy else 0)
        if self._is_producer_dead:
            self._replace_producer()
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + LOOK_NS
            for _ in range(len(self._to_look_at)):
                self._to_look_at.popleft().look(now_ns)
        if now_ns >= self._next_clock_ns:
            self._next_clock_ns = now_ns + CLOCK_NS
            self._look_at_clocks(now_ns, time.time_ns() // 1_000_000)

    def _look_at_clocks(self, now_ns: int, now_epoch_ms: int) -> None:
        for output in self._open():
            output.look_at_clock(now_ns, now_epoch_ms)

    def _on_error(self, error: KafkaError) -> None:
        """Called by `poll`."""
        self._is_producer_dead = self._is_producer_dead or error.fatal()

    def _replace_producer(self) -> None:
        assert self._make_producer is not None
        log.warning("stream_producer_replaced name=%s: streams under way end with an error", self._name)
        dead, self._producer = self._producer, self._make_producer(self._on_error)
        dead.purge()  # the delivery reports of its records, which now fail, end their streams
        dead.flush(LAST_RECORDS_S)
        self._is_producer_dead = False


def _may_begin(output: Output) -> bool:
    """Whether the handler should be called, after its request may have waited for others."""
    if is_over(output.work.request):
        output.fail(EXPIRED.problem(output.work))
    return not output.is_stopped


def _exhaust(items: Generator[Any, None, None], output: Output) -> None:
    try:
        for item in items:
            if not output.add(item):
                while not output.has_room():
                    time.sleep(QUEUE_FULL_WAIT_S)  # the own thread of `Streams` makes room
                if output.is_stopped:
                    return
    finally:
        items.close()


async def _exhaust_async(items: AsyncGenerator[Any, None], output: Output) -> None:
    try:
        async for item in items:
            if not output.add(item):
                await asyncio.sleep(0)  # a handler that never waits for anything would keep the loop for itself
                while not output.has_room():
                    await asyncio.sleep(QUEUE_FULL_WAIT_S)
                if output.is_stopped:
                    return
    finally:
        await items.aclose()


def _interrupt_of_this_task() -> Callable[[], None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        with suppress(RuntimeError):  # the loop is closed, so nothing runs on it
            loop.call_soon_threadsafe(task.cancel)

    return interrupt
