"""How a service's partitioner is learnt from where its replies come in."""

from __future__ import annotations

import itertools

import pytest

from fastgw import ids
from fastgw.core.partitioner_learner import PartitionerLearner
from fastgw.ids import IdMaker, Partitioner

NODE = 0xABCDEF
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
