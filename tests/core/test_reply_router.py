"""Whose a reply is: every process decides for itself, and never none of them acts."""

from __future__ import annotations

import pytest

from fastgw import _ctable, ids, table
from fastgw.core.ownership import Ownership
from fastgw.core.reply_router import ReplyRouter, Whose
from fastgw.ids import IdMaker, Partitioner

NODE, OTHER_NODE = 0xABCDEF, 0x123456


def owners(*slots: int) -> bytes:
    return bytes(slots)


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
