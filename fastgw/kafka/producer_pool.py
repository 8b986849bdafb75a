"""Which producer sends: a successor is ready before it is needed, and no record of an old producer is forgotten.

A channel is what one producer at a time serves: the records of one kind and one delivery class. `retire_overdue` goes
by the oldest record whose fate is not known:

    its age               the channel
    ------------------    --------------------------------------------------------------------------------------
    below spare_ns        has one producer; a spare is closed
    spare_ns or more      has a spare as well
    retire_ns or more     goes on with the spare; the old producer is retired
    any, producer dead    goes on with a new producer, but not more often than REPLACE_AGAIN_NS; the old one is retired

    a retired producer    until give_up_ns its records may still be acknowledged; then it is purged, again and again;
                          once it holds no record any more it is closed

librdkafka facts, version 2.16, on which both links depend:

1. After a fatal error a producer refuses every record for good. The error is told by an event and by the next `send`.
2. A record that librdkafka itself times out makes an idempotent producer begin a new epoch. In it, librdkafka sends all
   other records that it holds once more, also those that are in their topic already and were not acknowledged; no
   broker knows them again. So that must never happen: its timeout is out of reach (`properties.BEYOND_REACH_MS`), and a
   producer is retired before its oldest record is overdue. (A supervisor kills a worker that does not run for seconds,
   so no worker misses the time in between.)
3. A new producer cannot send for half a second. It needs its producer id, which it asks for 500 ms after its start or
   when a broker tells it of topics; the first such answer comes too early, before the connection is ready.
4. A purge reports each record at once: as in no log if it never left, else as possibly in it.
5. To destroy a client means to wait for its threads.

Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger("fastgw.kafka")

# No producer is replaced more often than this: each costs threads and connections. One that dies as soon as it is made
# (an ACL that is missing, say) is not replaced at once; in the meantime requests are refused with "send again".
REPLACE_AGAIN_NS = 500_000_000
GRACE_MAX_NS = 500_000_000  # for which the records of a retired producer may still be acknowledged
SPARE_NS = 1_000_000_000  # so long before it is needed a successor is made; fact 3, with some time left

DIED = "the producer had died"
LATE = "Kafka did not acknowledge it in time"


class DeliveryTimes(NamedTuple):
    """How long one producer is given for its records; all in ns."""

    unsent_ns: int  # a record that waits to be handed over is given up after this
    spare_ns: int  # when its oldest record is as old as this, its successor should be there, ...
    retire_ns: int  # ... and take all records from this age on
    grace_ns: int  # after which the retired producer is purged


def delivery_times(timeout_ms: int) -> DeliveryTimes:
    """Those of a producer with this delivery timeout."""
    timeout_ns = 1_000_000 * timeout_ms
    grace_ns = min(GRACE_MAX_NS, timeout_ns // 10)
    retire_ns = max(timeout_ns - grace_ns, REPLACE_AGAIN_NS)
    return DeliveryTimes(timeout_ns, max(retire_ns - SPARE_NS, retire_ns // 2), retire_ns, grace_ns)


class Channel:
    """One kind of one delivery class, and the producer that serves it now."""

    def __init__(self, number: int, kind: int, delivery_class: int, times: DeliveryTimes, producer: Any) -> None:
        """
        Args:
            number: its place in `ProducerPool.channels`.
            kind: what the link calls it.
            producer: has `purge()` and `waiting()`, the number of records and reports that it holds.
        """
        self.number = number
        self.kind = kind
        self.delivery_class = delivery_class
        self.times = times
        self.producer = producer
        self.spare: Any = None  # the producer that comes next
        self.replace_from_ns = 0  # before this (monotonic) a dead producer gets no successor

    def __repr__(self) -> str:
        spare = ", has a spare" if self.spare is not None else ""
        return f"<Channel {self.number}: kind {self.kind}, delivery class {self.delivery_class}{spare}>"


class Retired(NamedTuple):
    """A producer that has a successor; kept until the fate of each of its records is told."""

    producer: Any
    give_up_ns: int  # when (monotonic) it is purged
    why: str  # for the records that it still holds then


class ProducerPool:
    """All producers of a link; used by one thread.

    Attributes:
        channels: each kind with each delivery class; all delivery classes of the first kind come first.
        retired: producers that have a successor.
    """

    def __init__(
        self,
        kinds: int,
        timeouts_ms: Sequence[int],
        make: Callable[[int, int], Any],
        close: Callable[[Any], object],
        oldest_ns: Callable[[Channel], int],
        take_reports: Callable[[Any, str], object],
        replaced: Callable[[Channel], object] | None = None,
    ) -> None:
        """
        Args:
            kinds: how many producers each delivery class has; a kind is a number below this.
            timeouts_ms: delivery timeout of each delivery class.
            make: makes a producer for (kind, delivery class).
            close: ends a producer that holds no records; must not wait (fact 5).
            oldest_ns: since when (monotonic) the fate of a channel's oldest record is not known; NEVER if it has none.
            take_reports: takes in what a retired producer reports; the text says why it was purged.
            replaced: told of a channel that goes on with another producer.
        """
        self._make = make
        self._close = close
        self._oldest_ns = oldest_ns
        self._take_reports = take_reports
        self._replaced = replaced
        self.channels: list[Channel] = [
            Channel(number, kind, delivery_class, delivery_times(timeout_ms), make(kind, delivery_class))
            for number, (kind, (delivery_class, timeout_ms)) in enumerate(product(range(kinds), enumerate(timeouts_ms)))
        ]
        self.retired: list[Retired] = []

    def __repr__(self) -> str:
        spares = sum(channel.spare is not None for channel in self.channels)
        return f"<ProducerPool {len(self.channels)} channels, {spares} with a spare, {len(self.retired)} retired>"

    def of_kind(self, kind: int) -> list[Channel]:
        """The channels of a kind by delivery class."""
        return [channel for channel in self.channels if channel.kind == kind]

    def producers(self) -> list[Any]:
        """All that are not closed: those that serve, spares, and retired ones."""
        serving = [channel.producer for channel in self.channels]
        spares = [channel.spare for channel in self.channels if channel.spare is not None]
        return [*serving, *spares, *(retired.producer for retired in self.retired)]

    def retire_overdue(self, now_ns: int) -> None:
        """Makes spares and retires producers by the age of their oldest records."""
        for channel in self.channels:
            age_ns = now_ns - self._oldest_ns(channel)
            if age_ns >= channel.times.retire_ns:
                log.warning("producer retired, Kafka is late", delivery_class=channel.delivery_class)
                self._retire(channel, now_ns, now_ns + channel.times.grace_ns, LATE)
            elif age_ns >= channel.times.spare_ns:
                if channel.spare is None:
                    channel.spare = self._make(channel.kind, channel.delivery_class)
            elif channel.spare is not None:
                self._close(channel.spare)
                channel.spare = None

    def replace_dead(self, channel: Channel, now_ns: int, detail: str) -> None:
        """The channel's producer has had a fatal error; `detail` is its text."""
        if now_ns < channel.replace_from_ns:
            channel.producer.purge()
            return  # dead until a later `send` finds it so
        log.error("producer died, replaced", delivery_class=channel.delivery_class, detail=detail)
        self._retire(channel, now_ns, now_ns, DIED)

    def _retire(self, channel: Channel, now_ns: int, give_up_ns: int, why: str) -> None:
        self.retired.append(Retired(channel.producer, give_up_ns, why))
        channel.replace_from_ns = now_ns + REPLACE_AGAIN_NS
        spare, channel.spare = channel.spare, None
        channel.producer = spare if spare is not None else self._make(channel.kind, channel.delivery_class)
        if self._replaced is not None:
            self._replaced(channel)

    def settle_retired(self, now_ns: int) -> None:
        """Takes in what retired producers report, purges those whose time is up, closes those that are empty."""
        for retired in list(self.retired):
            if now_ns >= retired.give_up_ns:
                retired.producer.purge()
            self._take_reports(retired.producer, retired.why)
            if retired.producer.waiting() == 0:
                self.retired.remove(retired)
                self._close(retired.producer)
