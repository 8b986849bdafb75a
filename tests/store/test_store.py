"""The store with its real tables: what workers are told, whatever comes first, the watch or the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import pytest

from fastgw import config, table
from fastgw.dialects import control
from fastgw.dialects.control import Cancelled, Control, Layout, Place
from fastgw.ids import IdMaker, Partitioner, ReplyTopic
from fastgw.kept_replies import Known, State, Topics
from fastgw.mesh.store_frames import Watch
from fastgw.messages import Record, Reply, StoreGauge
from fastgw.store import store as store_module
from fastgw.store.store import FINAL_MS, Store
from fastgw.store.tables import PLACES_MAX
from fastgw.store.topic_reader import Arrived, Batch, Located, Pulse
from fastgw.store.write_behind import WriteBehind
from fastgw.tokens import Purpose, Secrets

TOPIC_ID = bytes(range(16))
PARTITIONS = 2
SECRET = b"a secret that has at least 32 bytes"
SECRETS = Secrets([SECRET])
CONFIG = """
[gateway]
name = "shop"
workers = 1
secrets = ["{secret}"]
[kafka]
bootstrap = "127.0.0.1:1"
[store]
dir = "{dir}"
[[route]]
method = "POST"
path = "/o"
topic = "orders"
later = true
work_timeout = "1h"
max_kept = 3
"""
MAKER = IdMaker(1, 0, 0, ReplyTopic.LATER)
MAKER.set_ownership(PARTITIONS, [1], 1)
ID = MAKER.make(0, Partitioner.HEADER)
HOME = 1


def written_by_a_newer_node(written: Control, layout: int, kind: bytes = b"") -> Record:
    """The record as a version would write it that has this format, or this kind of records."""
    record = control.encode(written, SECRETS, Place("shop.later", TOPIC_ID, HOME))
    changed = {"fastgw_layout": b"%d" % layout} | ({"fastgw_kind": kind} if kind else {})
    headers = [(name, changed.get(name, value)) for name, value in record.headers if name != "fastgw_mac"]
    covered = control._covered(TOPIC_ID, HOME, record.key or b"", record.value, headers)
    mac = SECRETS.mac(Purpose.RECORD, *covered).hex().encode()
    return Record(record.topic, record.value, record.key, [*headers, ("fastgw_mac", mac)], record.partition)


class Worker:
    """A connection of a worker."""

    def __init__(self) -> None:
        self.told: list[State] = []

    def tell(self, state: State) -> None:
        self.told.append(state)

    @property
    def known(self) -> list[Known]:
        return [Known(state.known) for state in self.told]


class FakeValues:
    """Kafka, for values that the tables have left there."""

    def __init__(self) -> None:
        self.wanted: list = []

    def read(self, partition: int, offset: int, on_value) -> None:
        self.wanted.append((partition, offset, on_value))


class Place1:
    """A store, and the time that a test gives it."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        cfg = config.loads(CONFIG.format(dir=folder, secret=SECRET.decode()))
        self.folder = folder
        _, self.table = table.create(1, 1, 16)
        self.now_s = 1_800_000_000.0
        monkeypatch.setattr(store_module.time, "time", lambda: self.now_s)
        self.announced: list[tuple[bytes, list[int]]] = []
        self.values, self.worker = FakeValues(), Worker()
        self.tables = WriteBehind(folder, 64 << 20, loop)
        self.store = Store(cfg, SECRETS, self.tables, self.values, self.table, loop, self.announce)
        self.offsets = [0] * PARTITIONS

    def announce(self, topic_id: bytes, partitions: Collection[int]) -> None:
        self.announced.append((topic_id, sorted(partitions)))

    @property
    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def locate(self, ends: tuple[int, int] = (0, 0), topic_id: bytes = TOPIC_ID) -> dict[int, int]:
        return dict(self.store.located(Located(topic_id, {0: (0, ends[0]), 1: (0, ends[1])})))

    def ends(self) -> None:
        """Every partition has been read to its end."""
        ends = dict(enumerate(self.offsets))
        self.store.took(Batch([], ends, ends))
        self.pulse()

    def pulse(self, more: int = 0) -> None:
        """Kafka says that the home partition has so many records more than were read."""
        self.store.felt(Pulse(self.now_ms, {0: self.offsets[0], 1: self.offsets[1] + more}))

    def reply(self, value: bytes = b"done", partition: int = HOME, at_ms: int = 0, headers=()) -> None:
        self.record(Reply(ID, partition, self.offsets[partition], list(headers), value), at_ms)

    def record(self, reply: Reply, at_ms: int = 0) -> None:
        self.offsets[reply.partition] += 1
        arrived = Arrived(reply, at_ms or self.now_ms)
        self.store.took(Batch([arrived], {reply.partition: self.offsets[reply.partition]}, {}))

    def cancel(self, secrets: Secrets = SECRETS) -> None:
        record = control.encode(Cancelled(ID), secrets, Place("shop.later", TOPIC_ID, HOME))
        self.record(Reply(ID, HOME, self.offsets[HOME], record.headers, record.value))

    def control(self, written: Control, layout: int = control.LAYOUT, kind: bytes = b"") -> None:
        """A node with these secrets writes a record, perhaps one of a newer version."""
        record = written_by_a_newer_node(written, layout, kind)
        self.record(Reply(record.key or b"", HOME, self.offsets[HOME], record.headers, record.value))

    def watch(self, number: int = 1, until_ms: int = 0) -> None:
        self.store.watch(self.worker, Watch(number, ID, HOME, until_ms or self.now_ms + 60_000))  # type: ignore[arg-type]

    def figure(self, gauge: StoreGauge) -> int:
        self.store._show()
        return self.table.store_gauge(gauge)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place1]:
    loop = asyncio.new_event_loop()
    one = Place1(tmp_path / "store", loop, monkeypatch)
    yield one
    one.tables.close()
    loop.close()


