"""Follows: every record of an id, once and in order, as fast as its follower gives credit, whatever else happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.followed import LIVE, REPLAY_CAP, SCAN_CAP, FollowedRecord, StreamTopic, size_of
from fastgw.mesh import store_frames
from fastgw.mesh.store_frames import Credit, Follow, FollowEnd, Following, Items, Unfollow
from fastgw.store import follows as follows_module
from fastgw.store.follows import Follows, Scan, Seen

VALUE = b"x" * 100
TOPIC_ID = bytes(range(16))
SIZE = size_of(VALUE)
REPLAYS_MAX, SCAN_BYTES_MAX = 2, 100 * SIZE


class Worker:
    """A connection: what it was told."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self._reader = store_frames.reader(of_worker=False)

    def send(self, frame: bytes) -> None:
        self.frames += self._reader.feed(frame)

    def offsets(self, number: int = 1) -> list[int]:
        """Of the records that a follow has got."""
        items = [frame for frame in self.frames if isinstance(frame, Items) and frame.number == number]
        return [offset for frame in items for offset, _, _ in frame.records]

    @property
    def start(self) -> int:
        return next(frame.start for frame in self.frames if isinstance(frame, Following))


class Place:
    """The follows of a store, and the log that its readers read."""

    def __init__(self, partitions: int = 2) -> None:
        self.wanted = self.scans = self.topics = 0
        self.follows = Follows(self.count_wanted, self.count_scan, self.count_topic, REPLAYS_MAX, SCAN_BYTES_MAX)
        self.log: dict[int, list[bytes]] = {partition: [] for partition in range(partitions)}
        self.read_to = dict.fromkeys(self.log, 0)  # by the live reader
        self.partitions = partitions

    def count_wanted(self) -> None:
        self.wanted += 1

    def count_scan(self) -> None:
        self.scans += 1

    def count_topic(self) -> None:
        self.topics += 1

    def own(self, *partitions: int) -> None:
        self.follows.owns(partitions)
        self.locate()

    def locate(self) -> None:
        """The live reader does what is wanted."""
        ends = {one: len(self.log[one]) for one in self.follows.wanted()}
        self.read_to.update(ends)
        self.follows.located(TOPIC_ID, self.partitions, ends, self.log.keys() - ends.keys())

    def append(self, correlation_id: bytes, partition: int = 0, times: int = 1) -> None:
        self.log[partition] += [correlation_id] * times

    def record(self, partition: int, offset: int) -> Seen:
        record: FollowedRecord = (offset, [], VALUE)
        return Seen(partition, self.log[partition][offset], record)

    def read_live(self, partition: int = 0, most: int = 1000) -> None:
        """The live reader brings what is new."""
        start = self.read_to[partition]
        end = min(len(self.log[partition]), start + most)
        self.read_to[partition] = end
        self.follows.took([self.record(partition, offset) for offset in range(start, end)], {partition: end})

    def scan(self, most: int = 1000) -> bool:
        """The scan reader reads one stretch. False: there is nothing to read."""
        scan = self.follows.next_scan()
        if scan is None:
            return False
        end = min(len(self.log[scan.partition]), scan.offset + most)
        seen = [self.record(scan.partition, offset) for offset in range(scan.offset, end)]
        self.follows.scanned(scan, seen, end)
        return True

    def follow(
        self, worker: Worker, number: int = 1, correlation_id: bytes = b"a", position: int = LIVE,
        credit: int = 1000 * SIZE, partition: int = 0, is_replay: bool = False,
    ) -> None:  # fmt: skip
        self.follows.follow(worker, Follow(number, correlation_id, partition, position, credit, is_replay))


@pytest.fixture
def place() -> Place:
    one = Place()
    one.own(0, 1)
    return one


def test_a_worker_is_told_from_where_and_gets_the_records_of_its_id(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=3)
    place.read_live()
    place.follow(worker)
    assert worker.frames == [Following(1, 3)]
    place.append(b"b")
    place.append(b"a", times=2)
    place.append(b"a", partition=1)
    place.read_live(0)
    place.read_live(1)
    assert worker.offsets() == [4, 5]
    (_, items) = worker.frames
    assert items.records[0] == (4, [], VALUE)


def test_two_workers_may_follow_one_id(place: Place) -> None:
    one, other = Worker(), Worker()
    place.follow(one)
    place.follow(other)
    place.append(b"a")
    place.read_live()
    assert one.offsets() == other.offsets() == [0]


def test_a_follow_from_an_offset_begins_in_the_log(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=5)
    place.read_live()
    place.follow(worker, position=2)
    assert worker.start == 2
    place.append(b"a")
    place.read_live()
    assert worker.offsets() == [], "the newest record must not come before the older ones"
    assert place.scan()
    assert worker.offsets() == [2, 3, 4, 5]
    place.append(b"a")
    place.read_live()
    assert worker.offsets() == [2, 3, 4, 5, 6]
    assert not place.scan()
    assert place.follows.behind == 0


