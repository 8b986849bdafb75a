"""Ownership, whose a reply is, and learning a service's partitioner."""

from __future__ import annotations

import itertools

import pytest

from fastgw import _ctable, ids, table
from fastgw.core.partitions import NO_HOME, Ownership, PartitionerLearner, ReplyRouter, Whose
from fastgw.ids import IdMaker, Partitioner

NODE, OTHER_NODE = 0xABCDEF, 0x123456


def owners(*slots: int) -> bytes:
    return bytes(slots)


def test_a_partition_becomes_home_only_once_it_is_positioned():
    ownership = Ownership(worker=0, generation=0)
    moves = ownership.apply(1, owners(0, 1, 0, 1), now_ns=0)
    assert moves == ([0, 2], [])
    assert ownership.home == NO_HOME
    ownership.position(2, 0)
    assert ownership.home == 2


def test_a_home_is_kept_while_it_is_owned_and_moved_when_it_is_lost():
    ownership = Ownership(0, 0)
    ownership.apply(1, owners(0, 0, 1, 1), 0)
    ownership.position(0, 0)
    ownership.position(1, 0)
    home = ownership.home
    ownership.apply(2, owners(0, 0, 0, 1), 5)
    assert ownership.home == home
    lost = ownership.apply(3, bytes(1 if p == home else 0 for p in range(4)), 7).lost
    assert lost == [home]
    assert ownership.home == 1 - home
    assert ownership.leaving == {home: 7}
    assert home in ownership.positioned, "it is read until nothing waits there any more"


def test_a_partition_that_comes_back_while_leaving_is_simply_kept():
    ownership = Ownership(0, 0)
    ownership.apply(1, owners(0), 0)
    ownership.position(0, 0)
    ownership.apply(2, owners(1), 0)
    assert ownership.home == NO_HOME
    assert ownership.apply(3, owners(0), 0).gained == []
    assert ownership.home == 0
    assert not ownership.leaving


def test_a_home_that_is_lost_with_all_others_is_kept_until_another_is_read():
    ownership = Ownership(0, 0)
    ownership.apply(1, owners(0, 1, 1), 0)
    ownership.position(0, 0)
    ownership.apply(2, owners(1, 0, 1), 10)
    assert (ownership.home, ownership.usable(), ownership.leaving) == (0, [], {0: 10})
    ownership.apply(3, owners(1, 1, 0), 20)
    assert (ownership.home, ownership.leaving) == (0, {0: 10})
    ownership.position(2, 30)
    assert (ownership.home, ownership.usable()) == (2, [2])
    assert ownership.leaving == {0: 30}, "requests were made for it until this moment"


@pytest.mark.parametrize("end", ["nothing is left", "it is silent"])
def test_a_home_that_was_lost_is_not_kept_for_ever(end):
    ownership = Ownership(0, 0)
    ownership.apply(1, owners(0, 1), 0)
    ownership.position(0, 0)
    ownership.apply(2, owners(1, 0), 10)
    if end == "it is silent":
        ownership.rotate_home(20)
    else:
        ownership.apply(3, owners(1, 1), 20)
    assert (ownership.home, ownership.leaving) == (NO_HOME, {0: 20})


def test_rotating_visits_every_usable_partition():
    ownership = Ownership(0, 0)
    ownership.apply(1, owners(0, 0, 0, 1), 0)
    for partition in range(3):
        ownership.position(partition, 0)
    homes = set()
    for _ in range(3):
        ownership.rotate_home(0)
        homes.add(ownership.home)
    assert homes == {0, 1, 2}


def test_two_generations_of_a_slot_begin_with_different_homes():
    homes = []
    for generation in (4, 5):
        ownership = Ownership(0, generation)
        ownership.apply(1, owners(0, 0), 0)
        ownership.position(0, 0)
        ownership.position(1, 0)
        ownership.rotate_home(0)
        homes.append(ownership.home)
    assert homes[0] != homes[1]


