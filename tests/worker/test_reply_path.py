"""The reply path step by step: a real table, a link and an exchange that only note what they are asked, no clock."""

from __future__ import annotations

import pytest

from fastgw import errors, ids, table
from fastgw._ctable import NOT_READING, UNKNOWN_POSITION, UNOWNED
from fastgw.core.canary import PERIOD_NS, SILENCE_NS, SLOT
from fastgw.core.ownership import NO_HOME, Ownership
from fastgw.core.reply_router import ReplyRouter
from fastgw.ids import IdMaker
from fastgw.kafka.link import FROM_BEGINNING, FROM_END
from fastgw.worker.handled_offsets import MARK_EVERY_NS, SETTLED_NS, HandledOffsets
from fastgw.worker.reply_path import HAND_OVER_NS, ROTATE_HOME_NS, STOP_READING_AFTER_NS, ReplyPath

NODE, TICK_NS, OFFSET = 0xABCDEF, 25_000_000, 100
OTHER = 1  # another worker of this node
LOG = 0x10C


class FakeLink:
    """The part of the Kafka link: what it was asked, in order."""

    def __init__(self):
        self.assigned, self.stopped, self.records = [], [], []
        self.next_offsets = {}

    def assign(self, starts):
        self.assigned.append(dict(starts))

    def reached(self, partition):
        return self.next_offsets[partition]

    def stop_reading(self, partitions):
        self.stopped += partitions

    def send_untracked(self, record):
        self.records.append(record)
        return True


class FakeGate:
    """The part of the exchange."""

    def __init__(self):
        self.home, self.is_open, self.closed_by = NO_HOME, False, None

    def set_home(self, home, partition_count):
        self.home = home

    def open_gate(self):
        self.is_open = True

    def close_gate(self, ending, why):
        self.is_open, self.closed_by = False, ending