def test_a_watch_before_the_reply_is_told_of_it(place: Place1) -> None:
    place.locate()
    place.ends()
    place.watch()
    place.reply(b"done", headers=[("status", b"201")])
    assert place.worker.known == [Known.OPEN, Known.ANSWERED]
    state = place.worker.told[-1]
    assert (state.number, state.partition, state.offset) == (1, HOME, 0)
    assert (state.headers, state.value) == ([("status", b"201")], b"done")


def test_a_watch_behind_the_reply_is_told_at_once(place: Place1) -> None:
    place.locate()
    place.reply()
    place.watch()
    assert place.worker.known == [Known.ANSWERED]


def test_only_the_first_reply_and_only_at_home_counts(place: Place1) -> None:
    place.locate()
    place.reply(b"elsewhere", partition=0, headers=[("fastgw_hops", b"1")])
    place.reply(b"first")
    place.reply(b"second")
    place.watch()
    assert [state.value for state in place.worker.told] == [b"first"]


def test_the_first_reply_counts_whatever_number_of_others_came_after_it(place: Place1) -> None:
    place.locate()
    place.reply(b"first")
    replies = [Arrived(Reply(ID, HOME, offset, [], b"again"), place.now_ms) for offset in range(1, PLACES_MAX + 2)]
    place.offsets[HOME] = PLACES_MAX + 2
    place.store.took(Batch(replies, {HOME: place.offsets[HOME]}, {}))
    place.watch()
    assert [state.value for state in place.worker.told] == [b"first"]


def test_nothing_is_told_behind_the_end_of_a_watch(place: Place1) -> None:
    place.locate()
    place.ends()
    place.watch()
    place.store.unwatch(place.worker, 1)  # type: ignore[arg-type]
    place.reply()
    assert place.worker.known == [Known.OPEN]


def test_before_the_topic_was_read_nothing_is_said_to_be_open(place: Place1) -> None:
    place.locate(ends=(5, 5))
    place.watch()
    assert place.worker.known == [Known.RESTORING]
    assert place.store.topics == Topics(TOPIC_ID, PARTITIONS, False)
    place.offsets = [5, 5]
    place.ends()
    assert place.worker.known[1:] == [Known.OPEN], "it is told again"
    assert place.store.topics.is_ready


