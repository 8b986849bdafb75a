"""The keys of the store with its real tables: what workers are told, and what a successor knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.dialects import control
from fastgw.dialects.control import Claim, Layout, Place, Released
from fastgw.ids import IdMaker, Partitioner, ReplyTopic
from fastgw.kept_replies import KeyKnown, KeyState, Known
from fastgw.mesh.store_frames import HoldingWatch, KeyWatch
from fastgw.messages import Reply, StoreGauge
from fastgw.store.store import Store
from fastgw.store.tables import PLACES_MAX
from fastgw.store.topic_reader import Arrived, Batch
from fastgw.tokens import Secrets
from tests.store import test_store
from tests.store.test_store import PARTITIONS, SECRETS, TOPIC_ID

TAKE_OVER_MS, KEEP_MS = 15_000, 3_600_000
HASH = bytes(7) + b"\x01" + bytes(24)
LANE = control.lane_of(HASH, PARTITIONS)
FINGERPRINT = b"f" * 32
ROUTE = "POST /o"
MAKER = IdMaker(1, 0, 0, ReplyTopic.LATER)
MAKER.set_ownership(PARTITIONS, [LANE], LANE)


def new_id() -> bytes:
    return MAKER.make(0, Partitioner.HEADER)


def claim(raw: bytes, replaces: bytes = b"", fingerprint: bytes = FINGERPRINT, lanes: int = PARTITIONS) -> Claim:
    attempt = 2 if replaces else 1
    return Claim(raw, HASH, fingerprint, attempt, replaces, lanes, TAKE_OVER_MS, KEEP_MS, ROUTE, "plain")


class Worker:
    """A connection of a worker."""

    def __init__(self) -> None:
        self.told: list[KeyState] = []

    def tell(self, state: KeyState) -> None:
        self.told.append(state)

    @property
    def known(self) -> list[KeyKnown]:
        return [KeyKnown(state.known) for state in self.told]


class Place1(test_store.Place1):
    """A store whose lanes are the partitions of its topic."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(test_store, "CONFIG", test_store.CONFIG + f"[later]\nlanes = {PARTITIONS}\n")
        super().__init__(folder, loop, monkeypatch)
        self.other = Worker()
        self.raw = new_id()

    def opens(self) -> None:
        self.locate()
        self.ends()

    def follows(self, worker: Worker | None = None, number: int = 1) -> Worker:
        worker = worker or self.other
        self.store.watch_key(worker, KeyWatch(number, HASH, LANE, ROUTE))  # type: ignore[arg-type]
        return worker

    def writes(self, what: Claim | Released, secrets: Secrets = SECRETS) -> None:
        record = control.encode(what, secrets, Place("shop.later", TOPIC_ID, LANE))
        key, offset = record.key or b"", self.offsets[LANE]
        self.record(Reply(key, LANE, offset, record.headers, record.value))

    def answers(self, raw: bytes, status: bytes = b"200", value: bytes = b"done") -> None:
        self.record(Reply(raw, LANE, self.offsets[LANE], [("status", status)], value))

    def successor(self) -> Store:
        """Another store with the same tables, as after a crash."""
        loop = asyncio.new_event_loop()
        store = Store(self.store.config, SECRETS, self.tables, self.values, self.table, loop, self.announce)
        self.store = store
        self.locate(ends=(self.offsets[0], self.offsets[1]))
        self.ends()
        return store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place1]:
    loop = asyncio.new_event_loop()
    one = Place1(tmp_path, loop, monkeypatch)
    yield one
    one.tables.close()
    loop.close()


def test_a_key_is_followed_from_its_claim_to_its_answer(place: Place1) -> None:
    place.opens()
    worker = place.follows()
    place.writes(claim(place.raw))
    place.answers(place.raw, b"201", b"paid")
    assert worker.known == [KeyKnown.FREE, KeyKnown.HELD, KeyKnown.ANSWERED]
    held, answered = worker.told[1:]
    assert (held.ids, held.fingerprint, held.attempt) == ((place.raw,), FINGERPRINT, 1)
    assert held.take_over_in_ms == TAKE_OVER_MS
    assert (answered.ids, answered.fingerprint) == ((place.raw,), FINGERPRINT)
    assert (answered.partition, answered.offset) == (LANE, 1)
    assert (answered.headers, answered.value) == ([("status", b"201")], b"paid")
    assert place.figure(StoreGauge.KEYS) == 1


