"""What the store's tables keep, find, expire and forget, and how they survive disks, clocks and other stores."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest

from fastgw.errors import StoreDamaged, StoreError
from fastgw.store import engine, folder
from fastgw.store.entries import Entry, KeyKind, index_prefix
from fastgw.store.tables import PLACES_MAX, Part, Source, Tables
from tests.places import REPOSITORY
from tests.store.opening import (
    BOOTED_S,
    MAX_BYTES,
    OTHER_TOPIC,
    SOURCE,
    TOPIC,
    all_offsets,
    entry,
    id_of,
    offsets_by,
    opened,
    part,
)

IDEMPOTENCY = KeyKind.IDEMPOTENCY


@pytest.fixture
def tables(tmp_path):
    made = opened(tmp_path)
    yield made
    made.close()


# --- records in, entries out -----------------------------------------------------------------------------------------


def test_an_entry_is_found_by_each_of_its_keys_as_it_was_written(tables):
    keys = ((KeyKind.ID, b"id"), (IDEMPOTENCY, b"hash"), (KeyKind.ENTITY, b"e" * 2000))
    kept = Entry(3, 1234, keys, [("status", b"200"), ("trace", None)], b"body")
    tables.append([Part(SOURCE, [(7, kept)], 8)])
    for kind, name in keys:
        assert tables.get(kind, name) == [(SOURCE, 7, kept)]
        assert tables.get(kind, name + b"x") == []
    assert tables.get(KeyKind.ENTITY, b"id") == []


def test_the_entries_of_one_partition_with_a_key_are_read_on_from_an_offset(tables):
    shared, other = (IDEMPOTENCY, b"hash"), Source(TOPIC, 1)
    tables.append([part(range(0, 20, 2), keys=(shared,)), part([3], other, keys=(shared,))])
    tables.append([part([21, 23], keys=((IDEMPOTENCY, b"another"),)), part([4], other, keys=(shared,))])

    def offsets(source, offset, at_most=1000, key=shared):
        return [kept.offset for kept in tables.entries_with_key(key, source, offset, at_most)]

    assert offsets(SOURCE, 0) == list(range(0, 20, 2))
    assert offsets(SOURCE, 5, 3) == [6, 8, 10]
    assert offsets(SOURCE, 19) == []
    assert offsets(other, 0) == [3, 4]
    assert offsets(SOURCE, 0, key=(IDEMPOTENCY, b"another")) == [21, 23]
    assert offsets(Source(OTHER_TOPIC, 0), 0) == []
    tables.forget_partition(TOPIC, 0)
    assert (offsets(SOURCE, 0), offsets(other, 0)) == ([], [3, 4])


@pytest.mark.parametrize("value", [None, b"", b"x", b"x" * 4096])
def test_a_value_of_up_to_4_kib_is_kept(tables, value):
    tables.append([part([0], value=value)])
    (found,) = tables.get(KeyKind.ID, id_of(0))
    assert found.entry.value == value
    assert not found.entry.is_reference


def test_a_larger_value_stays_in_the_log(tables):
    tables.append([part([5], value=b"x" * 4097)])
    (found,) = tables.get(KeyKind.ID, id_of(5))
    assert (found.source, found.offset, found.entry.left_bytes) == (SOURCE, 5, 4097)
    assert found.entry.value is None
    assert found.entry.headers == [("status", b"200")]


def test_all_entries_of_a_key_are_found_in_the_order_of_the_log_and_of_too_many_the_newest(tables):
    shared = (IDEMPOTENCY, b"hash")
    for first in range(0, PLACES_MAX + 50, 50):
        tables.append([part(range(first, first + 50), keys=(shared,))])
    last = first + 49
    assert offsets_by(tables, *shared) == list(range(last - PLACES_MAX + 1, last + 1))
    assert offsets_by(tables, *shared, at_most=3) == [last - 2, last - 1, last]
    assert offsets_by(tables, *shared, at_most=1) == [last]


def test_entries_of_a_key_in_several_partitions_are_all_found(tables):
    shared, other = (KeyKind.ID, b"id"), Source(TOPIC, 1)
    tables.append([part([3], keys=(shared,)), part([1, 9], other, keys=(shared,))])
    tables.append([part([4], keys=(shared,))])
    assert [(kept.source.partition, kept.offset) for kept in tables.get(*shared)] == [(0, 3), (0, 4), (1, 1), (1, 9)]


def test_a_key_that_an_entry_names_twice_is_one_key(tables):
    tables.append([part([0], keys=((KeyKind.ID, b"id"), (KeyKind.ID, b"id")))])
    assert offsets_by(tables, KeyKind.ID, b"id") == [0]
    assert tables.expire(0, {TOPIC: 0}) == 1
    assert tables.sizes().index_rows == 0


def test_an_entry_without_keys_is_found_by_its_partition_only(tables):
    tables.append([part([0, 1], keys=())])
    assert [kept.offset for kept in tables.entries_from(SOURCE, 1)] == [1]
    assert tables.sizes()[:2] == (2, 0)


def test_entries_are_read_in_order_from_any_offset_on(tables):
    tables.append([part(range(0, 100, 2)), part(range(5), Source(TOPIC, 1))])
    assert [kept.offset for kept in tables.entries_from(SOURCE, 31, at_most=3)] == [32, 34, 36]
    assert [kept.offset for kept in tables.entries_from(SOURCE, 97)] == [98]
    assert tables.entries_from(SOURCE, 99) == []
    assert tables.entries_from(Source(OTHER_TOPIC, 0), 0) == []


# --- positions -------------------------------------------------------------------------------------------------------


def test_the_position_moves_with_the_records_and_without_any(tables):
    assert tables.positions() == {}
    tables.append([part([10, 12])])
    assert tables.positions() == {SOURCE: 13}
    tables.append([Part(SOURCE, [], 20)])  # transaction markers, records of no interest
    assert tables.positions() == {SOURCE: 20}


def test_records_that_are_read_again_change_nothing(tables):
    tables.append([part(range(10))])
    tables.append([part(range(5, 12), value=b"another")])
    assert [kept.entry.value for kept in tables.entries_from(SOURCE, 8)] == [b"value", b"value", b"another", b"another"]
    tables.append([part(range(3))])
    assert tables.positions() == {SOURCE: 12}
    assert tables.sizes().entries == 12


@pytest.mark.parametrize("offsets", [[2, 1], [1, 1], [1, 9]])
def test_offsets_that_do_not_ascend_are_a_mistake_of_the_caller_and_leave_no_trace(tables, offsets):
    with pytest.raises(ValueError, match="offset"):
        tables.append([part([0], Source(TOPIC, 1)), part(offsets, next_offset=9)])
    assert tables.positions() == {}
    assert tables.sizes().entries == 0


def test_a_batch_may_name_a_partition_twice(tables):
    tables.append([part([0, 1]), part([5], Source(TOPIC, 7)), part([2])])
    assert all_offsets(tables) == [0, 1, 2]
    assert tables.positions() == {SOURCE: 3, Source(TOPIC, 7): 6}


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_expiry_deletes_from_the_front_what_is_old_enough_and_no_more_than_asked(tables):
    tables.append([part(range(100))])  # the time of each is its offset
    assert tables.expire(59, {TOPIC: 10}, at_most=30) == 30
    assert tables.expire(59, {TOPIC: 10}, at_most=30) == 20
    assert tables.expire(59, {TOPIC: 10}, at_most=30) == 0
    assert all_offsets(tables) == list(range(50, 100))
    assert tables.get(KeyKind.ID, id_of(49)) == []
    assert tables.positions() == {SOURCE: 100}


def test_a_younger_entry_keeps_the_ones_behind_it(tables):
    tables.append([part([0]), part([1], at_ms=1000), part([2])])
    assert tables.expire(500, {TOPIC: 0}) == 1
    assert all_offsets(tables) == [1, 2]


def test_each_topic_has_its_own_time_and_one_without_keeps_everything(tables):
    other, third = Source(OTHER_TOPIC, 0), Source(b"V" * 16, 0)
    tables.append([part(range(10)), part(range(10), other), part(range(10), third)])
    assert tables.expire(9, {TOPIC: 0, OTHER_TOPIC: 5}) == 15
    assert (all_offsets(tables), all_offsets(tables, other)) == ([], [5, 6, 7, 8, 9])
    assert len(all_offsets(tables, third)) == 10


def test_a_partition_with_much_to_expire_does_not_hold_up_the_others(tables):
    sources = [Source(TOPIC, partition) for partition in range(4)]
    tables.append([part(range(100), source) for source in sources])
    for _ in sources:
        assert tables.expire(1000, {TOPIC: 0}, at_most=10) == 10
    assert [len(all_offsets(tables, source)) for source in sources] == [90, 90, 90, 90]


def test_the_space_of_expired_entries_is_used_again(tables):
    def write(first):
        for offset in range(first, first + 5000, 500):
            tables.append([part(range(offset, offset + 500), value=b"x" * 500)])

    write(0)
    for first in range(5000, 50_000, 5000):
        while tables.expire(first, {TOPIC: 1}, at_most=1000):
            pass
        write(first)
    assert tables.sizes().entries <= 5001
    assert tables.sizes().file_bytes < 3 * tables.sizes().used_bytes


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_a_forgotten_partition_is_gone_at_once_and_its_entries_are_deleted_bit_by_bit(tables):
    other = Source(TOPIC, 1)
    tables.append([part(range(20)), part(range(20, 30), other)])
    tables.forget_partition(*SOURCE)
    assert tables.positions() == {other: 30}
    assert (all_offsets(tables), tables.get(KeyKind.ID, id_of(3))) == ([], [])
    assert tables.expire(0, {}, at_most=15) == 15
    assert tables.expire(0, {}, at_most=15) == 5
    assert tables.sizes()[:2] == (10, 10)
    assert all_offsets(tables, other) == list(range(20, 30))


def test_a_forgotten_partition_is_read_again_from_its_beginning(tables):
    tables.append([part(range(20))])
    tables.forget_partition(*SOURCE)
    tables.append([part(range(3), value=b"again")])
    assert all_offsets(tables) == [0, 1, 2]
    assert [kept.entry.value for kept in tables.get(KeyKind.ID, id_of(1))] == [b"again"]
    assert tables.positions() == {SOURCE: 3}
    assert tables.expire(0, {}) == 20
    assert all_offsets(tables) == [0, 1, 2]


def test_a_partition_that_is_not_known_can_be_forgotten(tables):
    tables.forget_partition(TOPIC, 99)
    assert tables.positions() == {}


def test_what_was_forgotten_is_still_deleted_after_a_restart(tmp_path):
    tables = opened(tmp_path)
    tables.append([part(range(20))])
    tables.forget_partition(*SOURCE)
    tables.close()
    tables = opened(tmp_path)
    tables.append([part(range(2))])
    assert tables.expire(0, {}) == 20
    assert all_offsets(tables) == [0, 1]
    tables.close()


# --- limits ----------------------------------------------------------------------------------------------------------


def fill(tables, until, value=b"x" * 1000):
    """Append until the condition is true; give the next offset."""
    offset = tables.positions().get(SOURCE, 0)
    while not until():
        tables.append([part(range(offset, offset + 20), value=value)])
        offset += 20
    return offset


def test_when_space_is_short_values_above_256_bytes_stay_in_the_log(tmp_path):
    tables = opened(tmp_path, max_bytes=2 << 20)
    offset = fill(tables, lambda: tables.is_short)
    assert not tables.is_full
    tables.append([part([offset], value=b"x" * 257), part([offset + 1], value=b"x" * 256)])
    assert [kept.entry.left_bytes for kept in tables.entries_from(SOURCE, offset)] == [257, -1]
    assert tables.entries_from(SOURCE, 0, 1)[0].entry.value == b"x" * 1000
    tables.close()


def test_when_space_is_short_shrinking_leaves_older_values_in_the_log_bit_by_bit(tmp_path):
    tables = opened(tmp_path, max_bytes=2 << 20)
    tables.append([part(range(20), Source(TOPIC, 1), value=b"x" * 256)])
    assert tables.shrink() == 0
    count = fill(tables, lambda: tables.is_short)
    used = tables.sizes().used_bytes
    assert tables.shrink(at_most=50) == 50  # with the other partition's twenty
    assert [kept.entry.left_bytes for kept in tables.entries_from(SOURCE, 0, 30)] == [1000] * 30
    while tables.is_short:
        assert tables.shrink(at_most=50)
    assert tables.sizes().used_bytes < used
    assert tables.shrink() == 0
    assert [kept.entry.left_bytes for kept in tables.entries_from(Source(TOPIC, 1), 0)] == [-1] * 20
    assert all_offsets(tables) == list(range(count))
    tables.close()


def test_shrinking_comes_to_an_end_and_makes_most_of_the_space_free(tmp_path):
    tables = opened(tmp_path, max_bytes=4 << 20)
    tables.append([part(range(900), value=b"x" * 2000)])
    tables.max_bytes = 1  # so it is short whatever happens
    assert [tables.shrink(at_most=400) for _ in range(4)] == [400, 400, 100, 0]
    assert {kept.entry.left_bytes for kept in tables.entries_from(SOURCE, 0)} == {2000}
    assert tables.sizes().used_bytes < 400_000
    assert tables.expire(900, {TOPIC: 0}) == 900
    tables.close()


def test_at_90_percent_they_are_full_and_what_is_under_way_still_fits(tmp_path):
    tables = opened(tmp_path, max_bytes=2 << 20)
    offset = fill(tables, lambda: tables.is_full, value=b"x" * 200)
    assert tables.sizes().used_bytes >= 0.9 * (2 << 20)
    assert tables.sizes().used_bytes < 0.95 * (2 << 20)
    tables.append([part(range(offset, offset + 200), value=b"x" * 200)])
    assert all_offsets(tables) == list(range(offset + 200))
    tables.close()


def test_beyond_max_bytes_is_an_error_nothing_is_evicted_and_expiry_makes_room(tmp_path):
    tables = opened(tmp_path, max_bytes=2 << 20)
    with pytest.raises(StoreError, match=r"are full: they have max_bytes = 2097152"):
        fill(tables, lambda: False)
    before = tables.positions()[SOURCE]
    assert all_offsets(tables) == list(range(before))
    assert tables.sizes().used_bytes < 1.05 * (2 << 20)
    while tables.expire(before // 2, {TOPIC: 0}, at_most=50):
        pass
    assert not tables.is_full
    tables.append([part(range(before, before + 20))])
    assert all_offsets(tables) == list(range(before // 2 + 1, before + 20))
    tables.close()


def test_sizes_tell_what_is_there(tables, tmp_path):
    tables.append([part(range(2000), value=b"x" * 500)])
    sizes = tables.sizes()
    assert sizes[:2] == (2000, 2000)
    assert sizes.max_bytes == MAX_BYTES
    assert sizes.file_bytes == (tmp_path / folder.DATA).stat().st_size >= sizes.used_bytes >= 2000 * 500
    assert repr(tables) == f"<Tables {tmp_path}: 2000 entries, {sizes.used_bytes} of {MAX_BYTES} bytes>"


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file_limit():
    """Sets the largest size that a file may have: a write beyond fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_that_leaves_the_last_batch_and_ends_with_the_shortage(tmp_path, file_limit):
    tables = opened(tmp_path)
    tables.append([part(range(1000))])
    file_limit(tables.sizes().file_bytes + 20_000)
    with pytest.raises(StoreError, match=r"Input/output error|File too large"):
        fill(tables, lambda: False)
    kept = tables.positions()[SOURCE]
    assert all_offsets(tables) == list(range(kept))
    file_limit(resource.RLIM_INFINITY)
    tables.append([part(range(kept, kept + 500))])
    tables.close()
    tables = opened(tmp_path)
    assert tables.rebuilt == ""
    assert all_offsets(tables) == list(range(kept + 500))
    tables.close()