def test_without_kafka_nothing_is_said_to_be_open(place: Place1) -> None:
    place.locate()
    place.ends()
    place.store.lost()
    place.watch()
    assert place.worker.known == [Known.BEHIND]
    assert place.figure(StoreGauge.BEHIND) == 1
    place.pulse()
    assert place.worker.known == [Known.BEHIND, Known.OPEN], "it is told again"


def test_a_cancellation_decides_and_a_forged_one_is_counted(place: Place1) -> None:
    place.locate()
    place.ends()
    place.watch()
    place.cancel(Secrets([b"another secret of at least 32 bytes!"]))
    assert place.worker.known == [Known.OPEN]
    assert place.figure(StoreGauge.GARBAGE) == 1
    place.cancel()
    place.reply()
    assert place.worker.known[-1] == Known.CANCELLED


def test_what_stands_under_a_new_secret_counts_once_it_is_configured(place: Place1) -> None:
    new = "the secret that takes the place of the old one"
    place.locate()
    place.ends()
    place.watch()
    place.cancel(Secrets([new]))
    assert (place.worker.known, place.store.knows_secret(Secrets([new]).ids[0])) == ([Known.OPEN], False)
    again = config.loads(CONFIG.format(dir=place.folder, secret=f'{SECRET.decode()}", "{new}'))
    place.store.use(again, Secrets(again.gateway.secrets))
    assert place.store.knows_secret(Secrets([new]).ids[0])
    place.cancel(Secrets([new]))
    assert place.worker.known[-1] == Known.CANCELLED


def test_work_is_over_when_the_topic_was_read_past_its_time(place: Place1) -> None:
    place.locate()
    place.ends()
    until_ms = place.now_ms + 60_000
    place.watch(until_ms=until_ms)
    place.now_s += 60
    place.pulse()
    place.store._sweep()
    assert place.worker.known == [Known.OPEN], "the broker's clock may be behind this one"
    place.now_s += FINAL_MS / 1000 + 1
    place.store._sweep()
    assert place.worker.known == [Known.OPEN], "Kafka may have more, and not have been asked"
    place.pulse(more=1)
    place.store._sweep()
    assert place.worker.known == [Known.OPEN], "Kafka has more"
    place.pulse()
    place.store._sweep()
    assert place.worker.known == [Known.OPEN, Known.EXPIRED]
    place.reply(at_ms=until_ms)
    place.watch(2, until_ms)
    assert place.worker.known[-1] == Known.EXPIRED, "a reply after the time does not count"


def test_while_kafka_is_away_no_work_is_over(place: Place1) -> None:
    place.locate()
    place.ends()
    place.watch(until_ms=place.now_ms + 1000)
    place.store.lost()
    place.now_s += 3600
    place.store._sweep()
    assert place.worker.known == [Known.OPEN]


def test_a_large_value_is_read_from_the_topic(place: Place1) -> None:
    place.locate()
    place.ends()
    place.reply(b"x" * 5000, headers=[("status", b"200")])
    place.watch()
    ((partition, offset, on_value),) = place.values.wanted
    assert (partition, offset, place.worker.told) == (HOME, 0, [])
    on_value(b"x" * 5000)
    assert (place.worker.known, place.worker.told[0].value) == ([Known.ANSWERED], b"x" * 5000)
    place.watch(2)
    place.values.wanted[-1][2](None)
    assert place.worker.known[-1] == Known.BEHIND, "Kafka does not give it"


def test_a_successor_reads_on_where_the_last_store_stopped(place: Place1) -> None:
    place.locate()
    place.reply()
    assert place.locate(ends=(0, 1)) == {0: 0, 1: 1}
    place.watch()
    assert place.worker.known == [Known.ANSWERED]


def test_a_log_that_ends_before_what_was_read_is_read_again(place: Place1) -> None:
    place.locate()
    place.reply()
    place.reply()
    assert place.locate(ends=(0, 1)) == {0: 0, 1: 0}
    place.ends()
    place.watch()
    assert place.worker.known == [Known.OPEN]


def test_another_topic_of_the_same_name_answers_for_itself_alone(place: Place1) -> None:
    place.locate()
    place.reply()
    assert place.locate(topic_id=bytes(16)) == {0: 0, 1: 0}
    place.offsets = [0, 0]
    place.ends()
    place.watch()
    assert place.worker.known == [Known.OPEN]


