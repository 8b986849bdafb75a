"""The shared segment: partition map, process records, counters, what waits, and who may attach."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fastgw import _ctable, table
from fastgw._ctable import CLAIMED, EXPIRED, NOT_READING, SINGLE, UNKNOWN_POSITION, UNOWNED
from fastgw.errors import TableError
from tests.actors.tables import FAR_NS, MS, answer, make, publish, slot_of
from tests.places import REPOSITORY

# ---- the partition map


def test_a_table_without_a_map_owns_nothing() -> None:
    owner = make()
    assert owner.map_version() == 0
    assert owner.read_map() == (0, b"")
    assert owner.map_owner(0) == UNOWNED


def test_a_map_is_replaced_as_a_whole() -> None:
    owner = make(workers=3)
    assert owner.write_map(bytes([0, 1, 2, 0, UNOWNED])) == 1
    assert owner.read_map() == (1, bytes([0, 1, 2, 0, UNOWNED]))
    assert [owner.map_owner(p) for p in (-1, 0, 2, 4, 5, 4095, 4096, 2**40)] == [
        UNOWNED, 0, 2, UNOWNED, UNOWNED, UNOWNED, UNOWNED, UNOWNED
    ]  # fmt: skip
    assert owner.write_map(bytes([2])) == 2
    assert owner.read_map() == (2, b"\x02")
    assert owner.map_owner(1) == UNOWNED
    assert owner.write_map(bytes(range(3)) * 1365 + b"\x00") == 3
    assert owner.read_map()[1] == bytes(range(3)) * 1365 + b"\x00"


@pytest.mark.parametrize("owners", [b"", bytes(4097), b"\x00\x02", b"\xfe"])
def test_a_map_that_cannot_be_is_refused_and_the_old_one_stays(owners: bytes) -> None:
    owner = make(workers=2)
    owner.write_map(b"\x01")
    with pytest.raises(ValueError, match="expected"):
        owner.write_map(owners)
    assert owner.read_map() == (1, b"\x01")


WRITER = """
import sys
from fastgw import table
shared = table.attach(int(sys.argv[1]))
for version in range(1, 20_001):
    assert shared.write_map(bytes([version % 7]) * (4096 - version % 100)) == version
