"""Which producer sends: spares, retirement and death, with producers that do as they are told and time as a number."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from fastgw.kafka.link import NEVER
from fastgw.kafka.producer_pool import DIED, LATE, REPLACE_AGAIN_NS, ProducerPool, delivery_times

MS = 1_000_000
TIMEOUTS_MS = (2000, 20_000)
KINDS = 2
TIMES = delivery_times(TIMEOUTS_MS[0])


class FakeProducer:
    """Holds records until it is told otherwise."""

    def __init__(self, kind, delivery_class):
        self.made_for = kind, delivery_class
        self.held = 0
        self.purges = 0
        self.closed = False

    def purge(self):
        self.purges += 1

    def waiting(self):
        return self.held


class House:
    """A pool with everything around it."""

    def __init__(self):
        self.made, self.replaced, self.reports = [], [], []
        self.oldest_ns = {}  # number of a channel -> since when its oldest record is held
        self.pool = ProducerPool(
            KINDS,
            TIMEOUTS_MS,
            make=self.make,
            close=lambda producer: setattr(producer, "closed", True),
            oldest_ns=lambda channel: self.oldest_ns.get(channel.number, NEVER),
            take_reports=lambda producer, why: self.reports.append((producer, why)),
            replaced=lambda channel: self.replaced.append(channel.number),
        )
        self.first = self.pool.channels[0]

    def make(self, kind, delivery_class):
        self.made.append(FakeProducer(kind, delivery_class))
        return self.made[-1]

    def hold_since(self, since_ns, records=1):
        """The producer of the first channel holds records of which the oldest came then."""
        self.oldest_ns[0] = since_ns
        self.first.producer.held = records

    def tick(self, now_ns):
        self.pool.retire_overdue(now_ns)
        self.pool.settle_retired(now_ns)


@pytest.fixture
def house():
    return House()


def test_each_kind_has_a_producer_for_each_delivery_class(house):
    assert [(channel.kind, channel.delivery_class) for channel in house.pool.channels] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert [channel.producer.made_for for channel in house.pool.channels] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [channel.number for channel in house.pool.of_kind(1)] == [2, 3]
    assert house.pool.producers() == house.made
    assert repr(house.pool) == "<ProducerPool 4 channels, 0 with a spare, 0 retired>"


def test_while_records_are_acknowledged_in_time_nothing_is_made_and_nothing_is_closed(house):
    for now_ns in range(0, 10**10, 10**8):
        house.hold_since(now_ns - TIMES.spare_ns + 1)
        house.tick(now_ns)
    assert len(house.made) == 4
    assert house.replaced == []


def test_a_spare_is_made_once_when_it_may_soon_be_needed_and_closed_when_it_is_not(house):
    house.hold_since(0)
    house.tick(TIMES.spare_ns - 1)
    assert house.first.spare is None
    house.tick(TIMES.spare_ns)
    house.tick(TIMES.spare_ns + 1)
    spare = house.first.spare
    assert house.made[4:] == [spare]
    assert spare.made_for == (0, 0)
    assert spare in house.pool.producers()
    assert "has a spare" in repr(house.first)
    house.hold_since(TIMES.spare_ns + 1)
    house.tick(TIMES.spare_ns + 2)
    assert spare.closed
    assert house.first.spare is None


def test_a_late_producer_is_succeeded_by_its_spare_and_may_finish_until_the_grace_is_over(house):
    old = house.first.producer
    house.hold_since(0)
    house.tick(TIMES.spare_ns)
    spare = house.first.spare
    with capture_logs() as lines:
        house.tick(TIMES.retire_ns)
    assert [(line["event"], line["delivery_class"]) for line in lines] == [("producer retired, Kafka is late", 0)]
    assert house.first.producer is spare
    assert house.first.spare is None
    assert house.replaced == [0]
    del house.oldest_ns[0]
    house.tick(TIMES.retire_ns + TIMES.grace_ns - 1)
    assert (old.purges, old.closed) == (0, False)
    house.tick(TIMES.retire_ns + TIMES.grace_ns)
    assert (old.purges, old.closed) == (1, False)
    assert house.reports[-1] == (old, LATE)
    old.held = 0
    house.tick(TIMES.retire_ns + TIMES.grace_ns + 1)
    assert old.closed
    assert house.pool.retired == []
    assert len(house.made) == 5


def test_a_late_producer_without_a_spare_is_succeeded_by_a_new_one(house):
    """The loop was held up for so long that nobody has made one."""
    house.hold_since(0)
    house.tick(TIMES.retire_ns)
    assert house.first.producer is house.made[4]
    assert len(house.made) == 5


def test_a_retired_producer_whose_records_were_acknowledged_is_closed_and_never_purged(house):
    old = house.first.producer
    house.hold_since(0)
    house.tick(TIMES.retire_ns)
    old.held = 0
    house.tick(TIMES.retire_ns + 1)
    assert (old.purges, old.closed) == (0, True)


def test_other_channels_go_on_with_their_producers(house):
    house.hold_since(0)
    house.tick(TIMES.retire_ns)
    assert [channel.producer for channel in house.pool.channels[1:]] == house.made[1:4]
    assert all(channel.spare is None for channel in house.pool.channels)


def test_a_dead_producer_is_replaced_and_purged_at_once(house):
    old = house.first.producer
    old.held = 3
    with capture_logs() as lines:
        house.pool.replace_dead(house.first, 10**9, "fenced")
    assert [(line["event"], line["detail"]) for line in lines] == [("producer died, replaced", "fenced")]
    assert house.first.producer is house.made[4]
    assert house.replaced == [0]
    house.tick(10**9)
    assert old.purges == 1
    assert house.reports == [(old, DIED)]


def test_a_producer_that_dies_at_once_again_is_purged_but_not_replaced_without_pause(house):
    house.pool.replace_dead(house.first, 0, "fenced")
    second = house.first.producer
    house.pool.replace_dead(house.first, REPLACE_AGAIN_NS - 1, "fenced")
    assert house.first.producer is second
    assert second.purges == 1
    house.pool.replace_dead(house.pool.channels[1], REPLACE_AGAIN_NS - 1, "fenced")
    assert house.replaced == [0, 1], "each channel has a pause of its own"
    house.pool.replace_dead(house.first, REPLACE_AGAIN_NS, "fenced")
    assert house.first.producer is not second


def test_a_spare_takes_the_place_of_a_dead_producer(house):
    house.hold_since(0)
    house.tick(TIMES.spare_ns)
    spare = house.first.spare
    house.pool.replace_dead(house.first, TIMES.spare_ns + 1, "fenced")
    assert house.first.producer is spare
    assert not spare.closed


@pytest.mark.parametrize("timeout_ms", [100, 450, 4500, 9000, 600_000])
def test_a_producer_is_retired_so_early_that_it_is_purged_in_time(timeout_ms):
    times = delivery_times(timeout_ms)
    assert times.unsent_ns == timeout_ms * MS
    assert times.retire_ns + times.grace_ns == max(timeout_ms * MS, REPLACE_AGAIN_NS + times.grace_ns)
    assert times.retire_ns // 2 <= times.spare_ns < times.retire_ns
    assert 0 < times.grace_ns <= 500 * MS
