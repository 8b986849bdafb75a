"""Tables that write later than they are told: nothing is missed, and a kill costs only what is read again."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.errors import StoreError
from fastgw.store import write_behind
from fastgw.store.entries import KeyKind
from fastgw.store.tables import Tables
from fastgw.store.write_behind import WriteBehind
from tests.store.opening import BOOTED_S, MAX_BYTES, SOURCE, TOPIC, all_offsets, id_of, opened, part


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def written(monkeypatch):
    """The numbers of parts of all transactions so far."""
    sizes, append = [], Tables.append

    def counting(tables, parts):
        sizes.append(len(parts))
        append(tables, parts)

    monkeypatch.setattr(Tables, "append", counting)
    return sizes


@pytest.fixture
def tables(tmp_path, loop):
    made = WriteBehind(tmp_path, MAX_BYTES, loop, booted_s=BOOTED_S)
    yield made
    made.close()


def test_batches_that_come_soon_after_each_other_are_written_in_one_transaction(tables, loop, written, monkeypatch):
    wrote = loop.create_future()
    append = Tables.append
    monkeypatch.setattr(Tables, "append", lambda tables, parts: (append(tables, parts), wrote.set_result(None)))
    tables.append([part([0, 1])])
    tables.append([part([2])])
    assert written == []
    loop.run_until_complete(wrote)
    assert written == [2]
    assert all_offsets(tables) == [0, 1, 2]
    assert written == [2], "nothing is written twice"


@pytest.mark.parametrize(
    "look",
    [
        lambda tables: [kept.offset for kept in tables.get(KeyKind.ID, id_of(1))] == [1],
        lambda tables: [kept.offset for kept in tables.entries_from(SOURCE, 1)] == [1],
        lambda tables: [kept.offset for kept in tables.entries_with_key((KeyKind.ID, id_of(0)), SOURCE, 0)] == [0],
        lambda tables: tables.positions() == {SOURCE: 2},
        lambda tables: tables.sizes().entries == 2,
    ],
    ids=["get", "entries_from", "entries_with_key", "positions", "sizes"],
)
def test_what_was_appended_is_there_for_whoever_looks(tables, written, look):
    tables.append([part([0]), part([1])])
    assert written == []
    assert look(tables)
    assert written == [2]


def test_a_partition_is_forgotten_with_what_was_not_written_yet(tables):
    tables.append([part([0])])
    tables.forget_partition(TOPIC, 0)
    assert tables.positions() == {}
    assert tables.get(KeyKind.ID, id_of(0)) == []


def test_many_entries_are_written_at_once(tables, written, monkeypatch):
    monkeypatch.setattr(write_behind, "COLLECTED_MAX", 3)
    tables.append([part([0, 1])])
    assert written == []
    tables.append([part([2])])
    assert written == [2]


def test_a_store_that_is_killed_has_the_position_of_its_last_write(tmp_path, loop):
    tables = WriteBehind(tmp_path, MAX_BYTES, loop, booted_s=BOOTED_S)
    tables.append([part([0])])
    tables.write()
    tables.append([part([1])])
    Tables.close(tables)  # without what was collected
    successor = opened(tmp_path)
    assert successor.positions() == {SOURCE: 1}
    assert all_offsets(successor) == [0]
    successor.close()


def test_a_store_that_ends_in_order_has_written_everything(tmp_path, loop):
    tables = WriteBehind(tmp_path, MAX_BYTES, loop, booted_s=BOOTED_S)
    tables.append([part([0])])
    tables.close()
    successor = opened(tmp_path)
    assert successor.positions() == {SOURCE: 1}
    successor.close()


def test_after_a_write_that_fails_nothing_is_written_without_it(tmp_path, loop, monkeypatch):
    tables = WriteBehind(tmp_path, MAX_BYTES, loop, booted_s=BOOTED_S)
    append, room = Tables.append, [False]

    def full_for_a_while(tables, parts):
        if not room[0]:
            raise StoreError("no space left")
        append(tables, parts)

    monkeypatch.setattr(Tables, "append", full_for_a_while)
    tables.append([part([0, 1])])
    with pytest.raises(StoreError):
        tables.write()
    room[0] = True
    tables.append([part([2])])
    tables.close()
    successor = opened(tmp_path)
    assert (all_offsets(successor), successor.positions()) == ([0, 1, 2], {SOURCE: 3})
    successor.close()


def test_a_write_that_fails_is_told_to_the_loop(tables, loop, monkeypatch):
    def full(_tables, _parts):
        raise StoreError("the disk is full")

    failed = loop.create_future()
    loop.set_exception_handler(lambda _, context: failed.set_result(context["exception"]))
    with monkeypatch.context() as patched:
        patched.setattr(Tables, "append", full)
        tables.append([part([0])])
        error = loop.run_until_complete(failed)
    assert isinstance(error, StoreError)
