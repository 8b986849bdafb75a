"""Where the items of one run of a handler go: into the records of a stream, or collected into one reply.

Three threads meet here. The handler's thread (or the event loop) adds items, and says how the handler ended. The
consumer's thread stops a run. The thread of `Streams` serves delivery reports, lets time pass, and writes what had to
wait. So each output has a guard, and none of its methods waits for anything.
"""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException

from fastgw.dialects import plain, streams
from fastgw.service.items import ItemEncoder
from fastgw.service.log import log
from fastgw.service.messages import JSON, NDJSON, ReplyRecord, problem_record
from fastgw.service.replies import TOO_LARGE, UNKNOWN_PLACE, Work

RECORD_BYTES = 64 << 10  # a record takes no further item once it has this size
GATHER_NS = 5_000_000  # items that follow each other faster than this share a record
WINDOW_BYTES = 1 << 20  # how far a handler may be ahead of Kafka
BEAT_NS = 5_000_000_000


class Stop(NamedTuple):
    """Why a run is stopped although its handler has not ended; becomes a problem for the client."""

    status: int
    kind: str
    title: str
    detail: str

    def problem(self, work: Work) -> ReplyRecord:
        return problem_record(work.correlation_id, *self)


CANCELLED = Stop(499, "stream_cancelled", "The request was cancelled", "the gateway cancelled this request")
MOVED = Stop(
    503, "stream_moved", "The service was interrupted", "another process of the service took over this partition"
)
STOPPED = Stop(
    503, "stream_stopped", "The service was interrupted", "the process that worked on this request was stopped"
)
OVER = Stop(504, "stream_max", "The work took too long", "the handler did not end in the time that it had")
EXPIRED = Stop(504, "work_expired", "The work came too late", "the deadline passed before the service could begin")


class Owner(Protocol):
    """What an output needs of `Streams`. Any thread may call these, also while it holds an output's guard."""

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        headers: list[tuple[str, bytes]],
        on_delivery: Callable[..., None] | None,
    ) -> None:
        """Queues a record.

        Raises:
            BufferError: the queue is full.
            KafkaException: the record is refused.
        """

    def look_again(self, output: Output) -> None:
        """Something waits in this output: call its `look` soon."""

    def on_done(self, output: Output, is_delivered: bool | None) -> None:
        """Nothing more will come from this output.

        Args:
            is_delivered: whether Kafka took the end of the stream; None: the output was no stream, or was left.
        """


class Output(ABC):
    """The items of one run of a handler.

    Attributes:
        work: the request.
        interrupt: stops an async handler at once; set by whoever runs it. Others are stopped at their next `yield`.
    """

    def __init__(self, work: Work, owner: Owner, until_epoch_ms: int) -> None:
        """
        Args:
            work: the request.
            owner: writes the records.
            until_epoch_ms: when the run is stopped; 0: never.
        """
        self.work = work
        self.interrupt: Callable[[], None] = _nothing
        self._owner = owner
        self._until_epoch_ms = until_epoch_ms
        self._encoder = ItemEncoder(work.correlation_id)
        self._guard = threading.Lock()
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether the handler's further items are for nobody."""
        return self._is_stopped

    def stop(self, why: Stop) -> None:
        """Ends the run before its handler has ended. The handler is stopped as soon as that is possible."""
        if self.fail(why.problem(self.work)):  # a second interruption would disturb the handler's clean-up
            self.interrupt()

    @abstractmethod
    def leave(self, why: Stop) -> None:
        """Ends the run because another process will do the work, if nothing was written that the client can see."""

    @abstractmethod
    def add(self, yielded: Any) -> bool:
        """The handler's next value.

        Returns:
            Whether the handler may go on at once. Otherwise it lets others work and waits until it `has_room`.

        Raises:
            TypeError, ValueError: the value cannot be sent; the text says why.
        """

    @abstractmethod
    def has_room(self) -> bool:
        """Whether the handler may go on; also true when it is stopped."""

    @abstractmethod
    def complete(self) -> None:
        """The handler has ended. No further items."""

    @abstractmethod
    def fail(self, problem: ReplyRecord) -> bool:
        """The handler has failed, or is stopped. Only the first end of a run counts; False: this was not the first."""

    @abstractmethod
    def look(self, now_ns: int) -> None:
        """Lets time pass: writes what may be written now.

        Args:
            now_ns: monotonic time.
        """

    def look_at_clock(self, now_ns: int, now_epoch_ms: int) -> None:  # noqa: ARG002  # streams need it
        """Lets time pass, in steps of a fraction of a second: beats, and the end of the time that the handler has."""
        if 0 < self._until_epoch_ms <= now_epoch_ms and not self._is_stopped:
            self.stop(OVER)


