"""Replaces producers: a successor is ready before it is needed, and no record of an old producer is forgotten.

A channel carries the records of one kind and one delivery class; it has one serving producer at a time.
`retire_overdue` looks at the age of the channel's oldest record without a delivery report:

    age                   the channel
    ------------------    --------------------------------------------------------------------------------------
    below spare_ns        has one producer; a spare is closed
    spare_ns or more      also has a spare
    retire_ns or more     goes on with the spare; the old producer is retired
    any, producer dead    goes on with a new producer, but at most once per REPLACE_AGAIN_NS; the old one is retired

    a retired producer    its records may still be acknowledged until give_up_ns; then it is purged repeatedly;
                          when it holds no more records it is closed

Facts about librdkafka 2.16, on which both links depend:

1. After a fatal error a producer refuses every record. The error is reported by an event and by the next `send`.
2. If librdkafka itself times out a record, an idempotent producer begins a new epoch. In the new epoch librdkafka sends
   all its other records again, even records that are in their topic but were not acknowledged, and brokers do not
   recognise them as duplicates. So this must never happen: librdkafka's timeout is out of reach
   (`properties.BEYOND_REACH_MS`), and a producer is retired before its oldest record is overdue. (The supervisor kills
   a worker that does not run for seconds, so no worker can miss the time in between.)
3. A new producer cannot send for half a second. It needs a producer id, which it requests 500 ms after its start, or
   when it gets topic metadata from a broker. The first metadata arrives too early, before the connection is ready.
4. A purge reports each record at once: as in no log if it never left, otherwise as possibly in the log.
5. Destroying a client waits for its threads.

Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger("fastgw.kafka")

# A producer is replaced at most this often, because each costs threads and connections. A producer that dies as soon
# as it is made (because an ACL is missing, for example) is not replaced at once. Until then requests are refused with
# "send again".
REPLACE_AGAIN_NS = 500_000_000
GRACE_MAX_NS = 500_000_000  # the longest time in which the records of a retired producer may still be acknowledged
SPARE_NS = 1_000_000_000  # a successor is made so long before it is needed; fact 3, with some time left

DIED = "the producer died"
LATE = "Kafka did not acknowledge it in time"


class DeliveryTimes(NamedTuple):
    """The time limits of one producer, in ns."""

    unsent_ns: int  # a record that was not handed over after this time is given up
    spare_ns: int  # at this age of its oldest record, a spare is made ...
    retire_ns: int  # ... and at this age the spare replaces the producer
    grace_ns: int  # this long after it was retired, the producer is purged


def delivery_times(timeout_ms: int) -> DeliveryTimes:
    """The limits of a producer with this delivery timeout."""
    timeout_ns = 1_000_000 * timeout_ms
    grace_ns = min(GRACE_MAX_NS, timeout_ns // 10)
    retire_ns = max(timeout_ns - grace_ns, REPLACE_AGAIN_NS)
    return DeliveryTimes(timeout_ns, max(retire_ns - SPARE_NS, retire_ns // 2), retire_ns, grace_ns)


class Channel:
    """One kind of one delivery class, and its serving producer."""

    def __init__(self, number: int, kind: int, delivery_class: int, times: DeliveryTimes, producer: Any) -> None:
        """
        Args:
            number: its index in `ProducerPool.channels`.
            kind: a number that the link has chosen.
            producer: has `purge()`, and `waiting()`, the number of records and reports that it holds.
        """
        self.number = number
        self.kind = kind
        self.delivery_class = delivery_class
        self.times = times
        self.producer = producer
        self.spare: Any = None  # the next producer
        self.replace_from_ns = 0  # before this (monotonic) a dead producer gets no successor

    def __repr__(self) -> str:
        spare = ", has a spare" if self.spare is not None else ""
        return f"<Channel {self.number}: kind {self.kind}, delivery class {self.delivery_class}{spare}>"


class Retired(NamedTuple):
    """A producer that has a successor; kept until each of its records has a delivery report."""

    producer: Any
    give_up_ns: int  # when (monotonic) it is purged
    why: str  # the error text of the records that are purged


class ProducerPool:
    """All producers of a link; used by one thread.

    Attributes:
        channels: one for each kind and delivery class; all delivery classes of the first kind come first.
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
            oldest_ns: when (monotonic) a channel's oldest record without a delivery report was sent; NEVER: none.
            take_reports: processes the reports of a retired producer; the text says why it was purged.
            replaced: called with a channel whose producer was replaced.
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
        """The channels of a kind, by delivery class."""
        return [channel for channel in self.channels if channel.kind == kind]

    def producers(self) -> list[Any]:
        """All producers that are not closed: serving ones, spares, and retired ones."""
        serving = [channel.producer for channel in self.channels]
        spares = [channel.spare for channel in self.channels if channel.spare is not None]
        return [*serving, *spares, *(retired.producer for retired in self.retired)]

    def retire_overdue(self, now_ns: int) -> None:
        """Make spares and retire producers, by the age of their oldest records."""
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
        """Replace the channel's producer after a fatal error; `detail` is the error's text."""
        if now_ns < channel.replace_from_ns:
            channel.producer.purge()
            return  # too soon: a later `send` finds the producer dead and calls this again
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
        """Process the reports of retired producers; purge those whose time is up; close those that are empty."""
        for retired in list(self.retired):
            if now_ns >= retired.give_up_ns:
                retired.producer.purge()
            self._take_reports(retired.producer, retired.why)
            if retired.producer.waiting() == 0:
                self.retired.remove(retired)
                self._close(retired.producer)
