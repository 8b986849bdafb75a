"""Decides when records are handed to librdkafka, so that batches are large and librdkafka never has to wait.

librdkafka's idempotent producer has only one batch of five records or more in flight to a partition. It holds the next
batch back until that one is acknowledged. Once the linger of the next batch is over, its thread polls the socket
without waiting, and uses a whole core for as long as the broker does not answer. So records wait here, in the loop,
where waiting costs nothing, and librdkafka gets only records that it can send at once.

Each topic has two queues: a sticky one, whose batches go to one partition each, and a spread one, whose records go to
all partitions. Records whose sender names the partition have a queue for each partition. A batch is outstanding until
each of its records has a delivery report. A record that finds no open batch waits; all waiting records of a queue leave
together as its next batch. A batch leaves for one of four reasons:

    reason          when                                                           constant
    ------------    -----------------------------------------------------------    --------------------------------
    enough          no batch is outstanding, and 1/CONCURRENCY_SHARE of the        CONCURRENCY_SHARE
                    requests in flight wait
    gathered        no batch is outstanding, and the first record has waited       GATHER_MAX_NS, or STALLED_LINGERS
                    this long                                                      lingers if that is less
    stalled         a batch is outstanding, and the first record has waited this   STALLED_LINGERS
                    many lingers
    closing         `flush_all`: the producer is about to be closed

    stays open      after it has left, a batch takes more records for this part    OPEN_LINGERS
                    of a linger, or until it is acknowledged

So the broker's round trip sets the pace: the busier the broker, the larger the batches. An eighth of the requests in
flight is enough for a batch. By Little's law, so many requests arrive in an eighth of the time that a request takes;
so a request takes at most an eighth longer. With few requests in flight, one record is enough. Without this rule, many
workers on few cores send so many small batches that they overload the broker.

Of records whose sender names the partition, one is enough, so that they wait for an outstanding batch only.

A sticky batch goes to a partition that has no outstanding batch of its queue. While there is no such partition, no
batch leaves, except for "closing": no broker answers, and a record that librdkafka never got is certainly in no log. A
partition whose leader has died keeps its one batch and gets no other; the next batches go to other partitions.

Time and the random choice of a partition are arguments. Nothing here waits; `RecordQueue` asks its owner to wake it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fastgw.kafka._klink import LAST_BATCH, NO_ROOM, UNTRACKED, Producer, RecordMemory, record_bytes
from fastgw.kafka.link import ANY, NEVER
from fastgw.messages import SPREAD, Record

CONCURRENCY_SHARE = 8
GATHER_MAX_NS = 5_000_000
STALLED_LINGERS = 5  # longer than a round trip on a busy machine, too short for users to notice
OPEN_LINGERS = 0.9  # a later record might miss librdkafka's batch and begin another one

# While a topic's partition count is not known: draw from this range; the link takes the remainder by the real count.
ANY_COUNT = 1 << 30

Refused = tuple[int, str]
"""librdkafka's error code and text for a refused record."""
RefusedRecord = tuple[int, int, str]
"""The token of a refused record, librdkafka's error code, and its text."""


class TopicQueue:
    """The records of one topic that may share a batch, and the state of their batches."""

    def __init__(self, topic: str, sticky: bool, to: int = ANY) -> None:
        """
        Args:
            sticky: all records of a batch that have no key go to the same partition.
            to: the partition of all records; ANY: it is chosen for each batch or record.
        """
        self.topic = topic
        self.sticky = sticky
        self.to = to
        self.waiting: dict[int, tuple[Record, int, int]] = {}  # token -> record, since when (ns), bytes; as they came
        self.since_ns = 0  # when the first of them came
        self.enough = 0  # so many records make a batch; the smallest number that one of the records asks for
        self.batch = 0  # the last batch: its number, 0 if it is not tracked ...
        self.open_until_ns = 0  # ... until when it takes more records
        self.partition = ANY  # ... and its partition
        self.chosen_ns = 0  # since when batches go to this partition
        self.busy: set[int] = set()  # partitions that have an outstanding batch

    def __repr__(self) -> str:
        kind = "sticky" if self.sticky else "spread" if self.to == ANY else f"of partition {self.to}"
        where = f" to partition {self.partition}" if self.sticky else ""
        return (
            f"<TopicQueue {self.topic}, {kind}: {len(self.waiting)} of {self.enough} records wait, "
            f"last batch {self.batch}{where}, partitions with an outstanding batch: {sorted(self.busy) or 'none'}>"
        )