def test_who_asks_later_is_told_the_present_state(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.now_s += 5
    (held,) = place.follows().told
    assert (held.known, held.take_over_in_ms) == (KeyKnown.HELD, TAKE_OVER_MS - 5000)
    place.answers(place.raw)
    (answered,) = place.follows(Worker()).told
    assert (answered.known, answered.value) == (KeyKnown.ANSWERED, b"done")


def test_a_claim_that_loses_is_told_after_the_state_to_which_it_has_lost(place: Place1) -> None:
    place.opens()
    worker, loser = place.follows(), new_id()
    place.writes(claim(place.raw))
    place.now_s += 5
    place.writes(claim(loser))
    assert worker.known == [KeyKnown.FREE, KeyKnown.HELD, KeyKnown.HELD, KeyKnown.LOST]
    again, lost = worker.told[2:]
    assert (again.ids, again.take_over_in_ms) == ((place.raw,), TAKE_OVER_MS - 5000)
    assert lost.ids == (loser,)


def test_another_attempt_wins_when_it_is_time_and_not_before(place: Place1) -> None:
    place.opens()
    early, second = new_id(), new_id()
    place.writes(claim(place.raw))
    worker = place.follows()
    place.now_s += TAKE_OVER_MS / 1000 - 0.001
    place.writes(claim(early, place.raw))
    assert worker.known[-1] == KeyKnown.LOST
    assert worker.told[-2].take_over_in_ms == 1
    place.now_s += 0.001
    place.writes(claim(second, place.raw))
    assert (worker.told[-1].ids, worker.told[-1].attempt) == ((second, place.raw), 2)


@pytest.mark.parametrize(
    ("status", "known"),
    [
        (b"200", KeyKnown.ANSWERED),
        (b"499", KeyKnown.ANSWERED),
        (b"500", KeyKnown.FREED),
        (b'"503"', KeyKnown.FREED),
        (b"nonsense", KeyKnown.ANSWERED),
        (b"", KeyKnown.ANSWERED),
    ],
)
def test_the_bytes_of_the_status_decide_what_a_reply_is(place: Place1, status: bytes, known: KeyKnown) -> None:
    place.opens()
    worker = place.follows()
    place.writes(claim(place.raw))
    place.answers(place.raw, status, b"it")
    told = worker.told[-1]
    assert (told.known, told.ids, told.offset, told.value) == (known, (place.raw,), 1, b"it")


def test_a_release_frees_the_key_and_has_no_reply(place: Place1) -> None:
    place.opens()
    worker = place.follows()
    place.writes(claim(place.raw))
    place.writes(Released(place.raw, HASH))
    assert (worker.known[-1], worker.told[-1].offset) == (KeyKnown.FREED, -1)
    assert place.follows(Worker()).known == [KeyKnown.FREE]


def test_a_forged_claim_holds_nothing(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw), Secrets([b"another secret of at least 32 bytes!"]))
    assert place.follows().known == [KeyKnown.FREE]
    assert place.figure(StoreGauge.GARBAGE) == 1


