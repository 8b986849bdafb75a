"""How positions come into the table: never ahead of what is safe, whatever the times of replies and ticks."""

from __future__ import annotations

import pytest

from fastgw import table
from fastgw._ctable import UNKNOWN_POSITION
from fastgw.worker.handled_offsets import MARK_EVERY_NS, SETTLED_NS, HandledOffsets

LOG, MS = 7, 1_000_000


@pytest.fixture
def shared():
    return table.create(node=1, workers=1, slots_per_process=8)[1]


@pytest.fixture
def reached():
    """What the link has handed over, by partition."""
    return {3: 100, 4: 20}


@pytest.fixture
def handled(shared, reached):
    return HandledOffsets(shared, LOG, reached.__getitem__)


@pytest.mark.parametrize("tick_ms", [1, 25, 249, 250, 251, 400, 499, 500, 501, 3000])
def test_what_is_settled_was_reached_long_enough_ago_and_is_not_older_than_it_must_be(handled, reached, tick_ms):
    handled.keep(3)
    when_ns = {}  # offset -> when it was reached
    told = 0
    for now_ns in range(MS, 10_000 * MS, tick_ms * MS):
        reached[3] += 1
        when_ns[reached[3]] = now_ns
        for partition, offset in handled.settled(now_ns).items():
            told += 1
            assert partition == 3
            assert SETTLED_NS <= now_ns - when_ns[offset] < SETTLED_NS + 2 * max(MARK_EVERY_NS, tick_ms * MS)
    assert told >= 2


def test_between_two_marks_nothing_is_settled(handled):
    handled.keep(3)
    for now_ns in (0, SETTLED_NS - 1):
        assert handled.settled(now_ns) == {}
    assert handled.settled(SETTLED_NS - 1 + MARK_EVERY_NS) == {3: 100}
    assert handled.settled(SETTLED_NS - 1 + 2 * MARK_EVERY_NS - 1) == {}


def test_what_was_reached_before_a_partition_was_dropped_or_kept_is_not_settled(handled, reached):
    handled.keep(3)
    handled.settled(0)
    handled.drop([3, 4])
    handled.keep(3)
    handled.keep(4)
    assert handled.settled(SETTLED_NS) == {}
    reached[3], reached[4] = 200, 200
    assert handled.settled(2 * SETTLED_NS) == {3: 100, 4: 20}


def test_a_position_is_published_under_its_log(handled, shared, reached):
    assert handled.published(0) == UNKNOWN_POSITION
    handled.publish(0, 12)
    assert handled.published(0) == shared.handled_to(0, LOG) == 12
    assert HandledOffsets(shared, LOG + 1, reached.__getitem__).published(0) == UNKNOWN_POSITION


def test_its_state_can_be_seen(handled):
    handled.keep(3)
    assert repr(handled) == "<HandledOffsets {3: 100}>"