class RecordQueue:
    """The records that wait for one producer, and its outstanding batches; used by one thread."""

    def __init__(
        self,
        producer: Producer,
        linger_ns: int,
        sticky_ns: int,
        memory: RecordMemory,
        wake_at: Callable[[int], None],
        refused: Callable[[Sequence[RefusedRecord]], None],
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        """
        Args:
            producer: gets the records.
            linger_ns: the producer's linger time.
            sticky_ns: how long the batches of a queue go to the same partition.
            memory: counts the waiting records, beside those that producers have; a record must fit.
            wake_at: called with the time (monotonic, ns) at which `flush_due` must be called at the latest.
            refused: called with records that had waited and that librdkafka then refused.
            draw: returns a random number below its argument: where the search for a free partition begins.
        """
        self.producer = producer
        self._linger_ns = linger_ns
        self._open_ns = int(OPEN_LINGERS * linger_ns)
        self._stalled_ns = STALLED_LINGERS * linger_ns
        self._gather_ns = min(self._stalled_ns, GATHER_MAX_NS)
        self._sticky_ns = sticky_ns
        self._memory = memory
        self._wake_at = wake_at
        self._refused = refused
        self._draw = draw
        self._sticky: dict[str, TopicQueue] = {}
        self._spread: dict[str, TopicQueue] = {}
        self._addressed: dict[tuple[str, int], TopicQueue] = {}  # by topic and partition
        self._untracked = 0  # stands for a token of a waiting record that has none: a negative number
        self._gathering: dict[TopicQueue, None] = {}  # queues with waiting records; the longest waiting comes first
        # Number of a batch -> its queue, its partition, when it left; in the order in which the batches left.
        self._outstanding: dict[int, tuple[TopicQueue, int, int]] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<RecordQueue {self.waiting} records wait, {len(self._outstanding)} batches outstanding>"

    @property
    def waiting(self) -> int:
        """The number of records that have not left."""
        return sum(len(queue.waiting) for queue in self._gathering)

    def oldest_ns(self) -> int:
        """When (monotonic) the oldest outstanding batch left; NEVER if there is none."""
        for _, _, left_ns in self._outstanding.values():
            return left_ns
        return NEVER

    def send(self, record: Record, token: int, concurrency_hint: int, now_ns: int) -> Refused | None:
        """Send the record of a request: hand it to librdkafka now, or let it wait for a batch.

        Args:
            record: its partition is one of the markers TOGETHER and SPREAD.
            token: identifies the record in `refused`.
            concurrency_hint: requests of its route in flight in this process, this one included.
            now_ns: monotonic.

        Returns:
            None; or the error, if librdkafka refused the record now or there is no room for it.
        """
        queues = self._spread if record.partition == SPREAD else self._sticky
        queue = queues.get(record.topic)
        if queue is None:
            queue = queues[record.topic] = TopicQueue(record.topic, record.partition != SPREAD)
        is_first = not queue.waiting
        if is_first:
            if now_ns < queue.open_until_ns:
                return self._hand_over(queue, record, token)
            queue.enough = concurrency_hint // CONCURRENCY_SHARE
            if self._wait_ns(queue, 1) == 0 and self._begin_batch(queue, now_ns):
                return self._hand_over_first(queue, record, token)
        size_bytes = record_bytes(record.value, record.key, record.headers)
        if self._memory.held_bytes + size_bytes > self._memory.max_bytes:
            return NO_ROOM
        if is_first:
            queue.since_ns = now_ns
            self._gathering[queue] = None
        else:
            queue.enough = min(queue.enough, concurrency_hint // CONCURRENCY_SHARE)
        queue.waiting[token] = record, now_ns, size_bytes
        self._memory.held_bytes += size_bytes
        wait_ns = self._wait_ns(queue, len(queue.waiting))
        if is_first or wait_ns == 0:  # not handed over here: requests read in the same turn of the loop join the batch
            self._wake_at(queue.since_ns + wait_ns)
        return None

    def send_untracked(self, record: Record, now_ns: int) -> Refused | None:
        """Send a record to the partition that it names; nobody asks what becomes of it.

        Returns:
            As `send`. If it is refused after it has waited, its token in `refused` is negative.
        """
        place = record.topic, record.partition
        if place not in self._addressed:
            self._addressed[place] = TopicQueue(record.topic, False, record.partition)
        queue = self._addressed[place]
        is_first = not queue.waiting
        if is_first:
            if now_ns < queue.open_until_ns:
                return self._hand_over_to(queue, record)
            if self._wait_ns(queue, 1) == 0 and self._begin_batch(queue, now_ns):
                refusal = self._hand_over_to(queue, record)
                if refusal is not None:
                    self._abandon_batch(queue)
                return refusal
        size_bytes = record_bytes(record.value, record.key, record.headers)
        if self._memory.held_bytes + size_bytes > self._memory.max_bytes:
            return NO_ROOM
        if is_first:
            queue.since_ns = now_ns
            self._gathering[queue] = None
            self._wake_at(now_ns + self._wait_ns(queue, 1))
        self._untracked -= 1
        queue.waiting[self._untracked] = record, now_ns, size_bytes
        self._memory.held_bytes += size_bytes
        return None

    def cancel_unsent(self, token: int) -> bool:
        """Remove a waiting record whose request has ended. False: it does not wait here and may have been sent."""
        for queue in self._gathering:
            waited = queue.waiting.pop(token, None)
            if waited is not None:
                self._memory.held_bytes -= waited[2]
                if not queue.waiting:
                    self._gathering.pop(queue, None)
                return True
        return False

    def cancel_older(self, before_ns: int, most: int) -> list[int]:
        """Remove up to `most` records that have waited since before that time; return their tokens."""
        tokens: list[int] = []
        for queue in self._gathering:
            for token, (_, since_ns, _) in queue.waiting.items():
                if since_ns >= before_ns or len(tokens) == most:
                    break
                tokens.append(token)
        for token in tokens:
            self.cancel_unsent(token)
        return tokens

    def acknowledged(self, batches: Sequence[int], now_ns: int) -> None:
        """All delivery reports of these batches have arrived."""
        for number in batches:
            self._end_batch(number)
        self.flush_due(now_ns)

    def flush_due(self, now_ns: int) -> None:
        """Hand over every batch that may leave by now."""
        refusals: list[RefusedRecord] = []
        for queue in list(self._gathering):
            due_ns = queue.since_ns + self._wait_ns(queue, len(queue.waiting))
            if due_ns > now_ns:
                self._wake_at(due_ns)
            elif self._begin_batch(queue, now_ns):  # if False, an acknowledgement will call this again
                refusals += self._hand_over_waiting(queue)
        if refusals:  # last, because the owner may call `send` from here
            self._refused(refusals)

    def flush_all(self, now_ns: int) -> None:
        """Hand over all waiting records, whatever is outstanding: this producer is about to be closed."""
        refusals: list[RefusedRecord] = []
        for queue in list(self._gathering):
            queue.busy.clear()
            self._begin_batch(queue, now_ns)
            refusals += self._hand_over_waiting(queue)
        if refusals:
            self._refused(refusals)

    def switch_to(self, producer: Producer) -> None:
        """Use a new producer for the waiting records. Outstanding batches of the old one are no longer tracked."""
        self.producer = producer
        self._outstanding.clear()
        for queue in (*self._sticky.values(), *self._spread.values(), *self._addressed.values()):
            queue.open_until_ns = 0
            queue.busy.clear()

    def _is_outstanding(self, queue: TopicQueue) -> bool:
        """Whether the queue's last batch is outstanding. An older batch that is stuck does not hold up the others."""
        last = self._outstanding.get(queue.batch)
        return last is not None and last[0] is queue

    def _wait_ns(self, queue: TopicQueue, count: int) -> int:
        """How long the first of `count` waiting records must wait for its batch, as things are now."""
        if self._is_outstanding(queue):
            return self._stalled_ns
        return self._gather_ns if count < queue.enough else 0

    def _begin_batch(self, queue: TopicQueue, now_ns: int) -> bool:
        """Begin a batch. False: there is no partition where it may go."""
        if not self._choose_partition(queue, now_ns):
            return False
        # A spread queue without linger needs no numbers: nothing depends on when its batches are acknowledged.
        queue.batch = number = self._free_number() if queue.sticky or self._linger_ns else 0
        queue.open_until_ns = now_ns + self._open_ns
        if number:
            self._outstanding[number] = queue, queue.partition, now_ns
            queue.busy.add(queue.partition)
        return True

    def _choose_partition(self, queue: TopicQueue, now_ns: int) -> bool:
        if not queue.sticky:
            queue.partition = queue.to
            return queue.to < 0 or queue.to not in queue.busy
        count = self.producer.partitions(queue.topic)
        if count == 0:  # not known yet: one batch at a time
            queue.partition = self._draw(ANY_COUNT)
            return not queue.busy
        stays = 0 <= queue.partition < count and now_ns - queue.chosen_ns < self._sticky_ns
        if stays and queue.partition not in queue.busy:
            return True
        first = self._draw(count)
        for step in range(count):
            partition = (first + step) % count
            if partition not in queue.busy:
                queue.partition, queue.chosen_ns = partition, now_ns
                return True
        return False

    def _free_number(self) -> int:
        """A number for a new batch; 0: all are in use, so the batch is not tracked."""
        if len(self._outstanding) == LAST_BATCH:
            return 0
        number = self._last % LAST_BATCH + 1
        while number in self._outstanding:
            number = number % LAST_BATCH + 1
        self._last = number
        return number

    def _hand_over_waiting(self, queue: TopicQueue) -> list[RefusedRecord]:
        waiting, queue.waiting = queue.waiting, {}
        self._gathering.pop(queue, None)
        refusals = []
        for token, (record, _, size_bytes) in waiting.items():
            self._memory.held_bytes -= size_bytes  # the producer counts it from now on
            refused = self._hand_over(queue, record, token) if queue.to < 0 else self._hand_over_to(queue, record)
            if refused is not None:
                refusals.append((token, *refused))
        if len(refusals) == len(waiting):
            self._abandon_batch(queue)
        return refusals

    def _hand_over_first(self, queue: TopicQueue, record: Record, token: int) -> Refused | None:
        refusal = self._hand_over(queue, record, token)
        if refusal is not None:
            self._abandon_batch(queue)
        return refusal

    def _hand_over(self, queue: TopicQueue, record: Record, token: int) -> Refused | None:
        return self.producer.send(
            record.topic, record.value, record.key, record.headers, ANY, token, queue.batch, queue.partition
        )

    def _hand_over_to(self, queue: TopicQueue, record: Record) -> Refused | None:
        return self.producer.send(
            record.topic, record.value, record.key, record.headers, queue.to, UNTRACKED, queue.batch, ANY
        )

    def _abandon_batch(self, queue: TopicQueue) -> None:
        """End the batch that was just begun: none of its records was accepted, so none will be acknowledged."""
        queue.open_until_ns = 0
        self._end_batch(queue.batch)

    def _end_batch(self, number: int) -> None:
        """The batch is no longer outstanding. A batch that is not tracked is ignored."""
        batch = self._outstanding.pop(number, None)
        if batch is not None:
            queue, partition, _ = batch
            queue.busy.discard(partition)
            if number == queue.batch:
                queue.open_until_ns = 0