def test_the_keys_of_a_route_are_counted(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.answers(place.raw)
    other = HASH[:7] + b"\x03" + HASH[8:]
    place.store.watch_key(place.other, KeyWatch(1, other, LANE, ROUTE))  # type: ignore[arg-type]
    place.store.watch_key(place.other, KeyWatch(2, other, LANE, "another"))  # type: ignore[arg-type]
    assert [state.kept for state in place.other.told] == [1, 0]


def test_a_large_answer_is_read_from_the_topic(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.answers(place.raw, value=b"x" * 5000)
    worker = place.follows()
    assert worker.told == []
    ((partition, offset, on_value),) = place.values.wanted
    assert (partition, offset) == (LANE, 1)
    on_value(b"x" * 5000)
    assert (worker.known, worker.told[0].value) == ([KeyKnown.ANSWERED], b"x" * 5000)
    place.follows(worker, 2)
    place.values.wanted[-1][2](None)
    assert worker.known[-1] == KeyKnown.BEHIND, "Kafka does not give it"


def test_a_successor_knows_what_is_held_answered_released_and_replaced(place: Place1) -> None:
    place.opens()
    place.writes(Released(place.raw, HASH))
    place.writes(claim(place.raw))
    place.successor()
    assert place.follows().known == [KeyKnown.FREE], "the release was before its claim"
    first, second = new_id(), new_id()
    place.writes(claim(first))
    place.now_s += TAKE_OVER_MS / 1000
    place.writes(claim(second, first))
    place.successor()
    held = place.follows(Worker()).told[0]
    assert (held.ids, held.attempt, held.take_over_in_ms) == ((second, first), 2, TAKE_OVER_MS)
    place.answers(first, value=b"of the first")
    place.successor()
    answered = place.follows(Worker()).told[0]
    assert (answered.known, answered.ids, answered.value) == (KeyKnown.ANSWERED, (first,), b"of the first")


def test_a_successor_knows_the_first_reply_whatever_number_of_others_came_after_it(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.answers(place.raw, value=b"first")
    after, many = place.offsets[LANE], PLACES_MAX + 1
    replies = [Arrived(Reply(place.raw, LANE, after + n, [], b"again"), place.now_ms) for n in range(many)]
    place.offsets[LANE] = after + many
    place.store.took(Batch(replies, {LANE: place.offsets[LANE]}, {}))
    place.successor()
    (answered,) = place.follows().told
    assert (answered.known, answered.offset, answered.value) == (KeyKnown.ANSWERED, after - 1, b"first")


def test_a_successor_knows_a_reply_whose_value_is_only_in_the_topic(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.answers(place.raw, b"500", b"x" * 5000)
    place.successor()
    assert place.follows().known == [KeyKnown.FREE]


def test_the_claim_of_an_answer_is_kept_as_long_as_the_answer(place: Place1) -> None:
    """Otherwise a successor would not know the key."""
    place.opens()
    place.writes(claim(place.raw))
    place.now_s += TAKE_OVER_MS / 1000 - 1
    place.answers(place.raw)
    place.now_s += KEEP_MS / 1000 - 1
    place.store._sweep()
    place.successor()
    assert place.follows().known == [KeyKnown.ANSWERED]
    place.now_s += 2
    assert place.follows(Worker()).known == [KeyKnown.FREE]


def test_before_a_lane_was_read_nothing_is_said_about_its_keys(place: Place1) -> None:
    place.locate(ends=(0, 5))
    worker = place.follows()
    assert worker.known == [KeyKnown.RESTORING]
    place.offsets = [0, 5]
    place.ends()
    assert worker.known == [KeyKnown.RESTORING, KeyKnown.FREE], "it is told again"
    place.store.lost()
    assert place.follows(Worker()).known == [KeyKnown.BEHIND]


def test_what_happened_before_the_lane_was_read_to_its_end_is_no_news(place: Place1) -> None:
    """A store without tables reads yesterday's answer first, and then who holds the key now."""
    place.locate(ends=(0, 3))
    yesterday, now = new_id(), new_id()
    worker = place.follows()
    place.writes(claim(yesterday))
    place.answers(yesterday, value=b"yesterday's")
    place.now_s += KEEP_MS / 1000
    place.writes(claim(now))
    assert worker.known == [KeyKnown.RESTORING]
    place.ends()
    assert worker.known == [KeyKnown.RESTORING, KeyKnown.HELD]
    assert worker.told[-1].ids == (now,)


def test_a_topic_that_was_made_anew_has_no_keys(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.locate(topic_id=bytes(16))
    place.offsets = [0, 0]
    place.ends()
    assert place.follows().known == [KeyKnown.FREE]


def test_a_lane_that_ends_before_what_was_read_is_built_again(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.locate(ends=(0, 0))
    place.offsets = [0, 0]
    place.ends()
    assert place.follows().known == [KeyKnown.FREE]


def test_another_number_of_partitions_than_lanes_serves_no_keys(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    place.store.located(test_store.Located(TOPIC_ID, {0: (0, 0), 1: (0, 1), 2: (0, 0)}))
    assert place.store._keys.lanes == {}
    assert place.follows().known == [KeyKnown.RESTORING]


def test_another_number_of_lanes_on_another_node_is_told(place: Place1) -> None:
    place.opens()
    assert place.store.topics.other_lanes == 0
    place.writes(claim(place.raw, lanes=4))
    assert place.store.topics.other_lanes == 4


def test_nothing_is_told_behind_the_end_of_a_watch_or_a_connection(place: Place1) -> None:
    place.opens()
    first, second = place.follows(), place.follows(Worker())
    place.store.unwatch(first, 1)  # type: ignore[arg-type]
    place.store.gone(second)  # type: ignore[arg-type]
    place.writes(claim(place.raw))
    assert (first.known, second.known) == ([KeyKnown.FREE], [KeyKnown.FREE])
    assert place.figure(StoreGauge.WATCHES) == 0


def test_with_a_newer_format_in_the_log_no_claim_wins_here_and_no_state_is_told(place: Place1) -> None:
    place.opens()
    worker = place.follows()
    place.writes(claim(place.raw))
    place.control(Layout(2), layout=2)
    other = place.follows(Worker())
    assert other.known == [KeyKnown.NEWER_LAYOUT]
    place.answers(place.raw)
    assert worker.known == [KeyKnown.FREE, KeyKnown.HELD, KeyKnown.ANSWERED], "what was sent before gets its answer"
    place.now_s += 2 * KEEP_MS / 1000
    place.writes(claim(new_id()))
    assert worker.known[3:] == [], "another claim may have won, which this node could not read"


# --- status URLs of keys


def holding_of(place: Place1, number: int = 7, first: bytes = b"", until_ms: int = 0) -> test_store.Worker:
    """A worker that asks what became of the holding that began with this attempt."""
    until_ms = until_ms or place.now_ms + TAKE_OVER_MS
    worker = test_store.Worker()
    place.store.watch_holding(worker, HoldingWatch(number, HASH, LANE, first or place.raw, until_ms))  # type: ignore[arg-type]
    return worker


def test_a_holding_is_followed_from_its_first_claim_over_a_take_over_to_its_answer(place: Place1) -> None:
    place.opens()
    early = holding_of(place)
    assert early.known == [Known.OPEN], "another node may have read the claim already"
    place.writes(claim(place.raw))
    place.now_s += TAKE_OVER_MS / 1000
    second = new_id()
    place.writes(claim(second, replaces=place.raw))
    (held,) = place.follows().told
    assert (held.ids[0], held.first_id) == (second, place.raw)
    late = holding_of(place, until_ms=place.now_ms)
    place.answers(second, b"200", b"done")
    for worker in (early, late):
        assert worker.known == [Known.OPEN, Known.ANSWERED]
        assert (worker.told[-1].value, worker.told[-1].offset) == (b"done", 2)
    assert holding_of(place).known == [Known.ANSWERED]
    place.successor()
    assert holding_of(place).known == [Known.ANSWERED]


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_a_holding_that_was_freed_has_the_reply_that_has_freed_it_whoever_holds_the_key_next(
    place: Place1, is_taken_over: bool
) -> None:
    place.opens()
    last, until_ms = place.raw, place.now_ms + TAKE_OVER_MS
    place.writes(claim(place.raw))
    if is_taken_over:
        place.now_s += TAKE_OVER_MS / 1000
        last = new_id()
        place.writes(claim(last, replaces=place.raw))
    waiting = holding_of(place, until_ms=until_ms)
    place.answers(last, b"500", b"broken")
    next_one = new_id()
    place.writes(claim(next_one, fingerprint=b"g" * 32))
    place.answers(next_one, b"200", b"of another request")
    for worker in (waiting, holding_of(place, until_ms=until_ms)):
        assert (worker.known[-1], worker.told[-1].value) == (Known.ANSWERED, b"broken")
    assert holding_of(place, first=next_one).told[-1].value == b"of another request"
    place.successor()
    assert holding_of(place, until_ms=until_ms).told[-1].value == b"broken"


def test_a_holding_whose_claim_was_released_says_so(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    waiting = holding_of(place)
    place.writes(Released(place.raw, HASH))
    assert waiting.known == [Known.OPEN, Known.RELEASED]
    place.now_s += 2 * 3600
    assert holding_of(place, until_ms=place.now_ms).known == [Known.RELEASED], "also when the release is forgotten"


def test_a_holding_is_expired_when_its_holder_had_its_time(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    until_ms = place.now_ms + TAKE_OVER_MS
    place.now_s += TAKE_OVER_MS / 1000 + 4
    place.pulse()
    assert holding_of(place, until_ms=until_ms).known == [Known.OPEN], "Kafka may have more"
    place.now_s += 1
    place.pulse()
    assert holding_of(place, until_ms=until_ms).known == [Known.EXPIRED]
    second = new_id()
    place.writes(claim(second, replaces=place.raw))
    assert holding_of(place, until_ms=until_ms).known == [Known.OPEN], "it goes on"


def test_nothing_is_left_of_watches_on_holdings(place: Place1) -> None:
    place.opens()
    place.writes(claim(place.raw))
    one, other = holding_of(place), holding_of(place)
    assert place.figure(StoreGauge.WATCHES) == 2
    place.store.unwatch(one, 7)  # type: ignore[arg-type]
    place.store.gone(other)  # type: ignore[arg-type]
    place.answers(place.raw)
    assert (one.known, other.known) == ([Known.OPEN], [Known.OPEN])
    assert place.figure(StoreGauge.WATCHES) == 0


def test_a_holding_is_told_again_when_its_lane_was_read(place: Place1) -> None:
    place.locate(ends=(5, 5))
    worker = holding_of(place)
    assert worker.known == [Known.RESTORING]
    place.offsets = [5, 5]
    place.ends()
    assert worker.known == [Known.RESTORING, Known.OPEN]