class Node:
    """A table with the processes of one node in it, and a router for each."""

    def __init__(self, map_bytes: bytes, *processes: tuple[int, int]):
        _, self.table = table.create(node=NODE, workers=2, slots_per_process=64)
        self.table.write_map(map_bytes)
        self.routers, self.ownerships = {}, {}
        for slot, generation in processes:
            self.table.register(table.process_index(slot, generation), 1000 + slot, slot, generation)
            ownership = self.ownerships[slot, generation] = Ownership(slot, generation)
            ownership.apply(1, map_bytes, 0)
            self.routers[slot, generation] = ReplyRouter(self.table, slot, generation, ownership)

    def reads(self, slot: int, generation: int, partition: int, offset: int) -> None:
        self.table.set_reads_from(table.process_index(slot, generation), partition, offset)

    def whose(self, seen_by, cid, partition, offset=100):
        return self.routers[seen_by].whose(cid, partition, offset)


def cid_of(node: int, slot: int, generation: int, home: int, partition_count: int = 4) -> ids.CorrelationId:
    maker = IdMaker(node, slot, generation)
    maker.set_ownership(partition_count, [home], home)
    parsed = ids.parse(maker.make(3, Partitioner.HEADER))
    assert parsed is not None
    return parsed


@pytest.fixture
def two_workers() -> Node:
    """Worker 0 reads partitions 0 and 2, worker 1 reads 1 and 3, all from offset 50."""
    node = Node(owners(0, 1, 0, 1), (0, 0), (1, 0))
    for slot, partition in ((0, 0), (0, 2), (1, 1), (1, 3)):
        node.reads(slot, 0, partition, 50)
    return node


def test_my_own_reply_is_mine_wherever_it_comes_in(two_workers):
    assert two_workers.whose((0, 0), cid_of(NODE, 0, 0, 0), partition=2) is Whose.MINE


def test_a_siblings_reply_on_my_partition_is_forwarded(two_workers):
    assert two_workers.whose((0, 0), cid_of(NODE, 1, 0, 1), partition=0) is Whose.FORWARD


def test_a_siblings_reply_is_left_to_it_where_it_reads_the_partition_too(two_workers):
    two_workers.reads(1, 0, 0, 90)
    assert two_workers.whose((0, 0), cid_of(NODE, 1, 0, 1), partition=0, offset=100) is Whose.LEAVE


def test_but_not_where_it_began_to_read_only_after_that_record(two_workers):
    two_workers.reads(1, 0, 0, 101)
    assert two_workers.whose((0, 0), cid_of(NODE, 1, 0, 1), partition=0, offset=100) is Whose.FORWARD


def test_a_reply_for_a_dead_process_is_an_orphan(two_workers):
    two_workers.table.unregister(table.process_index(1, 0))
    assert two_workers.whose((0, 0), cid_of(NODE, 1, 0, 1), partition=0) is Whose.ORPHAN
    assert two_workers.whose((0, 0), cid_of(NODE, 0, 9, 0), partition=0) is Whose.ORPHAN


def test_another_nodes_reply_is_left_to_it_on_its_home_and_sent_there_from_elsewhere(two_workers):
    cid = cid_of(OTHER_NODE, 0, 0, home=2)
    assert two_workers.whose((0, 0), cid, partition=2) is Whose.FOREIGN
    assert two_workers.whose((0, 0), cid, partition=0) is Whose.REROUTE


def test_a_home_that_no_partition_has_is_never_sent_to(two_workers):
    assert two_workers.whose((0, 0), cid_of(OTHER_NODE, 0, 0, home=9, partition_count=16), 0) is Whose.FOREIGN


def test_during_a_reload_one_of_the_two_generations_deals_with_others_replies():
    node = Node(owners(0, 1), (0, 0), (0, 1), (1, 0))
    node.reads(0, 0, 0, 10)
    node.reads(0, 1, 0, 60)
    node.reads(1, 0, 1, 10)
    cid = cid_of(NODE, 1, 0, 1)
    verdicts = {generation: node.whose((0, generation), cid, partition=0) for generation in (0, 1)}
    assert verdicts == {0: Whose.FORWARD, 1: Whose.LEAVE}
    node.reads(0, 0, 0, _ctable.NOT_READING)
    assert node.whose((0, 1), cid, partition=0) is Whose.FORWARD


