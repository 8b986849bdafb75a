"""Nodes that take themselves for this one are reported, and not too often."""

from __future__ import annotations

from fastgw.core.duplicate_nodes import NODES_MAX, DuplicateNodes

SECOND_NS = 1_000_000_000


def test_a_rival_that_goes_on_is_reported_once_a_minute():
    rivals = DuplicateNodes()
    said = [second for second in range(150) if rivals.heard(7, second * SECOND_NS)]
    assert said == [2, 62, 122]


def test_a_canary_or_two_of_a_partition_that_changes_hands_are_no_rival():
    rivals = DuplicateNodes()
    assert not any(rivals.heard(7, second * SECOND_NS) for second in (0, 1, 60, 61, 120))


def test_several_rivals_are_each_reported():
    rivals = DuplicateNodes()
    said = [(node, second) for second in range(4) for node in (7, 8, 9) if rivals.heard(node, second * SECOND_NS)]
    assert said == [(7, 2), (8, 2), (9, 2)]


def test_random_node_names_do_not_pile_up():
    rivals = DuplicateNodes()
    for node in range(1000):
        for _ in range(3):
            rivals.heard(node, node)
    assert len(rivals._heard) <= NODES_MAX
    assert len(rivals._said_ns) <= NODES_MAX
