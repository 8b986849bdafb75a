"""Ownership: which partitions a worker reads, and which one is its home."""

from __future__ import annotations

import pytest

from fastgw.core.ownership import NO_HOME, Ownership


def owners(*slots: int) -> bytes:
    return bytes(slots)


def test_a_partition_becomes_home_only_once_it_is_positioned():
    ownership = Ownership(worker=0, generation=0)
    moves = ownership.apply(1, owners(0, 1, 0, 1), now_ns=0)
    assert moves == ([0, 2], [], [])
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