def test_a_partition_of_another_node_is_read_while_it_has_a_follower() -> None:
    place, worker = Place(), Worker()
    place.own(1)
    assert place.follows.topic == StreamTopic(TOPIC_ID, 2, [1])
    place.follow(worker, partition=0)
    assert worker.frames == []
    assert place.follows.wanted() == {0, 1}
    place.locate()
    assert worker.start == 0
    assert place.follows.topic == StreamTopic(TOPIC_ID, 2, [1]), "it is no home for new streams"
    place.follows.unfollow(worker, Unfollow(1))
    assert place.follows.wanted() == {1}


def test_records_beyond_the_credit_wait_in_a_short_queue(place: Place) -> None:
    worker = Worker()
    place.follow(worker, credit=2 * SIZE)
    place.append(b"a", times=5)
    place.read_live()
    assert worker.offsets() == [0, 1]
    assert place.follows.queued_bytes == 3 * SIZE
    place.follows.credit(worker, Credit(1, SIZE))
    assert worker.offsets() == [0, 1, 2]
    place.follows.credit(worker, Credit(1, 10 * SIZE))
    assert worker.offsets() == [0, 1, 2, 3, 4]
    assert place.follows.queued_bytes == 0


def test_what_does_not_fit_into_the_queue_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows_module, "QUEUE_BYTES", 3 * SIZE)
    slow, quick = Worker(), Worker()
    place.follow(slow, credit=2 * SIZE)
    place.follow(quick)
    place.append(b"a", times=20)
    place.read_live()
    assert (slow.offsets(), quick.offsets()) == ([0, 1], list(range(20)))
    assert place.follows.behind == 1
    assert not place.scan(), "it has no credit"
    place.follows.credit(slow, Credit(1, 3 * SIZE))
    assert slow.offsets() == [0, 1, 2, 3, 4]
    assert not place.scan()
    place.follows.credit(slow, Credit(1, 2 * SIZE))
    assert place.scan()
    assert slow.offsets() == list(range(7))
    assert place.follows.queued_bytes == 3 * SIZE
    while place.follows.behind:
        place.follows.credit(slow, Credit(1, 4 * SIZE))
        place.scan()
    place.follows.credit(slow, Credit(1, 4 * SIZE))
    assert slow.offsets() == quick.offsets() == list(range(20))


def test_the_queues_of_all_followers_are_bounded_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows_module, "QUEUES_BYTES", 3 * SIZE)
    worker = Worker()
    place.follow(worker, 1, credit=0)
    place.follow(worker, 2, credit=0)
    place.append(b"a", times=5)
    place.read_live()
    assert place.follows.queued_bytes == 3 * SIZE
    assert place.follows.behind == 2


def test_scans_take_turns_between_partitions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows_module, "SCANS_IN_ROW", 2)
    worker = Worker()
    for partition in (0, 1):
        place.append(b"a", partition, times=10)
        place.read_live(partition)
        place.follow(worker, 1 + partition, partition=partition, position=0)
    scans = []
    while (scan := place.follows.next_scan()) is not None and len(scans) < 6:
        scans.append(scan.partition)
        end = scan.offset + 1
        place.follows.scanned(scan, [place.record(scan.partition, scan.offset)], end)
    assert scans == [0, 0, 1, 1, 0, 0]


def test_who_falls_behind_later_does_not_keep_others_from_reaching_the_live_reader(place: Place) -> None:
    """Clients come back all the time, each at a position that was read already."""
    worker = Worker()
    place.append(b"a", times=40)
    place.read_live()
    place.follow(worker, 1, position=0)
    for number in range(2, 22):
        place.scan(most=2)
        place.follow(worker, number, position=1)
    assert worker.offsets(1) == list(range(40))
    place.append(b"a")
    place.read_live()
    assert worker.offsets(1) == list(range(41)), "it has reached the live reader"
    while place.scan():
        pass
    assert worker.offsets(21) == list(range(1, 41))


def test_a_long_way_does_not_keep_others_waiting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows_module, "SCANS_IN_ROW", 3)
    worker = Worker()
    place.append(b"a", times=100)
    place.read_live()
    place.follow(worker, 1, position=0)
    place.scan(most=2)
    place.follow(worker, 2, position=98)
    for _ in range(3):
        place.scan(most=2)
    assert worker.offsets(2) == [98, 99]
    while place.scan(most=2):
        pass
    assert worker.offsets(1) == list(range(100))


def test_a_log_that_was_cut_ends_the_follows_that_need_what_is_gone(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=10)
    place.read_live()
    place.follow(worker, 1, position=2)
    place.follow(worker, 2, position=7)
    place.follows.overtaken(0, 5)
    assert worker.frames[-1] == FollowEnd(1, "overtaken")
    place.scan()
    assert worker.offsets(2) == [7, 8, 9]
    assert len(place.follows) == 1


