"""When records leave for Kafka: in batches, so that batches are large and librdkafka never has to wait.

librdkafka's idempotent producer has one batch of five records or more on its way to a partition. Until that is
acknowledged it keeps the next one back, and once the linger of that one is over its thread asks the socket again and
again, without waiting: a core, for as long as the broker is silent. So records wait here, in the loop, where waiting
costs nothing, and librdkafka is given only what it can send at once.

A topic has two queues: one whose batches stay on one partition (sticky), one whose records are spread over all. A batch
is outstanding until the fate of each of its records is known. A record that finds no open batch waits; all that wait in
a queue leave together, as its next batch. Four reasons let a batch leave:

    reason          when                                                           constant
    ------------    -----------------------------------------------------------    --------------------------------
    enough          no batch is outstanding, and 1/CONCURRENCY_SHARE of the        CONCURRENCY_SHARE
                    requests under way wait
    gathered        no batch is outstanding, and the first record has waited       GATHER_MAX_NS, or STALLED_LINGERS
                    this long                                                      lingers if that is less
    stalled         a batch is outstanding, and the first record has waited this   STALLED_LINGERS
                    many lingers
    closing         `flush_all`: the producer is about to be closed

    stays open      after it has left, a batch takes more records for this part    OPEN_LINGERS
                    of a linger, or until it is acknowledged

So a broker's round trip sets the pace: the busier it is, the larger the batches. With an eighth of the requests under
way there are enough, and these come within an eighth of the time that each request takes (Little's law): so much longer
may a request take. Where few requests are under way one record is enough. Without this, many workers on few cores send
batches so small that the broker is busy with nothing else.

A sticky batch goes to a partition to which none of its queue is outstanding. While there is no such partition nothing
leaves, for whatever reason but the last: all brokers are silent, and a record that librdkafka was never given is in no
log for certain. A partition whose leader has died keeps its one batch and gets no other; its neighbours get them.

Time and the random choice of a partition are arguments. Nothing here waits; `RecordQueue` asks its owner to wake it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fastgw.kafka._klink import LAST_BATCH, Producer
from fastgw.kafka.error_codes import QUEUE_FULL
from fastgw.kafka.link import ANY, NEVER
from fastgw.messages import SPREAD, Record

CONCURRENCY_SHARE = 8
GATHER_MAX_NS = 5_000_000
STALLED_LINGERS = 5  # longer than a round trip on a busy machine, shorter than anybody notices
OPEN_LINGERS = 0.9  # a later record might miss librdkafka's batch, and would be the first of another one

# Of a topic whose partitions are not known yet: a number that will do for any count, of which the remainder is taken.
ANY_COUNT = 1 << 30

Refused = tuple[int, str]
"""librdkafka's error code and text for a record that it does not take."""
RefusedRecord = tuple[int, int, str]
"""The same, and before it the token of the record."""

NO_ROOM: Refused = (QUEUE_FULL, "too many bytes wait for Kafka to acknowledge others")