def test_replies_expire_after_their_time(place: Place1) -> None:
    place.locate()
    place.ends()
    place.reply()
    assert place.figure(StoreGauge.ENTRIES) == 1
    place.now_s += 25 * 3600 + 1
    place.store._sweep()
    assert place.figure(StoreGauge.ENTRIES) == 0


def test_the_replies_of_a_topic_that_was_made_anew_expire_as_well(place: Place1) -> None:
    """They would take room for ever, and in the end requests would be refused."""
    for topic_id in (TOPIC_ID, bytes(15) + b"2"):
        place.offsets = [0, 0]
        place.locate(topic_id=topic_id)
        place.ends()
        place.reply()
    assert place.figure(StoreGauge.ENTRIES) == 2
    place.now_s += 25 * 3600 + 1
    place.store._sweep()
    assert place.figure(StoreGauge.ENTRIES) == 0
    place.locate(topic_id=bytes(15) + b"3")
    place.reply()
    assert {source.topic for source in place.tables.positions()} == {bytes(15) + b"3"}


def test_each_partition_is_told_the_format_of_this_node(place: Place1) -> None:
    place.locate()
    assert place.announced == [(TOPIC_ID, [0, 1])]


def test_a_record_of_an_unknown_kind_is_counted_and_skipped(place: Place1) -> None:
    place.locate()
    place.ends()
    place.watch()
    place.control(Cancelled(ID), kind=b"postponed")
    assert (place.figure(StoreGauge.UNKNOWN), place.figure(StoreGauge.GARBAGE)) == (1, 0)
    assert (place.worker.known, place.store.topics.newer_layout) == ([Known.OPEN], 0)


def test_a_record_of_a_newer_format_is_told_and_outlives_the_store(place: Place1) -> None:
    place.locate()
    place.ends()
    place.control(Layout(control.LAYOUT))
    assert place.store.topics.newer_layout == 0
    place.control(Cancelled(ID), layout=3)
    place.control(Layout(2), layout=2)
    assert (place.store.topics.newer_layout, place.figure(StoreGauge.NEWER_LAYOUT)) == (3, 3)
    place.locate(ends=(0, 3))
    assert place.store.topics.newer_layout == 3, "a successor reads on behind the record"
    place.watch()
    assert place.worker.known == [Known.RESTORING], "the record decides nothing"


def test_a_newer_format_is_forgotten_with_its_records(place: Place1) -> None:
    place.locate()
    place.ends()
    place.control(Layout(2), layout=2)
    for _ in range(3):
        place.now_s += 30
        place.control(Layout(2), layout=2)
    assert place.figure(StoreGauge.ENTRIES) == 2, "one for each minute"
    place.now_s += 25 * 3600 - 10
    place.store._sweep()
    assert place.store.topics.newer_layout == 2
    place.now_s += 20
    place.store._sweep()
    assert place.store.topics.newer_layout == 0


def test_a_route_is_full_when_it_has_as_many_deferred_requests_as_it_may(place: Place1) -> None:
    place.locate()
    place.ends()
    place.store._sweep()
    asked = Watch(1, ID, HOME, place.now_ms + 60_000, "POST /o")
    for number in range(3):
        assert place.store.topics.full_routes == ()
        place.watch(10 + number)  # of a status URL
        place.store.watch(place.worker, msgspec.structs.replace(asked, number=number))  # type: ignore[arg-type]
    assert place.store.topics.full_routes == ("POST /o",)
    place.now_s += 24 * 3600
    place.store._sweep()
    assert place.store.topics.full_routes == ("POST /o",)
    place.now_s += 10
    place.store._sweep()
    assert place.store.topics.full_routes == ()


def test_while_space_is_short_values_are_left_in_the_topic(place: Place1) -> None:
    place.locate()
    place.ends()
    place.reply(b"x" * 1000)
    place.store._sweep()
    place.watch(1)
    assert place.values.wanted == []
    place.tables.max_bytes = 1
    place.store._sweep()
    place.watch(2)
    assert [wanted[:2] for wanted in place.values.wanted] == [(HOME, 0)]