def _nothing() -> None:
    pass


# ---- a stream ------------------------------------------------------------------------------------------------------


class _ToWrite(NamedTuple):
    """A record of a stream: items, or its end."""

    seq: int  # of the first item
    items: int
    value: bytes
    is_end: bool


class Stream(Output):
    """The records of one stream, in order.

    Items gather until their record is full, or until `GATHER_NS` after the record before. So an item after a pause goes
    out at once, and items in quick succession share records.

    The first record goes alone: the second one waits until Kafka has acknowledged it. Then the request is settled, and
    it is known that the partition exists. If it does not exist, the key chooses the partition for the whole stream, as
    it does for other replies.
    """

    def __init__(self, work: Work, owner: Owner, until_epoch_ms: int, now_ns: int) -> None:
        """
        Args:
            now_ns: monotonic time.
        """
        super().__init__(work, owner, until_epoch_ms)
        self._attempt = secrets.token_hex(8).encode()
        self._next_beat_ns = now_ns + BEAT_NS
        # All of these are guarded.
        self._partition = work.reply_partition
        self._gathering: list[bytes] = []  # items of the record that is being filled
        self._gathering_bytes = 0
        self._full: deque[_ToWrite] = deque()  # records that wait to be written
        self._waiting_bytes = 0  # of both
        self._seq = 0  # the number of the next item that gets a record
        self._wrote_ns = 0
        self._under_way = 0  # records that Kafka has not acknowledged
        self._under_way_bytes = 0
        self._is_first_delivered = False
        self._has_ended = False
        self._error: ReplyRecord | None = None  # how it ended; None: complete
        self._is_end_written = False
        self._waits_for_look = False

    def __repr__(self) -> str:
        return f"<Stream {self.work.request.correlation_id} seq={self._seq} waiting={self._waiting_bytes} bytes>"

    def add(self, yielded: Any) -> bool:
        """See `Output`."""
        item = self._encoder.encode(yielded)
        if not item:
            return not self._is_stopped
        now_ns = time.monotonic_ns()
        with self._guard:
            if self._has_ended:
                return False
            self._gather(item)
            if self._waits_for_look and not self._full and now_ns - self._wrote_ns < GATHER_NS:
                return True  # the common case: the item waits for others
            return not self._write(now_ns) and self._has_room()

    def has_room(self) -> bool:
        """See `Output`."""
        with self._guard:
            return self._has_room()

    def complete(self) -> None:
        """See `Output`."""
        self._end(None)

    def fail(self, problem: ReplyRecord) -> bool:
        """See `Output`. Before the first item, the problem is an ordinary reply."""
        return self._end(problem)

    def stop(self, why: Stop) -> None:
        """See `Output`. Items that have not been written are dropped."""
        with self._guard:
            if not self._has_ended:
                self._drop_unwritten()
        super().stop(why)

    def leave(self, why: Stop) -> None:
        """See `Output`. A stream of which an item was written ends with an error."""
        with self._guard:
            is_untouched = not (self._has_ended or self._is_first_delivered or self._under_way)
            if is_untouched:
                self._drop_unwritten()
                self._has_ended = self._is_stopped = self._is_end_written = True
                self._owner.on_done(self, None)
        if is_untouched:
            self.interrupt()
        else:
            self.stop(why)

    def look(self, now_ns: int) -> None:
        """See `Output`."""
        with self._guard:
            self._waits_for_look = False
            self._write(now_ns)

    def look_at_clock(self, now_ns: int, now_epoch_ms: int) -> None:
        """See `Output`."""
        super().look_at_clock(now_ns, now_epoch_ms)
        with self._guard:
            if now_ns >= self._next_beat_ns and not self._has_ended:
                self._next_beat_ns = now_ns + BEAT_NS
                self._beat()

    # ---- guarded: gathering ----------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._has_ended or self._waiting_bytes + self._under_way_bytes < WINDOW_BYTES

    def _gather(self, item: bytes) -> None:
        size = len(item) + 1  # the newline
        if self._gathering and self._gathering_bytes + size > RECORD_BYTES:
            self._close_record()
        self._gathering.append(item)
        self._gathering_bytes += size
        self._waiting_bytes += size
        if self._gathering_bytes >= RECORD_BYTES:
            self._close_record()

    def _close_record(self) -> None:
        if self._encoder.is_bytes:  # one item: bytes have no borders
            value, count = b"".join(self._gathering), 1
        else:
            value, count = b"\n".join(self._gathering), len(self._gathering)
        self._waiting_bytes += len(value) - self._gathering_bytes
        self._full.append(_ToWrite(self._seq, count, value, False))
        self._seq += count
        self._gathering = []
        self._gathering_bytes = 0

    def _drop_unwritten(self) -> None:
        if self._full:
            self._seq = self._full[0].seq
        self._full.clear()
        self._gathering = []
        self._gathering_bytes = self._waiting_bytes = 0

    # ---- guarded: writing ------------------------------------------------------------------------------------------

    def _end(self, error: ReplyRecord | None) -> bool:
        with self._guard:
            if self._has_ended:
                return False
            self._has_ended = True
            self._is_stopped = error is not None
            self._error = error
            self._write(time.monotonic_ns())
            return True

    def _write(self, now_ns: int) -> bool:
        """Writes what may be written now; True if that was something."""
        has_written = False
        while self._may_write() and (record := self._next(now_ns)):
            try:
                self._produce(record)
            except BufferError:
                self._put_back(record)
                break
            except KafkaException as refusal:
                self._on_refused(record, refusal.args[0])
            else:
                self._wrote_ns = now_ns
                has_written = True
        if (self._waiting_bytes or (self._has_ended and not self._is_end_written)) and not self._waits_for_look:
            self._waits_for_look = True
            self._owner.look_again(self)
        return has_written

    def _may_write(self) -> bool:
        return self._is_first_delivered or not self._under_way

    def _next(self, now_ns: int) -> _ToWrite | None:
        """Takes the record that is due."""
        is_due = self._has_ended or now_ns - self._wrote_ns >= GATHER_NS
        if not self._full and self._gathering and is_due:
            self._close_record()
        if self._full:
            record = self._full.popleft()
            self._waiting_bytes -= len(record.value)
            return record
        if self._has_ended and not self._is_end_written:
            self._is_end_written = True
            return _ToWrite(self._seq, 0, self._error.value if self._error else b"", True)
        return None

    def _put_back(self, record: _ToWrite) -> None:
        if record.is_end:
            self._is_end_written = False
        else:
            self._full.appendleft(record)
            self._waiting_bytes += len(record.value)

    def _produce(self, record: _ToWrite) -> None:
        self._owner.produce(
            self.work.reply_to,
            record.value,
            self.work.correlation_id or None,
            self._partition,
            self._headers(record),
            partial(self._on_delivery, record),
        )
        self._under_way += 1
        self._under_way_bytes += len(record.value)

    def _headers(self, record: _ToWrite) -> list[tuple[str, bytes]]:
        if not record.is_end:
            told = streams.items_headers(self._attempt, record.seq, record.items)
        elif self._error is None:
            told = streams.end_headers(self._attempt, True, self._seq)
        elif record.seq == 0:  # nothing was sent: an ordinary reply
            return self._error.headers
        else:
            return [*self._error.headers, *streams.end_headers(self._attempt, False, self._seq)]
        if record.seq == 0:
            return [*self._encoder.head(NDJSON), *told]
        return [(plain.CORRELATION_ID, self.work.correlation_id), *told]

    def _beat(self) -> None:
        """A beat that cannot be written is left out: the next one comes."""
        work = self.work
        told = streams.beat_headers(self._attempt, BEAT_NS // 1_000_000)
        headers = [(plain.CORRELATION_ID, work.correlation_id), *told]
        try:
            self._owner.produce(work.reply_to, b"", work.correlation_id or None, self._partition, headers, None)
        except (BufferError, KafkaException) as failure:
            log.debug("beat_left_out correlation_id=%s reason=%s", work.request.correlation_id, failure)

    # ---- guarded: delivery -----------------------------------------------------------------------------------------

    def _on_delivery(self, record: _ToWrite, error: KafkaError | None, _message: Any) -> None:
        with self._guard:
            self._under_way -= 1
            self._under_way_bytes -= len(record.value)
            if error is not None:
                self._on_refused(record, error)
            else:
                if not self._is_first_delivered:
                    self._is_first_delivered = True
                    self.work.progress.finish(self.work.offset)
                if record.is_end:
                    self._owner.on_done(self, True)
            self._write(time.monotonic_ns())

    def _on_refused(self, record: _ToWrite, error: KafkaError) -> None:
        """Kafka did not take a record, and would not take it later."""
        is_first = not self._is_first_delivered
        if is_first and error.code() in UNKNOWN_PLACE and self._partition >= 0:
            self._partition = -1
            self._put_back(record)
            return
        log.error(
            "stream_undeliverable topic=%s partition=%d items=%d reason=%s correlation_id=%s",
            self.work.reply_to, self._partition, record.seq, error.str(), self.work.request.correlation_id,
        )  # fmt: skip
        if record.is_end:
            if is_first:
                self.work.progress.finish(self.work.offset)
            self._owner.on_done(self, False)
        elif not self._is_end_written:
            self._drop_unwritten()
            self._seq = record.seq
            self._has_ended = self._is_stopped = True
            self._error = self._undeliverable(record, error)
            self.interrupt()

    def _undeliverable(self, record: _ToWrite, error: KafkaError) -> ReplyRecord:
        if error.code() in TOO_LARGE:
            detail = f"{len(record.value)} bytes of items are more than Kafka accepts in a record (message.max.bytes)"
            why = Stop(500, "item_too_large", "An item of the service is too large", detail)
        else:
            detail = "the items of this stream could not be written to the response topic"
            why = Stop(503, "stream_undeliverable", "The service could not answer", detail)
        return why.problem(self.work)


# ---- one reply -----------------------------------------------------------------------------------------------------

Answers = Sequence[tuple[Work, ReplyRecord]]


class Collected(Output):
    """The items of a handler that uses `yield`, for a request that wants one reply: a JSON array, or the bytes."""

    def __init__(
        self,
        work: Work,
        owner: Owner,
        until_epoch_ms: int,
        max_bytes: int,
        answers_of: Callable[[Work, ReplyRecord], Answers],
        try_produce: Callable[[Work, ReplyRecord], bool],
    ) -> None:
        """
        Args:
            max_bytes: the largest reply.
            answers_of: the replies to send when this request is answered: its own, and those of requests that wait.
            try_produce: see `Replies`.
        """
        super().__init__(work, owner, until_epoch_ms)
        self._max_bytes = max_bytes
        self._answers_of = answers_of
        self._try_produce = try_produce
        # All of these are guarded.
        self._items: list[bytes] = []
        self._bytes = 0
        self._has_ended = False
        self._unsent: deque[tuple[Work, ReplyRecord]] = deque()

    def __repr__(self) -> str:
        return f"<Collected {self.work.request.correlation_id} items={len(self._items)} bytes={self._bytes}>"

    def add(self, yielded: Any) -> bool:
        """See `Output`. The handler is stopped when its items are larger than a reply may be."""
        item = self._encoder.encode(yielded)
        with self._guard:
            if item and self.work.reply_to and not self._has_ended:
                self._items.append(item)
                self._bytes += len(item) + 1
            is_too_large = self._bytes > self._max_bytes
        if is_too_large:
            self.stop(self._too_large())
        # An async handler that never waits for anything must let others work now and then.
        return len(self._items) % 100 != 0 and not self._is_stopped

    def has_room(self) -> bool:
        """See `Output`. What is collected has a limit of its own."""
        return True

    def complete(self) -> None:
        """See `Output`."""
        self._answer(None)

    def fail(self, problem: ReplyRecord) -> bool:
        """See `Output`."""
        return self._answer(problem)

    def leave(self, _why: Stop) -> None:
        """See `Output`."""
        with self._guard:
            if self._has_ended:
                return
            self._has_ended = self._is_stopped = True
            self._owner.on_done(self, None)
        self.interrupt()

    def look(self, _now_ns: int) -> None:
        """See `Output`."""
        with self._guard:
            self._send()

    def _answer(self, problem: ReplyRecord | None) -> bool:
        with self._guard:
            if self._has_ended:
                return False
            self._has_ended = True
            self._is_stopped = problem is not None
            self._unsent.extend(self._answers_of(self.work, problem or self._reply()))
            self._items = []
            self._send()
            return True

    def _reply(self) -> ReplyRecord:
        value = b"".join(self._items) if self._encoder.is_bytes else b"[%b]" % b",".join(self._items)
        return ReplyRecord(value, self._encoder.head(JSON), status=self._encoder.status)

    def _send(self) -> None:
        while self._unsent:
            if not self._try_produce(*self._unsent[0]):
                self._owner.look_again(self)
                return
            self._unsent.popleft()
        self._owner.on_done(self, None)

    def _too_large(self) -> Stop:
        detail = f"the service's items are together larger than a reply may be, {self._max_bytes} bytes"
        return Stop(500, "reply_too_large", "The service's reply is too large", detail)