def tmpfs(path, size):
    """Mounts a file system of this size, if the tests may do that."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    return path


def test_a_file_system_without_space_is_an_error_and_works_again_when_it_has_some(tmp_path):
    disk = tmpfs(tmp_path / "disk", "3m")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        tables = opened(disk / "store")
        with pytest.raises(StoreError, match=r"(No space left on device|Input/output error) \(\d+ bytes are free"):
            fill(tables, lambda: False)
        kept = tables.positions()[SOURCE]
        with pytest.raises(StoreError, match=r"(No space left on device|Input/output error) \(\d+ bytes are free"):
            fill(tables, lambda: False)
        assert all_offsets(tables) == list(range(kept))
        ballast.unlink()
        tables.append([part(range(kept, kept + 100))])
        tables.close()
        tables = opened(disk / "store")
        assert (tables.rebuilt, all_offsets(tables)) == ("", list(range(kept + 100)))
        tables.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill_file(file):
    while True:
        file.write(b"x" * 4096)


def test_no_space_for_the_note_about_the_tables_is_an_error_in_plain_words(tmp_path):
    disk = tmpfs(tmp_path / "disk", "64k")
    try:
        ballast = (disk / "ballast").open("wb", buffering=0)
        with pytest.raises(OSError, match="No space"):
            fill_file(ballast)
        with pytest.raises(StoreError, match=r"cannot (write|use) .*: No space left on device"):
            opened(disk / "store")
        ballast.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_what_lmdb_says_is_told_apart_into_trouble_of_the_disk_and_damage(tables):
    assert type(tables._engine._meaning(lmdb.Error("commit: Input/output error"))) is StoreError
    tables.append([part([0])])  # the file was closed, and is opened again
    assert all_offsets(tables) == [0]
    assert isinstance(tables._engine._meaning(lmdb.CorruptedError("get")), StoreDamaged)
    tables.rebuild("for the end of this test")


def test_a_file_that_was_replaced_while_the_disk_had_trouble_is_damage(tables, tmp_path):
    tables.append([part(range(10))])
    tables._engine._meaning(lmdb.Error("commit: Input/output error"))
    (tmp_path / folder.DATA).unlink()
    with pytest.raises(StoreDamaged, match="not as it was left"):
        tables.append([part([10])])
    tables.rebuild("for the end of this test")


def test_there_is_a_limit_to_partitions(tables, monkeypatch):
    monkeypatch.setattr(engine, "LOGS_MAX", 2)
    tables.append([part([0], Source(TOPIC, 0)), part([0], Source(TOPIC, 1))])
    with pytest.raises(StoreError, match="follows at most 2 partitions of all its topics"):
        tables.append([part([0], Source(TOPIC, 2))])
    assert len(tables.positions()) == 2
    tables.forget_partition(TOPIC, 0)
    assert tables.expire(0, {}) == 1
    tables.append([part([0], Source(TOPIC, 2))])


def test_a_folder_that_cannot_be_used_is_an_error_in_plain_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot use its folder .*/file/store: Not a directory"):
        opened(tmp_path / "file" / "store")


def test_a_folder_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "why_unsuitable", lambda path, max_bytes: f"{path} is on a tmpfs, {max_bytes}")
    with pytest.raises(StoreError, match="is on a tmpfs, 16777216"):
        opened(tmp_path)


# --- one store at a time ---------------------------------------------------------------------------------------------


def test_a_second_store_is_refused_until_the_first_has_closed(tmp_path):
    first = opened(tmp_path)
    first.append([part([0])])
    with pytest.raises(StoreError, match=rf"another store \(pid {os.getpid()}\) uses the folder .*: give each gateway"):
        opened(tmp_path)
    assert all_offsets(first) == [0]
    first.close()
    second = opened(tmp_path)
    assert all_offsets(second) == [0]
    second.close()


def test_a_failed_opening_gives_the_folder_back(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "note_opened", lambda self: (_ for _ in ()).throw(StoreError("disk full")))
        with pytest.raises(StoreError, match="disk full"):
            opened(tmp_path)
    opened(tmp_path).close()


def test_files_are_for_the_owner_only(tmp_path):
    tables = opened(tmp_path / "store")
    tables.append([part([0])])
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    assert (tmp_path / "store" / folder.DATA).stat().st_mode & 0o077 == 0
    tables.close()


# --- what is trusted -------------------------------------------------------------------------------------------------


def left_behind(path, *, closed, booted_s=BOOTED_S):
    """Tables with ten entries, closed or left as by a process that was killed."""
    path.mkdir(exist_ok=True)
    tables = opened(path, booted_s=booted_s)
    tables.append([part(range(10))])
    state = (path / folder.STATE).read_bytes()
    tables.close()
    if not closed:
        (path / folder.STATE).write_bytes(state)


@pytest.mark.parametrize(
    ("closed", "later_s", "kept"),
    [
        (True, 0, True),
        (True, 10_000, True),
        (False, 0, True),
        (False, 119, True),
        (False, -119, True),
        (False, 121, False),
        (False, -121, False),
    ],
)
def test_tables_of_another_boot_are_trusted_only_if_they_were_closed(tmp_path, closed, later_s, kept):
    left_behind(tmp_path, closed=closed)
    tables = opened(tmp_path, booted_s=BOOTED_S + later_s)
    assert (tables.positions(), len(all_offsets(tables))) == (({SOURCE: 10}, 10) if kept else ({}, 0))
    assert tables.rebuilt == (
        "" if kept else "the machine has been booted since they were opened, and they were not closed before"
    )
    tables.close()


def test_opening_takes_the_trust_of_the_last_close_away(tmp_path):
    left_behind(tmp_path, closed=True)
    left_behind(tmp_path, closed=False, booted_s=BOOTED_S + 10_000)
    tables = opened(tmp_path, booted_s=BOOTED_S + 20_000)
    assert "booted" in tables.rebuilt
    tables.close()


def test_the_boot_time_of_the_operating_system_does_not_move_between_two_looks(tmp_path):
    assert abs(folder.boot_time_s() - folder.boot_time_s()) < 1
    Tables(tmp_path, MAX_BYTES).close()
    state = msgspec.json.decode((tmp_path / folder.STATE).read_bytes())
    assert abs(state["boot_time_s"] - folder.boot_time_s()) < folder.BOOT_TIME_TOLERANCE_S


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "store.json is missing or damaged"),
        (b"", "store.json is missing or damaged"),
        (b'{"layout": "one"}', "store.json is missing or damaged"),
        (b'{"layout": 7, "boot_time_s": 1000000, "is_closed": true}', "they have layout 7, and this version"),
        (b'{"layout": 1, "boot_time_s": 1000000, "is_closed": true}', "they were made from records up to layout 0"),
        (b'{"layout": 1, "boot_time_s": 1000000, "damage": "a bad page"}', "a bad page"),
    ],
)
def test_tables_about_which_the_note_says_something_else_are_built_again(tmp_path, state, why):
    left_behind(tmp_path, closed=True)
    if state is None:
        (tmp_path / folder.STATE).unlink()
    else:
        (tmp_path / folder.STATE).write_bytes(state)
    tables = opened(tmp_path)
    assert why in tables.rebuilt
    assert (tables.positions(), tables.sizes().entries) == ({}, 0)
    tables.append([part(range(5))])
    tables.close()
    tables = opened(tmp_path)
    assert (tables.rebuilt, all_offsets(tables)) == ("", [0, 1, 2, 3, 4])
    tables.close()


def test_an_empty_folder_is_nothing_to_report(tmp_path):
    tables = opened(tmp_path / "new" / "folder")
    assert tables.rebuilt == ""
    tables.close()


CRASHING = """
import os, sys
from pathlib import Path
from fastgw.store.tables import Tables
tables = Tables(Path(sys.argv[1]), 16 << 20, booted_s=1e6, note_crashes=True)
print(tables.rebuilt, flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
"""


def crash(path: Path, number: int) -> str:
    """Open the tables in a process that ends by this signal; gives what it says of them."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, path, str(int(number))], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == -number, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_tables_whose_process_crashed_are_built_again(tmp_path, number):
    left_behind(tmp_path, closed=True)
    assert crash(tmp_path, number) == ""
    assert "the last store's process crashed: Fatal Python error" in crash(tmp_path, signal.SIGKILL)
    tables = opened(tmp_path)
    assert tables.rebuilt == ""  # they were built again, and a kill is no crash
    tables.close()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """The file of closed tables with 3,000 entries."""
    tables = opened(tmp_path)
    tables.append([part(range(3000), value=b"some value " * 20)])
    tables.close()
    return tmp_path / folder.DATA


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.6, 0.99])
def test_a_file_that_was_cut_off_is_built_again(tmp_path, many, share):
    os.truncate(many, int(many.stat().st_size * share))
    tables = opened(tmp_path)
    assert "damaged" in tables.rebuilt
    assert tables.positions() == {}
    tables.append([part(range(5))])
    assert all_offsets(tables) == [0, 1, 2, 3, 4]
    tables.close()


