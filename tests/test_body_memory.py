"""Room for request bodies: what one worker, and one connection, may hold at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastgw.body_memory import AnswerMemory, BodyMemory


def test_a_worker_takes_no_more_than_its_limit_and_what_is_given_back_can_be_taken_again():
    memory = BodyMemory(100, 100)
    assert memory.take(60)
    assert not memory.take(41)
    assert "at most 100 bytes" in memory.why_full(41)
    assert memory.take(40)
    memory.give(60)
    assert memory.take(60)
    assert memory.held_bytes == 100


def test_one_connection_has_a_limit_of_its_own_and_others_are_not_touched_by_it():
    memory = BodyMemory(100, 30)
    assert memory.take(20, "a")
    assert not memory.take(11, "a")
    assert "one connection" in memory.why_full(11, "a")
    assert memory.take(30, "b")
    memory.give(20, "a")
    assert memory.take(30, "a")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=60), st.randoms(use_true_random=False))
def test_whatever_is_taken_and_given_back_the_limits_hold_and_nothing_is_left(wishes, random):
    memory = BodyMemory(100, 50)
    taken = []
    for connection, size in wishes:
        if memory.take(size, connection):
            taken.append((connection, size))
        if taken and random.random() < 0.5:
            connection, size = taken.pop(random.randrange(len(taken)))
            memory.give(size, connection)
        assert memory.held_bytes == sum(size for _, size in taken) <= 100
        for name in "abc":
            assert sum(size for connection, size in taken if connection == name) <= 50
    for connection, size in taken:
        memory.give(size, connection)
    assert repr(memory) == "<BodyMemory 0 of 100 bytes, 0 connections>"


def test_nothing_is_taken_for_an_empty_body():
    memory = BodyMemory(0, 0)
    assert memory.take(0, "a")
    assert repr(memory) == "<BodyMemory 0 of 0 bytes, 0 connections>"


def test_what_is_in_use_already_is_counted_whether_it_fits_or_not():
    memory = AnswerMemory(100, 30)
    memory.hold(90)
    memory.hold(40, "a")
    assert memory.held_bytes == 130
    assert not memory.has_room(0)
    assert "this worker holds at most 100 bytes of answers" in memory.why_full(20, "a")
    memory.give(90)
    assert not memory.has_room(1, "a")
    assert "one connection may have at most 30 bytes of answers" in memory.why_full(1, "a")
    assert memory.has_room(30, "b")
    memory.give(40, "a")
    assert repr(memory) == "<AnswerMemory 0 of 100 bytes, 0 connections>"


def test_without_limits_everything_fits():
    assert AnswerMemory().has_room(1 << 60, "a")