"""


def test_a_reader_sees_whole_maps_while_another_process_writes_them() -> None:
    fd, owner = table.create(1, 7, 8)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(fd)], pass_fds=[fd], cwd=REPOSITORY)
    os.close(fd)
    version = reads = 0
    while version < 20_000 and (writer.poll() is None or version < owner.map_version()):
        before = version
        version, owners = owner.read_map()
        reads += version != before
        assert version >= before
        assert owners == bytes([version % 7]) * (4096 - version % 100 if version else 0)
        assert owner.map_owner(0) in {*range(7), UNOWNED}
    assert writer.wait(30) == 0
    assert owner.map_version() == 20_000
    assert reads > 10, "the reader did not get to run beside the writer"


# ---- positions

LOG, OTHER_LOG = 0xFFFF, 0


def test_a_position_is_unknown_until_it_is_written() -> None:
    owner = make()
    for partition in (0, 4095):
        assert owner.handled_to(partition, LOG) == owner.handled_to(partition, OTHER_LOG) == UNKNOWN_POSITION
        for offset in (0, 1, 2**48 - 2, UNKNOWN_POSITION):
            owner.set_handled_to(partition, LOG, offset)
            assert owner.handled_to(partition, LOG) == offset
            assert owner.handled_to(partition, OTHER_LOG) == UNKNOWN_POSITION
    owner.set_handled_to(7, OTHER_LOG, 5)
    assert [owner.handled_to(7, log) for log in (OTHER_LOG, LOG)] == [5, UNKNOWN_POSITION]


@pytest.mark.parametrize("offset", [2**48 - 1, 2**63 - 1, -2])
def test_an_offset_that_is_none_makes_the_position_unknown(offset: int) -> None:
    owner = make()
    owner.set_handled_to(0, LOG, 5)
    owner.set_handled_to(0, LOG, offset)
    assert owner.handled_to(0, LOG) == UNKNOWN_POSITION


@pytest.mark.parametrize("place", [(-1, 0), (4096, 0), (0, -1), (0, 2**16)])
def test_a_position_outside_of_the_array_is_refused(place: tuple[int, int]) -> None:
    owner = make()
    with pytest.raises(ValueError, match="expected 0"):
        owner.set_handled_to(*place, 1)
    with pytest.raises(ValueError, match="expected 0"):
        owner.handled_to(*place)


def test_positions_of_streams_are_those_of_another_topic() -> None:
    owner = make()
    owner.set_handled_to(3, LOG, 17)
    assert owner.streams_read_to(3, LOG) == UNKNOWN_POSITION
    owner.set_streams_read_to(3, LOG, 5)
    owner.set_streams_read_to(4095, LOG, 2**48 - 2)
    assert [owner.handled_to(3, LOG), owner.streams_read_to(3, LOG), owner.streams_read_to(4095, LOG)] == [
        17, 5, 2**48 - 2
    ]  # fmt: skip
    assert owner.streams_read_to(3, OTHER_LOG) == UNKNOWN_POSITION
    owner.set_streams_read_to(3, LOG, UNKNOWN_POSITION)
    assert owner.streams_read_to(3, LOG) == UNKNOWN_POSITION
    for place in [(-1, 0), (4096, 0), (0, -1), (0, 2**16)]:
        with pytest.raises(ValueError, match="expected 0"):
            owner.set_streams_read_to(*place, 1)
        with pytest.raises(ValueError, match="expected 0"):
            owner.streams_read_to(*place)


def test_positions_outlive_the_process_that_has_written_them() -> None:
    owner = make()
    owner.register(0, 1, 0, 0)
    owner.set_handled_to(3, LOG, 17)
    owner.reclaim(0)
    assert owner.handled_to(3, LOG) == 17


def test_a_log_is_told_from_others_by_its_topic_and_brokers() -> None:
    assert table.log_of("a:1, b:2", "replies") == table.log_of("b:2,a:1", "replies")
    assert len({table.log_of(brokers, topic) for brokers in ("a:1", "b:2") for topic in ("replies", "others")}) == 4


# ---- process records


def test_a_registered_process_is_found_until_it_is_unregistered() -> None:
    owner = make(workers=2)
    assert owner.find(1, 5) == -1
    assert owner.process_info(3) is None
    owner.register(3, 4242, 1, 5)
    assert owner.find(1, 5) == 3
    assert owner.find(1, 7) == -1, "the generation before it in the same range"
    assert owner.process_info(3) == (3, 4242, 1, 5, False, False, 0, 0, -1, 0, 0)
    owner.set_ready(3, True)
    owner.heartbeat(3, 99, 12, 6, 4)
    owner.set_body_bytes(3, 7)
    assert owner.process_info(3) == (3, 4242, 1, 5, True, False, 99, 12, 6, 4, 7)
    owner.set_draining(3)
    owner.set_ready(3, False)
    assert owner.process_info(3) == (3, 4242, 1, 5, False, True, 99, 12, 6, 4, 7)
    owner.unregister(3)
    owner.unregister(3)
    assert owner.find(1, 5) == -1
    assert owner.process_info(3) is None


def test_gauges_are_the_processs_own_and_end_with_it() -> None:
    owner = make()
    owner.register(0, 1, 0, 0)
    owner.set_gauge(0, 7, 2**40)
    assert [owner.gauge(0, 7), owner.gauge(0, 6), owner.gauge(1, 7)] == [2**40, 0, 0]
    owner.unregister(0)
    assert owner.gauge(0, 7) == 0


def test_who_takes_over_a_range_starts_with_a_clean_record_and_old_counters() -> None:
    owner = make()
    owner.register(0, 1, 0, 0)
    owner.set_draining(0)
    owner.heartbeat(0, 5, 5, 5, 5)
    owner.set_body_bytes(0, 5)
    owner.set_reads_from(0, 3, 17)
    owner.count(0, 1, 2)
    owner.register(0, 2, 0, 2)
    assert owner.process_info(0) == (0, 2, 0, 2, False, False, 0, 0, -1, 0, 0)
    assert owner.reads_from(0, 3) == NOT_READING
    assert owner.endings(1)[2] == 1
    assert owner.worker_starts(0) == 2


def test_starts_are_counted_per_worker_slot_over_both_ranges() -> None:
    owner = make(workers=2)
    for generation in range(5):
        owner.register(2 + generation % 2, 1, 1, generation)
    assert [owner.worker_starts(worker) for worker in (0, 1)] == [0, 5]


def test_a_process_reads_nothing_until_it_says_so() -> None:
    owner = make()
    owner.register(1, 1, 0, 1)
    for partition in (0, 4095):
        assert owner.reads_from(1, partition) == NOT_READING
        for offset in (0, 1, 2**63 - 1, NOT_READING):
            owner.set_reads_from(1, partition, offset)
            assert owner.reads_from(1, partition) == offset


def test_nobody_can_be_found_by_numbers_that_fit_nobody() -> None:
    owner = make(workers=2)
    owner.register(0, 1, 0, 0)
    for worker, generation in [(2, 0), (255, 0), (-1, 0), (0, 256), (0, -1), (2**40, 0), (1, 0)]:
        assert owner.find(worker, generation) == -1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 1, 0, 0), r"process: expected 0\.\.3, got 4"),
        ((-1, 1, 0, 0), "process: expected"),
        ((0, 1, 2, 0), r"worker: expected 0\.\.1, got 2"),
        ((0, 1, 0, 256), r"generation: expected 0\.\.255, got 256"),
        ((0, 1, 0, 1), "process of worker 0 generation 1: expected 1, got 0"),
        ((0, 1, 1, 0), "process of worker 1 generation 0: expected 2, got 0"),
    ],
)
def test_a_process_registers_where_its_worker_and_generation_belong(
    arguments: tuple[int, int, int, int], expected: str
) -> None:
    owner = make(workers=2)
    with pytest.raises(ValueError, match=expected):
        owner.register(*arguments)
    assert all(owner.process_info(process) is None for process in range(4))


def test_nobody_registered_has_no_flags() -> None:
    owner = make()
    for flag in (lambda: owner.set_ready(0, True), lambda: owner.set_draining(0)):
        with pytest.raises(ValueError, match="process 0: expected it to be registered"):
            flag()


def test_the_index_of_a_process_differs_between_neighbouring_generations() -> None:
    assert [table.process_index(3, generation) for generation in (0, 1, 2, 255)] == [6, 7, 6, 7]


def test_draining_is_one_flag_for_the_service() -> None:
    fd, owner = table.create(1, 1, 8)
    other = table.attach(fd)
    os.close(fd)
    assert not other.service_draining()
    owner.set_service_draining()
    assert other.service_draining()
    owner.set_service_draining(False)
    assert not other.service_draining()


# ---- counters


def test_endings_and_dispositions_are_summed_over_processes() -> None:
    owner = make(workers=2)
    for process in range(4):
        for _ in range(process + 1):
            owner.count(process, 7, 63)
            owner.count_disposition(process, 15)
            owner.add_tally(process, 3, 10)
    owner.count(0, 2047, 0)
    assert owner.endings(7) == (*[0] * 63, 10)
    assert owner.endings(2047)[0] == 1
    assert owner.dispositions() == (*[0] * 15, 10)
    assert owner.tally(3) == 100


@pytest.mark.parametrize(
    ("duration_ns", "bucket"),
    [(-1, 0), (0, 0), (500_000, 0), (500_001, 1), (1 * MS, 1), (10_000 * MS, 13), (10_000 * MS + 1, 14), (2**62, 14)],
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(duration_ns: int, bucket: int) -> None:
    owner = make(workers=2)
    answer(owner.open_range(3), 9, started_ns=1, times_ns=None, ended_ns=1 + duration_ns)
    counts, sum_ns = owner.histogram(9, _ctable.TOTAL)
    assert len(counts) == len(_ctable.BUCKETS) == 15
    assert counts == tuple(int(i == bucket) for i in range(15))
    assert sum_ns == max(duration_ns, 0)
    assert owner.histogram(9, _ctable.QUEUE_TO_ACK) == ((0,) * 15, 0)


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        ("count", (0, 0, 0), [(2, 0, 0), (-1, 0, 0), (0, 2048, 0), (0, -1, 0), (0, 0, 64), (0, 0, -1)]),
        ("count_disposition", (0, 0), [(2, 0), (0, 16), (0, -1)]),
        ("add_tally", (0, 0, 1), [(2, 0, 1), (0, 32, 1), (0, -1, 1)]),
        ("endings", (0,), [(2048,), (-1,)]),
        ("histogram", (0, 0), [(2048, 0), (0, 3), (0, -1)]),
        ("set_reads_from", (0, 0, 1), [(2, 0, 1), (0, 4096, 1), (0, -1, 1)]),
        ("reads_from", (0, 0), [(2, 0), (0, 4096), (0, -1)]),
        ("heartbeat", (0, 1, 1, -1, 1), [(2, 1, 1, -1, 1), (0, 1, 1, -2, 1), (0, 1, 1, 4096, 1)]),
        ("set_body_bytes", (0, 1), [(2, 1), (-1, 1)]),
        ("set_gauge", (0, 0, 1), [(2, 0, 1), (0, 8, 1), (0, -1, 1)]),
        ("gauge", (0, 0), [(2, 0), (0, 8), (0, -1)]),
        ("answered", (0,), [(2048,), (-1,)]),
        ("states", (0,), [(2,), (-1,)]),
        ("reclaim", (0,), [(2,), (-1,)]),
        ("open_range", (0,), [(2,), (-1,), (2**40,)]),
        ("worker_starts", (0,), [(1,), (-1,)]),
    ],
)
def test_numbers_outside_of_the_table_are_refused(
    method: str, good: tuple[int, ...], bad: list[tuple[int, ...]]
) -> None:
    owner = make()
    getattr(owner, method)(*good)
    for arguments in bad:
        with pytest.raises(ValueError, match="expected"):
            getattr(owner, method)(*arguments)


# ---- the whole table


def test_waiting_shows_the_oldest_of_all_processes_first() -> None:
    owner = make(workers=2, slots=50)
    expected = []
    for process in (0, 1, 3):
        slots = owner.open_range(process)
        for i in range(50):
            claimed_ns = (i * 37 + process * 11) % 1009 + 1
            token = slots.publish(slots.claim(), i, process, i, 5000 + i, claimed_ns)
            if i % 5 == 4:
                slots.finish(token, EXPIRED)
            else:
                expected.append((claimed_ns, slot_of(token)))
    expected.sort()
    for limit in (-1, 0, 1, 2, 7, 100, 10**6):
        found = owner.waiting(limit)
        assert [(item.claimed_ns, item.slot) for item in found] == expected[: max(limit, 0)]
    item = owner.waiting(1)[0]
    i = item.slot % 50
    assert item == (item.slot, item.route, item.route, i, CLAIMED, item.claimed_ns, 0, 0, 5000 + i, SINGLE)


def test_a_range_opens_only_after_its_last_owner_has_been_reclaimed() -> None:
    owner = make(slots=3)
    slots = owner.open_range(0)
    publish(slots, 1)
    slots.claim()
    with pytest.raises(ValueError, match=r"expected only free slots, got \{0: 1, 1: 1, 2: 1\}; reclaim it first"):
        owner.open_range(0)
    assert owner.reclaim(0) == (1, 1)
    again = owner.open_range(0)
    assert [again.claim() for _ in range(4)] == [2, 0, 1, -1], "never used ones first, the others rest a little longer"


def test_the_table_and_its_ranges_tell_their_state() -> None:
    owner = make(workers=2, slots=4)
    owner.register(0, 1, 0, 0)
    slots = owner.open_range(0)
    publish(slots, 1)
    slots.claim()
    assert repr(owner) == "<Table node=abcdef workers=2 slots=4 map_version=0 processes=1>"
    assert repr(slots) == "<SlotRange process=0 in_flight=2 {'free': 2, 'claiming': 1, 'claimed': 1}>"


def test_a_range_keeps_the_memory_alive() -> None:
    slots = make().open_range(0)
    token = publish(slots, 1, now_ns=3)
    assert slots.times(token) == (3, 0, 0, FAR_NS)


# ---- create and attach


def test_all_who_attach_see_the_same_slots() -> None:
    fd, owner = table.create(5, 1, 8)
    other = table.attach(fd)
    os.close(fd)
    slots = owner.open_range(1)
    publish(slots, 3)
    assert other.waiting(5) == owner.waiting(5)
    assert len(other.waiting(5)) == 1
    assert (other.node, other.workers, other.processes, other.slots_per_process) == (5, 1, 2, 8)


@pytest.mark.parametrize(("workers", "slots"), [(0, 1), (1, 0), (-1, 1), (256, 1), (1, 2**19 + 1), (8, 2**16 + 1)])
def test_sizes_that_an_id_cannot_address_are_refused(workers: int, slots: int) -> None:
    with pytest.raises(TableError, match=r"expected 1\.\.255 workers"):
        table.create(1, workers, slots)


def test_the_largest_table_that_an_id_can_address_works() -> None:
    owner = make(workers=1, slots=2**19)
    slots = owner.open_range(1)
    assert slots.claim() == 2**19


def test_the_memory_cannot_be_resized() -> None:
    fd, _ = table.create(1, 1, 8)
    try:
        size = os.fstat(fd).st_size
        for wrong in (0, size - 4096, size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, wrong)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    finally:
        os.close(fd)


@pytest.fixture
def fresh() -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _ctable.layout_size(1, 8))
    _ctable.format(fd, 1, 1, 8)
    yield fd
    os.close(fd)


def test_how_long_services_take_is_replaced_as_a_whole() -> None:
    _, owner = table.create(1, 1, 8)
    assert (owner.waits_written_ns(), owner.wait_ns(7)) == (0, 0)
    owner.write_waits({7: _ctable.NO_CONSUMER, 9: 5_000_000_000}, 10)
    assert [owner.wait_ns(route) for route in (7, 8, 9)] == [_ctable.NO_CONSUMER, 0, 5_000_000_000]
    owner.write_waits({8: 1 << 62}, 20)
    assert [owner.wait_ns(route) for route in (7, 8, 9)] == [0, 1 << 62, 0]
    assert owner.waits_written_ns() == 20


def seal(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


HEADER = "<QIIIIQ"  # magic, layout version, node, workers, slots per process, total bytes


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 0, "expected magic 0x656c626174776766, got 0x0"),
        (0, 0x656C626174776767, "got 0x656c626174776767"),
        (1, 1, "expected layout version 7, got 1"),
        (3, 0, "expected 0 bytes for 0 workers"),
        (3, 2, "for 2 workers with 8 slots per process"),
        (3, 2**31, "workers"),
        (4, 9, "for 1 workers with 9 slots per process"),
        (4, 2**32 - 1, "slots per process"),
        (5, 4096, "a header that says 4096"),
    ],
)
def test_memory_that_is_no_table_of_this_program_is_refused(fresh: int, place: int, value: int, message: str) -> None:
    header = list(struct.unpack(HEADER, os.pread(fresh, struct.calcsize(HEADER), 0)))
    header[place] = value
    os.pwrite(fresh, struct.pack(HEADER, *header), 0)
    seal(fresh)
    with pytest.raises(TableError, match=message):
        table.attach(fresh)


@pytest.mark.parametrize("difference", [-4096, -1, 1, 4096])
def test_a_file_of_another_size_than_its_header_says_is_refused(fresh: int, difference: int) -> None:
    os.ftruncate(fresh, os.fstat(fresh).st_size + difference)
    seal(fresh)
    with pytest.raises(TableError, match="and a file of"):
        table.attach(fresh)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_file_too_small_for_a_header_is_refused(size: int) -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    seal(fd)
    with pytest.raises(TableError, match="expected at least"):
        table.attach(fd)
    os.close(fd)


def test_memory_that_could_be_resized_is_refused(fresh: int) -> None:
    with pytest.raises(TableError, match="seals"):
        table.attach(fresh)
    seal(fresh)
    assert table.attach(fresh).node == 1


def test_a_file_that_is_no_memfd_is_refused() -> None:
    read, write = os.pipe()
    for fd in (read, write):
        with pytest.raises(TableError, match="expected a sealed memfd"):
            table.attach(fd)
        os.close(fd)
    with pytest.raises(TableError, match="expected a sealed memfd"):
        table.attach(write)


def test_a_table_in_use_is_not_formatted_again(fresh: int) -> None:
    with pytest.raises(ValueError, match="expected fresh memory"):
        _ctable.format(fresh, 1, 1, 8)
    with pytest.raises(ValueError, match="expected a file of"):
        _ctable.format(fresh, 1, 1, 9)


def test_the_agent_shows_that_it_lives() -> None:
    fd, owner = table.create(1, 1, 8)
    assert owner.agent_beat_ns() == 0
    table.attach(fd).agent_beats(17)
    assert owner.agent_beat_ns() == 17
    os.close(fd)