@pytest.mark.parametrize("content", [b"x" * 10_000, b"\0" * 100_000])
def test_a_file_that_is_something_else_is_built_again(tmp_path, many, content):
    many.write_bytes(content)
    tables = opened(tmp_path)
    assert "damaged" in tables.rebuilt
    tables.close()


def test_an_empty_file_means_empty_tables(tmp_path, many):
    many.write_bytes(b"")
    tables = opened(tmp_path)
    assert (tables.positions(), tables.sizes().entries) == ({}, 0)
    tables.append([part(range(5))])
    tables.close()


def test_a_changed_position_is_found_at_opening(tmp_path, many):
    many.write_bytes(many.read_bytes().replace(TOPIC + bytes(4), TOPIC + b"\0\0\0\1"))  # of another partition
    tables = opened(tmp_path)
    assert "the checksum of the position of a partition" in tables.rebuilt
    tables.close()


def test_a_changed_name_of_a_table_is_found_at_opening(tmp_path, many):
    many.write_bytes(many.read_bytes().replace(b"log-1", b"log-q"))
    tables = opened(tmp_path)
    assert "there is a database b'log-q'" in tables.rebuilt
    tables.close()


def test_a_table_that_is_missing_is_found_at_opening(tmp_path, many):
    many.write_bytes(many.read_bytes().replace(b"log-1", b"lag-1"))
    tables = opened(tmp_path)
    assert "1 logs have no table of entries" in tables.rebuilt
    tables.close()