class TopicQueue:
    """The records of one topic that may share a batch, and what is known of their batches."""

    def __init__(self, topic: str, sticky: bool) -> None:
        """`sticky`: the records of a batch that have no key go to one partition."""
        self.topic = topic
        self.sticky = sticky
        self.waiting: dict[int, tuple[Record, int]] = {}  # token -> record, since when (ns); first come first
        self.since_ns = 0  # when the first of them came
        self.enough = 0  # how many of them may leave at once; the smallest number that one of them asks for
        self.batch = 0  # the last one: its number, 0 if it is not followed ...
        self.open_until_ns = 0  # ... until when it takes more records
        self.partition = ANY  # ... and where it goes
        self.chosen_ns = 0  # since when batches go there
        self.busy: set[int] = set()  # partitions to which a batch is outstanding

    def __repr__(self) -> str:
        kind = "sticky" if self.sticky else "spread"
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
        waiting_bytes_max: int,
        wake_at: Callable[[int], None],
        refused: Callable[[Sequence[RefusedRecord]], None],
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        """
        Args:
            producer: takes the records.
            linger_ns: the producer's.
            sticky_ns: how long the batches of a queue go to the same partition.
            waiting_bytes_max: of the values of all records that wait.
            wake_at: told when (monotonic, ns) `flush_due` should be called at the latest.
            refused: told of records that waited and that librdkafka does not take.
            draw: a random number from 0 to below its argument: the partition at which the search for a free one begins.
        """
        self.producer = producer
        self._linger_ns = linger_ns
        self._open_ns = int(OPEN_LINGERS * linger_ns)
        self._stalled_ns = STALLED_LINGERS * linger_ns
        self._gather_ns = min(self._stalled_ns, GATHER_MAX_NS)
        self._sticky_ns = sticky_ns
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting_bytes = 0
        self._wake_at = wake_at
        self._refused = refused
        self._draw = draw
        self._sticky: dict[str, TopicQueue] = {}
        self._spread: dict[str, TopicQueue] = {}
        self._gathering: dict[TopicQueue, None] = {}  # those with records that wait; the first to begin comes first
        # Number of a batch -> its queue, its partition, when it left; in the order in which they left.
        self._outstanding: dict[int, tuple[TopicQueue, int, int]] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<RecordQueue {self.waiting} records wait, {len(self._outstanding)} batches outstanding>"

    @property
    def waiting(self) -> int:
        """Records that have not left."""
        return sum(len(queue.waiting) for queue in self._gathering)

    def oldest_ns(self) -> int:
        """When (monotonic) the oldest outstanding batch left; NEVER if there is none."""
        for _, _, left_ns in self._outstanding.values():
            return left_ns
        return NEVER

    def send(self, record: Record, token: int, concurrency_hint: int, now_ns: int) -> Refused | None:
        """A record of a request; it is handed over now or waits for its batch.

        Args:
            record: its partition is one of the markers TOGETHER and SPREAD.
            token: names it in `refused`.
            concurrency_hint: requests of its route under way here, itself included.
            now_ns: monotonic.

        Returns:
            None; or librdkafka's refusal, if it was given the record now and did not take it.
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
        if self._waiting_bytes + len(record.value) > self._waiting_bytes_max:
            return NO_ROOM
        if is_first:
            queue.since_ns = now_ns
            self._gathering[queue] = None
        else:
            queue.enough = min(queue.enough, concurrency_hint // CONCURRENCY_SHARE)
        queue.waiting[token] = record, now_ns
        self._waiting_bytes += len(record.value)
        wait_ns = self._wait_ns(queue, len(queue.waiting))
        if is_first or wait_ns == 0:  # even then not at once: what is read in the same turn of the loop goes as well
            self._wake_at(queue.since_ns + wait_ns)
        return None

    def cancel_unsent(self, token: int) -> bool:
        """Forgets a record that waits: its request has ended. False: it does not wait, it may be on its way."""
        for queue in self._gathering:
            waited = queue.waiting.pop(token, None)
            if waited is not None:
                self._waiting_bytes -= len(waited[0].value)
                if not queue.waiting:
                    self._gathering.pop(queue, None)
                return True
        return False

    def cancel_older(self, before_ns: int, most: int) -> list[int]:
        """Forgets what has waited since before that time, not more than `most`; returns the tokens."""
        tokens: list[int] = []
        for queue in self._gathering:
            for token, (_, since_ns) in queue.waiting.items():
                if since_ns >= before_ns or len(tokens) == most:
                    break
                tokens.append(token)
        for token in tokens:
            self.cancel_unsent(token)
        return tokens

    def acknowledged(self, batches: Sequence[int], now_ns: int) -> None:
        """The fate of each record of these batches is known."""
        for number in batches:
            self._end_batch(number)
        self.flush_due(now_ns)

    def flush_due(self, now_ns: int) -> None:
        """Every batch that may leave by now leaves."""
        refusals: list[RefusedRecord] = []
        for queue in list(self._gathering):
            due_ns = queue.since_ns + self._wait_ns(queue, len(queue.waiting))
            if due_ns > now_ns:
                self._wake_at(due_ns)
            elif self._begin_batch(queue, now_ns):  # else an acknowledgement makes room
                refusals += self._hand_over_waiting(queue)
        if refusals:  # told at the end: the owner may send again at once
            self._refused(refusals)

    def flush_all(self, now_ns: int) -> None:
        """Everything leaves, whatever is outstanding: this producer is about to be closed."""
        refusals: list[RefusedRecord] = []
        for queue in list(self._gathering):
            queue.busy.clear()
            self._begin_batch(queue, now_ns)
            refusals += self._hand_over_waiting(queue)
        if refusals:
            self._refused(refusals)

    def switch_to(self, producer: Producer) -> None:
        """The producer has been replaced: what waits leaves with the new one, what is outstanding is not followed."""
        self.producer = producer
        self._outstanding.clear()
        for queue in (*self._sticky.values(), *self._spread.values()):
            queue.open_until_ns = 0
            queue.busy.clear()

    def _is_outstanding(self, queue: TopicQueue) -> bool:
        """Whether the queue's last batch is; an older one that is stuck holds up no other."""
        last = self._outstanding.get(queue.batch)
        return last is not None and last[0] is queue

    def _wait_ns(self, queue: TopicQueue, count: int) -> int:
        """How long, as things are, the first of so many records has to wait for its batch."""
        if self._is_outstanding(queue):
            return self._stalled_ns
        return self._gather_ns if count < queue.enough else 0

    def _begin_batch(self, queue: TopicQueue, now_ns: int) -> bool:
        """Begins a batch, if there is a partition where it may go."""
        if not self._choose_partition(queue, now_ns):
            return False
        # Spread without linger: nothing depends on when such a batch is acknowledged, so it needs no number.
        queue.batch = number = self._free_number() if queue.sticky or self._linger_ns else 0
        queue.open_until_ns = now_ns + self._open_ns
        if number:
            self._outstanding[number] = queue, queue.partition, now_ns
            queue.busy.add(queue.partition)
        return True

    def _choose_partition(self, queue: TopicQueue, now_ns: int) -> bool:
        if not queue.sticky:
            queue.partition = ANY
            return True
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
        """0: all are in use, and the batch is not followed."""
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
        for token, (record, _) in waiting.items():
            self._waiting_bytes -= len(record.value)
            refused = self._hand_over(queue, record, token)
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

    def _abandon_batch(self, queue: TopicQueue) -> None:
        """The batch that was just begun has no record that could be acknowledged."""
        queue.open_until_ns = 0
        self._end_batch(queue.batch)

    def _end_batch(self, number: int) -> None:
        """Nothing of this batch is outstanding any more; one that is not followed is passed over."""
        batch = self._outstanding.pop(number, None)
        if batch is not None:
            queue, partition, _ = batch
            queue.busy.discard(partition)
            if number == queue.batch:
                queue.open_until_ns = 0