class Path:
    """The reply path of a process of worker 0, and everything around it."""

    def __init__(self, owners=(0,), now_ns=1, generation=0, shared=None):
        self.table = shared or new_table()
        self.process_index = table.process_index(0, generation)
        self.table.register(self.process_index, 1, 0, generation)
        self.table.register(table.process_index(OTHER, 0), 2, OTHER, 0)
        self.link, self.gate, self.ups = FakeLink(), FakeGate(), 0
        self.waiting_since = []  # when the requests that wait were claimed
        self.ownership = Ownership(0, generation)
        self.handled = HandledOffsets(self.table, LOG, self.link.reached)
        self.path = ReplyPath(
            self.table,
            generation,
            self.ownership,
            IdMaker(NODE, 0, generation),
            self.link,
            self.gate,
            self.live_before,
            self.up,
            "replies",
            ReplyRouter(self.table, 0, generation, self.ownership).is_designated_reader,
            self.handled,
        )
        self.now_ns = now_ns
        self.map(*owners)

    def live_before(self, ns):
        return sum(since < ns for since in self.waiting_since)

    def up(self):
        self.ups += 1

    def map(self, *owners):
        self.table.write_map(bytes(owners))
        self.path.tick(self.now_ns)

    def positioned(self, *partitions, at=OFFSET, end=None):
        self.link.next_offsets.update(dict.fromkeys(partitions, at))
        ends = dict.fromkeys(partitions, at if end is None else end)
        self.path.positioned(dict.fromkeys(partitions, at), ends, self.now_ns)

    def read_to(self, partition, offset):
        """All replies below this offset come and are handled."""
        self.link.next_offsets[partition] = offset

    def settle(self):
        """Time passes until what was handled before is published."""
        for _ in range((SETTLED_NS + 2 * MARK_EVERY_NS) // TICK_NS):
            self.tick()

    def position(self, partition):
        """What the table says."""
        return self.table.handled_to(partition, LOG)

    def tick(self, after_ns=TICK_NS):
        self.now_ns += after_ns
        self.path.tick(self.now_ns)

    def hear_canary(self):
        """The last canary comes back."""
        cid = ids.parse(self.link.records[-1].key)
        assert cid.slot == SLOT
        self.path.canary_came(cid.tag, self.now_ns)

    def up_and_running(self, *partitions):
        """Reads these partitions and is ready."""
        self.positioned(*partitions)
        self.tick()
        self.hear_canary()
        self.path.fronts_listen()
        self.link.assigned.clear()
        return self

    def other_reads(self, partition, start=OFFSET):
        self.table.set_reads_from(table.process_index(OTHER, 0), partition, start)

    def dies(self):
        """The process is killed, and the supervisor notices it."""
        self.table.unregister(self.process_index)

    def is_published(self, partition):
        return self.table.reads_from(self.process_index, partition) != NOT_READING

    @property
    def is_ready(self):
        return self.table.process_info(self.process_index).ready


def new_table():
    return table.create(node=NODE, workers=2, slots_per_process=8)[1]


# ---- from nothing to ready


def test_a_partition_is_read_then_published_then_the_home_and_its_canary_opens_the_gate():
    path = Path(owners=(0, OTHER))
    assert path.link.assigned == [{0: FROM_END}]
    assert not path.is_published(0)
    assert (path.gate.home, path.link.records) == (NO_HOME, [])
    path.positioned(0)
    assert path.table.reads_from(0, 0) == OFFSET
    assert (path.gate.home, path.gate.is_open) == (0, False)
    assert path.gate.closed_by is errors.NOT_READY
    path.tick()
    assert [(record.topic, record.partition, record.value) for record in path.link.records] == [("replies", 0, b"")]
    path.hear_canary()
    assert (path.gate.is_open, path.ups) == (True, 1)


def test_a_worker_is_ready_once_its_fronts_listen():
    path = Path()
    path.positioned(0)
    path.tick()
    path.hear_canary()
    assert not path.is_ready
    path.path.fronts_listen()
    assert path.is_ready


def test_fronts_that_listen_do_not_make_a_worker_ready_whose_canary_is_not_back():
    path = Path()
    path.positioned(0)
    path.path.fronts_listen()
    assert not path.is_ready
    path.tick()
    path.hear_canary()
    assert path.is_ready


def test_a_tag_that_no_canary_had_opens_nothing():
    path = Path()
    path.positioned(0)
    path.tick()
    path.path.canary_came(1, path.now_ns)
    assert not path.gate.is_open


def test_a_partition_that_is_new_in_the_topic_is_read_from_its_beginning():
    path = Path(owners=(0, OTHER)).up_and_running(0)
    path.map(0, 0, 0)
    assert path.link.assigned == [{1: FROM_END, 2: FROM_BEGINNING}]


# ---- a partition that is given away


def leaving(owner=OTHER):
    """Worker 0 had partitions 0 and 1; the map has just given away the one that is not its home, 1."""
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    assert path.gate.home == 0
    path.now_ns += TICK_NS
    path.map(0, owner)
    return path


def test_one_that_is_given_away_before_it_is_read_is_never_read_nor_published():
    path = Path(owners=(0, OTHER))
    path.map(OTHER, OTHER)
    assert path.link.stopped == [0]
    path.positioned(0)  # the link was about to say so
    assert not path.is_published(0)
    assert path.ownership.home == NO_HOME
    path.map(0, OTHER)
    assert path.link.assigned == [{0: FROM_END}, {0: FROM_END}]
    path.positioned(0)
    assert (path.is_published(0), path.ownership.home) == (True, 0)


def test_it_is_read_until_nothing_waits_that_was_made_for_it():
    path = leaving()
    path.other_reads(1)
    path.waiting_since = [path.now_ns - 1]
    path.tick(10 * STOP_READING_AFTER_NS)
    assert path.is_published(1)
    path.waiting_since = [path.now_ns]  # claimed after the move, for another partition
    path.tick()
    assert not path.is_published(1)


def test_it_is_published_until_its_new_owner_reads_it():
    path = leaving()
    path.tick(100 * HAND_OVER_NS)
    assert path.is_published(1), "of a sibling it can be seen"
    path.other_reads(1)
    path.tick()
    assert not path.is_published(1)


def test_one_that_goes_to_another_node_is_given_the_time_that_this_node_needs():
    path = leaving(owner=UNOWNED)
    path.tick(HAND_OVER_NS - 1)
    assert path.is_published(1)
    path.tick(1)
    assert not path.is_published(1)


def test_reading_stops_a_while_after_it_was_announced():
    path = leaving()
    path.other_reads(1)
    path.tick()
    assert not path.is_published(1)
    path.tick(STOP_READING_AFTER_NS - 1)
    assert path.link.stopped == []
    path.tick(1)
    assert path.link.stopped == [1]
    assert not path.ownership.leaving
    assert 1 not in path.ownership.positioned
    path.tick(STOP_READING_AFTER_NS)
    assert path.link.stopped == [1], "once"


def test_one_that_comes_back_while_it_is_leaving_is_simply_kept():
    path = leaving()
    path.map(0, 0)
    path.other_reads(1)
    path.tick(10 * STOP_READING_AFTER_NS)
    assert path.is_published(1)
    assert (path.link.assigned, path.link.stopped) == ([], [])


def test_one_that_comes_back_after_it_was_announced_is_read_again_and_published_again():
    path = leaving()
    path.other_reads(1)
    path.tick()
    path.table.set_handled_to(1, LOG, 150)  # by the other worker, which was designated meanwhile
    path.map(0, 0)
    assert (path.link.stopped, path.link.assigned) == ([1], [{1: 150}])
    path.tick(10 * STOP_READING_AFTER_NS)
    assert path.link.stopped == [1]
    path.positioned(1, at=150)
    assert path.table.reads_from(0, 1) == 150


def test_one_that_comes_back_after_it_was_announced_is_read_on_if_nobody_says_how_far_it_was_handled():
    path = leaving()
    path.other_reads(1)
    path.tick()
    path.table.set_handled_to(1, LOG, UNKNOWN_POSITION)
    path.map(0, 0)
    assert (path.link.stopped, path.link.assigned) == ([], [{1: FROM_END}])
    path.positioned(1)
    assert path.is_published(1)


# ---- positions


def test_the_start_of_a_partition_is_published_and_then_what_was_handled_a_while_ago():
    path = Path()
    path.positioned(0)
    assert path.position(0) == OFFSET
    path.tick()
    path.read_to(0, 107)
    path.tick(SETTLED_NS - 1)
    assert path.position(0) == OFFSET, "what was passed on may still be in this process"
    path.settle()
    assert path.position(0) == 107
    path.read_to(0, 108)
    path.settle()
    assert path.position(0) == 108


def test_a_process_that_ends_in_order_publishes_exactly_where_it_has_stopped():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    path.read_to(0, 107)
    path.path.hand_over()
    assert [path.position(partition) for partition in (0, 1)] == [107, OFFSET]


def test_a_successor_starts_where_its_predecessor_had_come_to():
    killed = Path(owners=(0, 0)).up_and_running(0, 1)
    killed.read_to(0, 107)
    killed.settle()
    killed.read_to(0, 109)
    killed.dies()
    successor = Path(owners=(0, 0), generation=1, shared=killed.table)
    assert successor.link.assigned == [{0: 107, 1: OFFSET}]
    successor.positioned(0, at=107, end=112)
    assert successor.position(0) == 107
    assert [successor.path.is_old(0, offset) for offset in (107, 111, 112)] == [True, True, False]


def test_a_position_of_another_kafka_is_none():
    before = Path().up_and_running(0)
    before.table.set_handled_to(0, LOG + 1, 7)
    before.dies()
    assert Path(generation=1, shared=before.table).link.assigned == [{0: FROM_END}]


def test_a_partition_that_moves_between_workers_is_read_from_where_the_last_one_had_come_to():
    path = Path(owners=(OTHER,))
    path.other_reads(0)
    path.table.set_handled_to(0, LOG, 140)
    path.map(0)
    assert path.link.assigned == [{0: 140}]
    path.positioned(0, at=140)
    path.read_to(0, 150)
    path.settle()
    assert path.position(0) == 150


def test_a_partition_whose_records_were_deleted_up_to_behind_the_position_is_read_from_there():
    before = Path().up_and_running(0)
    before.dies()
    path = Path(generation=1, shared=before.table)
    path.positioned(0, at=OFFSET + 50, end=OFFSET + 60)
    assert len(path.link.assigned) == 1, "it is not read again from a position that is no more"
    assert path.position(0) == OFFSET + 50


def test_a_position_that_a_partition_of_a_new_topic_does_not_reach_is_replaced():
    before = Path().up_and_running(0)
    before.dies()
    path = Path(generation=1, shared=before.table)
    path.positioned(0, at=0, end=3)
    assert path.position(0) == 0


def test_a_partition_that_is_given_away_is_no_longer_published():
    path = leaving()
    path.read_to(1, 190)
    path.settle()
    assert path.position(1) == OFFSET, "its next owner publishes it"
    path.read_to(0, 120)
    path.settle()
    assert path.position(0) == 120


def test_one_that_comes_back_is_read_again_if_another_process_was_designated_meanwhile():
    path = leaving()
    path.other_reads(1)
    path.read_to(1, 190)  # it has left those of others to the other worker
    path.waiting_since = [0]
    path.tick()
    path.map(0, 0)
    path.tick()
    assert (path.link.stopped, path.link.assigned) == ([1], [{1: OFFSET}])


# ---- two generations in a reload


def reloading():
    """The old generation of worker 0 reads partition 0, and the new one follows it."""
    old = Path().up_and_running(0)
    new = Path(generation=1, shared=old.table)
    assert new.link.assigned == [{0: FROM_END}]
    new.positioned(0, at=OFFSET + 10)
    new.link.assigned.clear()
    return old, new


def test_the_new_generation_publishes_nothing_while_the_old_one_reads():
    old, new = reloading()
    new.read_to(0, 130)
    new.settle()
    new.path.hand_over()
    assert new.position(0) == OFFSET
    old.read_to(0, 125)
    old.settle()
    assert new.position(0) == 125


def test_the_new_generation_reads_again_what_the_old_one_may_not_have_handled():
    old, new = reloading()
    old.read_to(0, 125)
    old.settle()
    new.read_to(0, 130)
    old.dies()
    new.tick()
    assert (new.link.stopped, new.link.assigned) == ([0], [{0: 125}])
    new.read_to(0, 131)  # what was under way from the link when it was told to stop
    new.settle()
    assert new.position(0) == 125, "nothing is published before the link reads again"
    new.positioned(0, at=125, end=135)
    assert new.table.reads_from(new.process_index, 0) == OFFSET + 10, "it has read all since then"
    new.settle()
    assert new.position(0) == 125
    new.read_to(0, 135)
    new.settle()
    assert new.position(0) == 135
    assert len(new.link.assigned) == 1


def test_the_new_generation_just_goes_on_where_the_old_one_has_handled_everything():
    old, new = reloading()
    old.read_to(0, 130)
    old.path.hand_over()
    old.dies()
    new.read_to(0, 130)
    new.tick()
    assert (new.link.stopped, new.link.assigned) == ([], [])
    new.read_to(0, 133)
    new.settle()
    assert new.position(0) == 133


def test_an_old_generation_that_dies_while_the_link_looks_for_the_end_is_followed_from_its_position():
    old = Path().up_and_running(0)
    new = Path(generation=1, shared=old.table)
    old.dies()
    new.positioned(0, at=OFFSET + 10)
    assert (new.link.stopped, new.link.assigned[1:]) == ([0], [{0: OFFSET}])
    new.positioned(0, at=OFFSET, end=OFFSET + 10)
    new.tick()
    assert len(new.link.assigned) == 2
    assert new.position(0) == OFFSET


def test_of_two_that_began_at_the_same_offset_one_publishes_and_the_other_succeeds_it():
    first = Path(generation=1).up_and_running(0)
    second = Path(generation=2, shared=first.table)
    second.positioned(0)
    second.read_to(0, 130)
    second.settle()
    first.read_to(0, 120)
    first.settle()
    assert first.position(0) == 130
    first.read_to(0, 140)
    second.dies()
    first.tick()
    assert first.link.assigned == [{0: 130}]


def test_a_partition_that_is_given_away_while_it_is_read_again_is_left_only_after_the_link_has_answered():
    old, new = reloading()
    new.read_to(0, 130)
    old.dies()
    new.tick()
    new.map(OTHER, 0)
    new.positioned(1)
    new.other_reads(0)
    new.tick(10 * STOP_READING_AFTER_NS)
    assert new.is_published(0)
    new.positioned(0)
    new.tick()
    assert not new.is_published(0)


# ---- the home


def test_a_home_that_is_given_away_moves_and_is_left_like_any_other():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    path.now_ns += TICK_NS
    path.map(OTHER, 0)
    assert path.gate.home == 1
    path.other_reads(0)
    path.tick()
    path.tick(STOP_READING_AFTER_NS)
    assert path.link.stopped == [0]


def test_a_home_that_is_given_away_with_all_others_is_kept_until_another_is_read():
    path = Path(owners=(0, OTHER)).up_and_running(0)
    path.map(OTHER, 0)
    path.other_reads(0)
    path.tick(10 * STOP_READING_AFTER_NS)
    assert (path.gate.home, path.gate.is_open, path.is_published(0)) == (0, True, True)
    path.positioned(1)
    assert path.gate.home == 1
    path.tick()
    assert not path.is_published(0)


def test_a_new_home_has_its_own_canary_at_once_and_the_gate_stays_open():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    sent = len(path.link.records)
    path.map(OTHER, 0)
    assert path.link.records[sent].partition == path.gate.home == 1
    assert path.gate.is_open


def test_a_home_is_changed_now_and_then_for_balance():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    since_ns = path.now_ns
    while path.gate.home == 0:
        path.tick(PERIOD_NS // 2)
        path.hear_canary()
    assert path.now_ns - since_ns == pytest.approx(ROTATE_HOME_NS, rel=0.01)


def test_an_only_home_stays():
    path = Path().up_and_running(0)
    path.path.tick(path.now_ns + 2 * ROTATE_HOME_NS)
    assert path.gate.home == 0


# ---- the canary


def silence(path):
    """Ticks until the home was silent for too long; returns how long that was."""
    since_ns = path.now_ns
    while path.gate.is_open:
        path.tick()
    return path.now_ns - since_ns


def test_one_canary_goes_out_in_a_period():
    path = Path().up_and_running(0)
    sent = len(path.link.records)
    for _ in range(10 * PERIOD_NS // TICK_NS):
        path.tick()
        path.hear_canary()
    assert len(path.link.records) - sent == 10


def test_a_silent_home_closes_the_gate_and_another_is_tried():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    assert silence(path) == pytest.approx(SILENCE_NS, abs=TICK_NS)
    assert path.gate.closed_by is errors.NOT_READY
    assert not path.is_ready
    assert path.gate.home == path.link.records[-1].partition == 1
    path.hear_canary()
    assert path.gate.is_open
    assert path.is_ready


def test_a_silent_home_that_is_given_away_with_all_others_leaves_none_and_sends_no_canary():
    path = Path().up_and_running(0)
    path.map(OTHER)
    for _ in range(4):
        path.tick(SILENCE_NS)
    assert path.ownership.home == NO_HOME
    assert {record.partition for record in path.link.records} == {0}


def test_an_only_home_that_is_silent_is_asked_on_and_on():
    path = Path().up_and_running(0)
    silence(path)
    for _ in range(2 * PERIOD_NS // TICK_NS):
        path.tick()
    assert path.gate.home == 0
    path.hear_canary()
    assert path.gate.is_open


def test_a_canary_of_the_last_home_says_nothing_of_the_next():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    while path.link.records[-1].partition == 0 and path.gate.is_open:
        path.tick()
    of_the_last = ids.parse([record for record in path.link.records if record.partition == 0][-1].key)
    path.path.canary_came(of_the_last.tag, path.now_ns)
    assert not path.gate.is_open


# ---- the drain


def test_a_drain_leaves_the_gate_alone_sends_no_canary_and_reads_on():
    path = Path(owners=(0, 0)).up_and_running(0, 1)
    path.path.drain()
    sent = len(path.link.records)
    for _ in range(2 * SILENCE_NS // TICK_NS):
        path.tick()
    assert (path.gate.is_open, len(path.link.records)) == (True, sent)
    path.map(0, OTHER)
    path.other_reads(1)
    path.tick()
    path.tick(STOP_READING_AFTER_NS)
    assert path.link.stopped == [1]


def test_its_state_can_be_seen():
    path = leaving()
    path.other_reads(1)
    path.tick()
    assert repr(path.path).endswith("announced [1]>")
    assert (path.path.home, path.path.map_version, path.path.is_assigned(0), path.path.is_assigned(1)) == (
        0, 2, True, False,
    )  # fmt: skip