def change_a_value(file: Path) -> None:
    content = file.read_bytes()
    at = content.index(b"some value some value", len(content) // 2)
    file.write_bytes(content[:at] + b"S" + content[at + 1 :])


def ask_for_all(tables):
    for offset in range(3000):
        tables.get(KeyKind.ID, id_of(offset))


@pytest.mark.parametrize(
    "use",
    [
        ask_for_all,
        lambda tables: tables.entries_from(SOURCE, 0, 5000),
        lambda tables: tables.expire(3000, {TOPIC: 0}, 5000),
    ],
    ids=["by key", "in order", "expiry"],
)
def test_a_changed_value_is_found_when_it_is_read_and_rebuilding_helps(tmp_path, many, use):
    change_a_value(many)
    tables = opened(tmp_path)
    assert tables.rebuilt == ""  # nothing has looked at it
    with pytest.raises(StoreDamaged, match="the store's tables are damaged: the checksum"):
        use(tables)
    tables.rebuild("the checksum is wrong")
    assert (tables.rebuilt, tables.positions()) == ("the checksum is wrong", {})
    tables.append([part(range(3000))])
    use(tables)
    tables.close()
    tables = opened(tmp_path)
    assert tables.rebuilt == ""
    tables.close()


def test_damage_that_was_found_is_remembered_when_the_store_ends_before_it_has_rebuilt(tmp_path, many):
    change_a_value(many)
    tables = opened(tmp_path)
    with pytest.raises(StoreDamaged):
        ask_for_all(tables)
    tables.close()
    tables = opened(tmp_path)
    assert "the checksum" in tables.rebuilt
    assert tables.positions() == {}
    tables.close()


def find_and_expire(tables):
    for offset in range(10):
        tables.get(KeyKind.ID, id_of(offset))
    tables.expire(10, {TOPIC: 0})


@pytest.mark.parametrize(
    ("lie", "how"),
    [
        ("entry", "names an entry that does not exist"),
        ("key", "names an entry that does not have the key"),
        ("row", "does not name an entry that exists"),
        ("length", "requires a buffer of 12 bytes"),
    ],
)
def test_tables_that_contradict_each_other_are_damaged(tables, lie, how):
    tables.append([part(range(10))])
    file = tables._engine
    with file.writing([]) as txn, txn.cursor(file.index) as cursor:
        assert cursor.first()
        if lie == "entry":
            txn.drop(file.entries[1], delete=False)
        elif lie == "length":
            txn.put(index_prefix((KeyKind.ID, id_of(3))) + b"short", b"", db=file.index)
        elif lie == "row":
            txn.drop(file.index, delete=False)
        else:  # the entry of another key
            row, other = cursor.key(), (cursor.last(), cursor.key())[1]
            cursor.delete()
            txn.put(other[:16] + row[16:], b"", db=file.index)
    with pytest.raises(StoreDamaged, match=how):
        find_and_expire(tables)
    tables.rebuild("for the end of this test")


def test_entry_is_what_the_tables_give_back(tables):
    tables.append([part([0])])
    assert tables.get(KeyKind.ID, id_of(0))[0].entry == entry(0)
