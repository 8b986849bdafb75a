"""When records leave for Kafka: together, in flights, so that batches are large and librdkafka never has to wait.

librdkafka's idempotent producer has one batch of five records or more on its way to a partition. Until that is
acknowledged it keeps the next one back, and once the linger of that one is over its thread asks the socket again and
again, without waiting: a core, for as long as the broker is silent. So records wait here, in the loop, where waiting
costs nothing, and librdkafka is given only what it can send at once:

    lane      the records of one topic that may travel together: those that stay on one partition, or those that do not
    flight    one batch of a lane. It boards for as long as librdkafka lingers; it has landed when the fate of each of
              its records is told.

    a record comes ── a flight boards? ── yes: goes with it
                        no: waits until the last one has landed and the next is complete, and goes with all that wait

So a broker's round trip sets the pace: the busier it is, the larger the batches. A flight is complete with an eighth of
the requests that are under way, and these come within an eighth of the time that each of them takes (Little's law): so
much may a request wait for others, and GATHER_MAX_NS at most. Where few are under way one is enough. Without this, many
workers on few cores send batches so small that the broker is busy with nothing else.

Who has waited for PATIENCE lingers goes without a landing. A flight of records that stay together goes to a partition
that no other flight of its lane is on its way to; while there is none, nothing leaves: all brokers are silent, and what
librdkafka was never given is in no log for certain. A partition whose leader has died keeps its one flight and gets no
other; its neighbours get them.

Time is an argument. Nothing here waits; `RecordQueue` asks its owner to come back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fastgw.kafka._klink import LAST_FLIGHT, Producer
from fastgw.kafka.link import ANY, NEVER, QUEUE_FULL
from fastgw.messages import SPREAD, Record

PATIENCE = 5  # lingers: longer than a round trip on a busy machine, shorter than anybody notices
SHARE = 8  # a flight is complete with this part of the requests that are under way ...
GATHER_MAX_NS = 5_000_000  # ... or after this time
BOARDING = 0.9  # of a linger: who comes later might miss the batch, and would be the first of another one

Refused = tuple[int, str]
"""librdkafka's error code and text for a record that it does not take."""
RefusedRecord = tuple[int, int, str]
"""The same, and before it the token of the record."""

NO_ROOM: Refused = (QUEUE_FULL, "too many bytes wait for Kafka to acknowledge others")


class Lane:
    """The records of one topic that may travel together, and what is known of their flights."""

    def __init__(self, topic: str, stays: bool) -> None:
        """`stays`: the records of a flight that have no key go to one partition."""
        self.topic = topic
        self.stays = stays
        self.waiting: dict[int, tuple[Record, int]] = {}  # token -> record, since when (ns); first come first
        self.since_ns = 0  # when the first of them came
        self.complete = 0  # how many of them are a flight, as the one sees it that is content with least
        self.flight = 0  # the last one: its number, 0 if it is not followed ...
        self.boards_until_ns = 0  # ... until when it takes more
        self.partition = ANY  # ... and where it goes
        self.chosen_ns = 0  # since when flights go there
        self.taken: set[int] = set()  # partitions that a flight is on its way to

    def __repr__(self) -> str:
        return f"<Lane {self.topic}: {len(self.waiting)} wait, flights are on their way to {self.taken or 'none'}>"