def test_while_a_partition_moves_exactly_one_reader_or_in_doubt_two_deal_with_it():
    node = Node(owners(1, 1), (0, 0), (1, 0))  # the map has given partition 0 from worker 0 to worker 1
    node.ownerships[0, 0].leaving[0] = 0
    node.reads(0, 0, 0, 10)
    orphan = cid_of(NODE, 0, 7, 0)
    assert node.whose((0, 0), orphan, partition=0) is Whose.ORPHAN, "the new owner does not read it yet"
    node.reads(1, 0, 0, 60)
    assert node.whose((0, 0), orphan, partition=0, offset=59) is Whose.ORPHAN
    assert node.whose((0, 0), orphan, partition=0, offset=60) is Whose.LEAVE
    assert node.whose((1, 0), orphan, partition=0, offset=60) is Whose.ORPHAN


COUNT, OWNED, HOME = 16, (1, 4, 9, 12), 9


def replies(partitioner: Partitioner, learner: PartitionerLearner, how_many: int) -> int:
    """Lets a service that replies with `partitioner` answer requests; returns after how many it was known."""
    maker = IdMaker(NODE, 0, 0)
    maker.set_ownership(COUNT, OWNED, HOME)
    for number in range(how_many):
        raw = maker.make(number, learner.current)
        home = HOME if partitioner is Partitioner.HEADER else ids.partition_of(partitioner, raw, COUNT)
        if learner.observe(raw, HOME, home, COUNT):
            return number + 1
    return -1


@pytest.mark.parametrize("partitioner", [Partitioner.HEADER, Partitioner.MURMUR2, Partitioner.CRC32, Partitioner.FNV1A])
def test_the_partitioner_of_a_service_is_learnt_from_its_replies(partitioner):
    learner = PartitionerLearner("auto")
    assert 0 < replies(partitioner, learner, 200) <= 64
    assert learner.current is partitioner
    assert replies(partitioner, learner, 1000) == -1, "and it is not doubted while replies fit"


def test_a_service_that_changes_its_partitioner_is_unlearnt_and_learnt_again():
    learner = PartitionerLearner("auto")
    replies(Partitioner.MURMUR2, learner, 200)
    assert replies(Partitioner.CRC32, learner, 200) > 0
    assert learner.current is Partitioner.ANY
    replies(Partitioner.CRC32, learner, 200)
    assert learner.current is Partitioner.CRC32


def test_random_partitions_teach_nothing():
    learner = PartitionerLearner("auto")
    maker = IdMaker(NODE, 0, 0)
    maker.set_ownership(COUNT, OWNED, HOME)
    partitions = itertools.cycle(range(COUNT))
    for number in range(2000):
        assert not learner.observe(maker.make(number, learner.current), HOME, next(partitions), COUNT)
    assert learner.current is Partitioner.ANY


def test_with_one_owned_partition_nothing_can_be_told_apart_and_nothing_needs_to_be():
    learner = PartitionerLearner("auto")
    maker = IdMaker(NODE, 0, 0)
    maker.set_ownership(4, [2], 2)
    for number in range(1000):
        assert not learner.observe(maker.make(number, learner.current), 2, 2, 4)


def test_ids_made_before_the_partitioner_was_known_are_not_held_against_it():
    learner = PartitionerLearner("auto")
    maker = IdMaker(NODE, 0, 0)
    maker.set_ownership(COUNT, OWNED, HOME)
    early = [maker.make(number, Partitioner.ANY) for number in range(500)]
    replies(Partitioner.MURMUR2, learner, 200)
    for raw in early:
        assert not learner.observe(raw, HOME, ids.partition_of(Partitioner.MURMUR2, raw, COUNT), COUNT)


def test_a_configured_partitioner_is_never_doubted():
    learner = PartitionerLearner("crc32")
    for partition in range(200):
        assert not learner.observe(b"0" * 36, HOME, partition % COUNT, COUNT)
    assert learner.current is Partitioner.CRC32