def test_only_so_many_clients_that_come_back_are_served_at_the_same_time(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=10)
    place.read_live()
    for number in range(1, 4):
        place.follow(worker, number, position=2, is_replay=True)
    assert worker.frames[-1] == FollowEnd(3, REPLAY_CAP)
    place.follow(worker, 4, position=2)
    place.follow(worker, 5, position=10, is_replay=True)
    assert worker.frames[-1] == Following(5, 10), "it needs nothing from the log"
    place.scan()
    assert [worker.offsets(number) for number in (1, 2, 4)] == [list(range(2, 10))] * 3
    place.follow(worker, 3, position=2, is_replay=True)
    place.follow(worker, 6, position=2, is_replay=True)
    place.follows.unfollow(worker, Unfollow(6))
    place.follow(worker, 7, position=2, is_replay=True)
    assert not [frame for frame in worker.frames[1:] if frame in (FollowEnd(6, REPLAY_CAP), FollowEnd(7, REPLAY_CAP))]


def test_a_replay_reads_so_much_of_others_and_any_amount_of_its_own(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=300)
    place.append(b"b", times=101)
    place.append(b"a", times=200)
    place.read_live()
    for number, (correlation_id, is_replay) in enumerate([(b"a", True), (b"b", True), (b"a", False), (b"c", False)], 1):
        place.follow(worker, number, correlation_id, 0, is_replay=is_replay)
    while place.scan(50):
        pass
    assert [frame for frame in worker.frames if isinstance(frame, FollowEnd)] == [
        FollowEnd(2, SCAN_CAP), FollowEnd(1, SCAN_CAP)
    ]  # fmt: skip
    assert worker.offsets(1) == [*range(300), *range(401, 450)]
    assert worker.offsets(3) == [*range(300), *range(401, 601)]


def test_a_reader_that_begins_anew_leaves_no_hole(place: Place) -> None:
    worker = Worker()
    place.follow(worker)
    place.append(b"a", times=2)
    place.read_live()
    place.append(b"a", times=3)
    place.locate()  # a new consumer begins at the end
    place.append(b"a")
    place.read_live()
    while place.scan():
        pass
    assert worker.offsets() == [0, 1, 2, 3, 4, 5]


def test_a_record_that_no_frame_can_carry_ends_its_follow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    place.follow(worker)
    monkeypatch.setattr(store_frames, "MAX_FRAME_BYTES", 50)
    place.append(b"a")
    place.read_live()
    assert worker.frames[-1] == FollowEnd(1, "too large")
    assert len(place.follows) == 0


def test_nothing_is_left_of_a_connection_that_has_ended(place: Place) -> None:
    worker = Worker()
    place.follow(worker, 1, credit=0)
    place.follow(worker, 2, b"b", position=0, credit=0)
    place.append(b"a")
    place.read_live()
    place.follows.gone(worker)
    place.follows.gone(worker)
    place.append(b"a")
    place.read_live()
    assert (len(place.follows), place.follows.behind, place.follows.queued_bytes) == (0, 0, 0)
    assert worker.offsets() == []


def test_without_kafka_no_partition_is_a_home(place: Place) -> None:
    place.follows.lost()
    assert place.follows.topic == StreamTopic(TOPIC_ID, 2, [])
    place.locate()
    assert place.follows.topic == StreamTopic(TOPIC_ID, 2, [0, 1])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_interleaving_delivers_each_record_once_and_in_order(data: st.DataObject) -> None:
    """Whatever is appended, read, scanned, and credited, in any order and in steps of any size."""
    place, worker = Place(), Worker()
    place.own(0, 1)
    starts: dict[int, tuple[bytes, int, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follows_module, "QUEUE_BYTES", 2 * SIZE)
        patch.setattr(follows_module, "QUEUES_BYTES", 5 * SIZE)
        for _ in range(data.draw(st.integers(1, 40))):
            step = data.draw(st.sampled_from(["append", "live", "scan", "credit", "follow", "locate"]))
            partition, count = data.draw(st.integers(0, 1)), data.draw(st.integers(1, 6))
            if step == "append":
                place.append(data.draw(st.sampled_from([b"a", b"b"])), partition, count)
            elif step == "live":
                place.read_live(partition, count)
            elif step == "scan":
                place.scan(count)
            elif step == "locate":
                place.locate()
            elif step == "follow" and len(starts) < 4:
                number, one = len(starts) + 1, data.draw(st.sampled_from([b"a", b"b"]))
                position = data.draw(st.sampled_from([LIVE, 0, min(2, place.read_to[partition])]))
                place.follow(worker, number, one, position, count * SIZE, partition)
                starts[number] = one, partition, place.read_to[partition] if position == LIVE else position
            elif starts:
                place.follows.credit(worker, Credit(data.draw(st.sampled_from(sorted(starts))), count * SIZE))
        for number in starts:
            place.follows.credit(worker, Credit(number, 10_000 * SIZE))
        for partition in (0, 1):
            place.read_live(partition)
        for _ in range(1000):
            if not place.scan():
                break
    for number, (one, partition, start) in starts.items():
        wanted = [at for at, each in enumerate(place.log[partition]) if each == one and at >= start]
        assert worker.offsets(number) == wanted
    assert (place.follows.queued_bytes, place.follows.behind) == (0, 0)


def test_a_scan_names_where_to_read(place: Place) -> None:
    worker = Worker()
    place.append(b"a", times=4)
    place.read_live()
    place.follow(worker, position=1)
    assert place.follows.next_scan() == Scan(0, 1)
    assert place.scans > 0