class RecordQueue:
    """The flights of one producer; used by one thread."""

    def __init__(
        self,
        producer: Producer,
        linger_ns: int,
        stay_ns: int,
        waiting_bytes_max: int,
        come_back: Callable[[int], None],
        refused: Callable[[Sequence[RefusedRecord]], None],
    ) -> None:
        """
        Args:
            producer: takes the records.
            linger_ns: the producer's.
            stay_ns: how long the flights of a lane go to the same partition.
            waiting_bytes_max: of the values of all records that wait.
            come_back: told when (monotonic, ns) `leave` should be called at the latest.
            refused: told of records that waited and that librdkafka does not take.
        """
        self._producer = producer
        self._linger_ns = linger_ns
        self._boarding_ns = int(BOARDING * linger_ns)
        self._patience_ns = PATIENCE * linger_ns
        self._gather_ns = min(self._patience_ns, GATHER_MAX_NS)
        self._stay_ns = stay_ns
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting_bytes = 0
        self._come_back = come_back
        self._refused = refused
        self._lanes: dict[str, Lane] = {}
        self._spread_lanes: dict[str, Lane] = {}
        self._gathering: dict[Lane, None] = {}  # those with records that wait; who began to first comes first
        # Number of a flight -> whose it is, its partition, when it began; in the order in which they began.
        self._aloft: dict[int, tuple[Lane, int, int]] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<RecordQueue {self.waiting} records wait, {len(self._aloft)} flights on their way>"

    @property
    def waiting(self) -> int:
        """Records that have not left."""
        return sum(len(lane.waiting) for lane in self._gathering)

    def oldest_ns(self) -> int:
        """When (monotonic) the oldest flight began that has not landed; NEVER if none is on its way."""
        for _, _, began_ns in self._aloft.values():
            return began_ns
        return NEVER

    def send(self, record: Record, token: int, concurrency_hint: int, now_ns: int) -> Refused | None:
        """A record of a request; it is handed over now or waits for its flight.

        Args:
            record: its partition is one of the markers TOGETHER and SPREAD.
            token: names it in `refused`.
            concurrency_hint: requests of its route under way here, itself included.
            now_ns: monotonic.

        Returns:
            None; or librdkafka's refusal, if it was given the record now and did not take it.
        """
        lanes = self._spread_lanes if record.partition == SPREAD else self._lanes
        lane = lanes.get(record.topic)
        if lane is None:
            lane = lanes[record.topic] = Lane(record.topic, record.partition != SPREAD)
        is_first = not lane.waiting
        if is_first:
            if now_ns < lane.boards_until_ns:
                return self._hand_over(lane, record, token)
            lane.complete = concurrency_hint // SHARE
            if self._wait_ns(lane, 1) == 0 and self._begin(lane, now_ns):
                return self._hand_over_first(lane, record, token)
        if self._waiting_bytes + len(record.value) > self._waiting_bytes_max:
            return NO_ROOM
        if is_first:
            lane.since_ns = now_ns
            self._gathering[lane] = None
        else:
            lane.complete = min(lane.complete, concurrency_hint // SHARE)
        lane.waiting[token] = record, now_ns
        self._waiting_bytes += len(record.value)
        wait_ns = self._wait_ns(lane, len(lane.waiting))
        if is_first or wait_ns == 0:  # even then not at once: whoever is read in the same turn of the loop goes as well
            self._come_back(lane.since_ns + wait_ns)
        return None

    def withdraw(self, token: int) -> bool:
        """Forgets a record that waits: its request has ended. False: it does not wait, it may be on its way."""
        for lane in self._gathering:
            waited = lane.waiting.pop(token, None)
            if waited is not None:
                self._waiting_bytes -= len(waited[0].value)
                if not lane.waiting:
                    self._gathering.pop(lane, None)
                return True
        return False

    def leave(self, now_ns: int) -> None:
        """Whatever may leave by now leaves."""
        self._leave_if_due(list(self._gathering), now_ns)

    def landed(self, numbers: Sequence[int], now_ns: int) -> None:
        """The fate of each record of these flights is told."""
        for number in numbers:
            self._end(number)
        self._leave_if_due(list(self._gathering), now_ns)

    def leave_all(self, now_ns: int) -> None:
        """Everything leaves, whatever is on its way: this producer is about to be closed."""
        refusals: list[RefusedRecord] = []
        for lane in list(self._gathering):
            lane.taken.clear()
            self._begin(lane, now_ns)
            refusals += self._leave(lane)
        if refusals:
            self._refused(refusals)

    def expired(self, before_ns: int, most: int) -> list[int]:
        """Forgets what has waited since before that time, not more than `most`; returns the tokens."""
        tokens: list[int] = []
        for lane in self._gathering:
            for token, (_, since_ns) in lane.waiting.items():
                if since_ns >= before_ns or len(tokens) == most:
                    break
                tokens.append(token)
        for token in tokens:
            self.withdraw(token)
        return tokens

    def go_on_with(self, producer: Producer) -> None:
        """The producer has been replaced: what waits leaves with the new one, what is on its way is not followed."""
        self._producer = producer
        self._aloft.clear()
        for lane in (*self._lanes.values(), *self._spread_lanes.values()):
            lane.boards_until_ns = 0
            lane.taken.clear()

    def _is_on_its_way(self, lane: Lane) -> bool:
        """Whether the lane's last flight has not landed; one that is stuck for longer holds up nobody."""
        last = self._aloft.get(lane.flight)
        return last is not None and last[0] is lane

    def _wait_ns(self, lane: Lane, count: int) -> int:
        """How long, as things are, the first of so many records has to wait for its flight."""
        if self._is_on_its_way(lane):
            return self._patience_ns
        return self._gather_ns if count < lane.complete else 0

    def _leave_if_due(self, lanes: Sequence[Lane], now_ns: int) -> None:
        refusals: list[RefusedRecord] = []
        for lane in lanes:
            due_ns = lane.since_ns + self._wait_ns(lane, len(lane.waiting))
            if due_ns > now_ns:
                self._come_back(due_ns)
            elif self._begin(lane, now_ns):  # else a landing makes room
                refusals += self._leave(lane)
        if refusals:  # told at the end: who is told may send again
            self._refused(refusals)

    def _begin(self, lane: Lane, now_ns: int) -> bool:
        """Begins a flight, if there is a partition where it may go."""
        if not self._choose_partition(lane, now_ns):
            return False
        # Who asks neither whether a flight has landed nor where it went needs no number.
        lane.flight = number = self._free_number() if lane.stays or self._linger_ns else 0
        lane.boards_until_ns = now_ns + self._boarding_ns
        if number:
            self._aloft[number] = lane, lane.partition, now_ns
            lane.taken.add(lane.partition)
        return True

    def _choose_partition(self, lane: Lane, now_ns: int) -> bool:
        if not lane.stays:
            lane.partition = ANY
            return True
        count = self._producer.partitions(lane.topic)
        if count == 0:  # not known yet: a number that will do for any, and one flight at a time
            lane.partition = random.getrandbits(30)
            return not lane.taken
        if 0 <= lane.partition < count and now_ns - lane.chosen_ns < self._stay_ns and lane.partition not in lane.taken:
            return True
        first = random.randrange(count)  # noqa: S311  # which partition is no secret
        for step in range(count):
            partition = (first + step) % count
            if partition not in lane.taken:
                lane.partition, lane.chosen_ns = partition, now_ns
                return True
        return False

    def _free_number(self) -> int:
        if len(self._aloft) == LAST_FLIGHT:
            return 0
        number = self._last % LAST_FLIGHT + 1
        while number in self._aloft:
            number = number % LAST_FLIGHT + 1
        self._last = number
        return number

    def _leave(self, lane: Lane) -> list[RefusedRecord]:
        waiting, lane.waiting = lane.waiting, {}
        self._gathering.pop(lane, None)
        refusals = []
        for token, (record, _) in waiting.items():
            self._waiting_bytes -= len(record.value)
            refused = self._hand_over(lane, record, token)
            if refused is not None:
                refusals.append((token, *refused))
        if len(refusals) == len(waiting):
            self._call_off(lane)
        return refusals

    def _hand_over_first(self, lane: Lane, record: Record, token: int) -> Refused | None:
        refusal = self._hand_over(lane, record, token)
        if refusal is not None:
            self._call_off(lane)
        return refusal

    def _hand_over(self, lane: Lane, record: Record, token: int) -> Refused | None:
        return self._producer.send(
            record.topic, record.value, record.key, record.headers, ANY, token, lane.flight, lane.partition
        )

    def _call_off(self, lane: Lane) -> None:
        """The flight that was just begun has no record that could land."""
        lane.boards_until_ns = 0
        self._end(lane.flight)

    def _end(self, number: int) -> None:
        """Nothing of this flight is on its way any more; one that is not followed is passed over."""
        flight = self._aloft.pop(number, None)
        if flight is not None:
            lane, partition, _ = flight
            lane.taken.discard(partition)
            if number == lane.flight:
                lane.boards_until_ns = 0
