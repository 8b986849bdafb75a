"""The slots of the correlation table: claim and release, verdicts on replies, deadlines."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from fastgw import _ctable
from fastgw._ctable import (
    ANSWERED,
    CLAIMED,
    CLAIMING,
    DUPLICATE,
    ELSEWHERE,
    EXPIRED,
    FAILED,
    FORGED,
    FREE,
    LATE,
    RECORDED,
    RESTING,
    SENT,
)
from tests.actors.tables import ENDINGS, FAR_NS, MS, TICK_NS, TURN_NS, end, live_states, make, publish, slot_of

# ---- claim and release


def test_a_full_table_is_an_ordinary_answer_and_the_next_release_ends_it() -> None:
    slots = make(slots=3).open_range(0)
    tokens = [publish(slots, tag) for tag in range(3)]
    assert slots.claim() == -1
    assert slots.claim() == -1
    assert slots.in_flight == 3
    end(slots, tokens[1])
    assert slots.claim() == slot_of(tokens[1])


def test_slots_are_claimed_in_the_order_of_their_release() -> None:
    slots = make(slots=4).open_range(0)
    tokens = [publish(slots, tag) for tag in range(4)]
    for i in (2, 0, 3, 1):
        end(slots, tokens[i])
    assert [slots.claim() for _ in range(4)] == [2, 0, 3, 1]


def test_a_freed_slot_rests_while_all_others_are_used_once() -> None:
    slots = make(slots=5).open_range(0)
    seen = []
    for tag in range(15):
        token = publish(slots, tag)
        seen.append(slot_of(token))
        end(slots, token)
    assert seen == [0, 1, 2, 3, 4] * 3


def test_an_abandoned_claim_leaves_what_the_slot_knew() -> None:
    slots = make(slots=1).open_range(0)
    token = publish(slots, 7)
    assert slots.resolve(0, 7) == token
    slots.release(token)
    slots.abandon(slots.claim())
    assert slots.resolve(0, 7) == DUPLICATE
    assert slots.in_flight == 0
    with pytest.raises(
        ValueError, match=r"abandon of slot 0: expected a claimed slot of this range, got state resting"
    ):
        slots.abandon(0)


def test_a_token_of_an_earlier_occupant_does_nothing_to_the_next() -> None:
    slots = make(slots=1).open_range(0)
    stale = publish(slots, 1)
    end(slots, stale)
    token = publish(slots, 2)
    assert stale != token
    assert slot_of(stale) == slot_of(token)
    assert not slots.sent(stale, 5)
    assert not slots.recorded(stale, 5)
    assert slots.finish(stale, EXPIRED) == -1
    with pytest.raises(ValueError, match="not stale"):
        slots.times(stale)
    with pytest.raises(ValueError, match="expected an occupancy that has ended, got state claimed, sequence number 2"):
        slots.release(stale)
    assert slots.times(token) == (1, 0, 0, FAR_NS)
    assert slots.finish(token, EXPIRED) == CLAIMED


def test_releasing_twice_or_too_early_is_an_error_that_changes_nothing() -> None:
    slots = make(slots=2).open_range(0)
    token = publish(slots, 1)
    with pytest.raises(ValueError, match="got state claimed"):
        slots.release(token)
    end(slots, token)
    for _ in range(3):
        with pytest.raises(ValueError, match="got state resting"):
            slots.release(token)
    assert slots.in_flight == 0
    assert [slots.claim(), slots.claim(), slots.claim()] == [1, 0, -1]


@pytest.mark.parametrize("token", [-1, 0, 1, 2**20 - 1, 2**52 - 1, 2**62])
def test_a_token_that_was_never_given_is_nobodys(token: int) -> None:
    slots = make(slots=2).open_range(0)
    assert slots.finish(token, EXPIRED) == -1
    assert not slots.sent(token, 1)
    with pytest.raises(ValueError, match="release of token"):
        slots.release(token)


@pytest.mark.parametrize("slot", [-1, 0, 1, 4, 2**20, 2**40])
def test_only_a_claimed_slot_of_the_own_range_can_be_published(slot: int) -> None:
    owner = make(slots=2)
    owner.open_range(0).claim()
    slots = owner.open_range(1)  # slots 2 and 3
    with pytest.raises(ValueError, match="expected a claimed slot of this range"):
        slots.publish(slot, 1, 0, 0, 1, 1)


@pytest.mark.parametrize("tag", [2**62, 2**64 - 1])
def test_a_tag_has_62_bits(tag: int) -> None:
    slots = make().open_range(0)
    slot = slots.claim()
    with pytest.raises(ValueError, match="62 bits"):
        slots.publish(slot, tag, 0, 0, 1, 1)
    slots.abandon(slot)


@pytest.mark.parametrize("state", [FREE, CLAIMING, CLAIMED, SENT, RECORDED, _ctable.RECLAIMED, RESTING, -1, 99])
def test_only_an_ending_finishes(state: int) -> None:
    slots = make().open_range(0)
    token = publish(slots, 1)
    with pytest.raises(ValueError, match="expected an ending"):
        slots.finish(token, state)
    assert slots.finish(token, EXPIRED) == CLAIMED


@pytest.mark.parametrize("advances", [(), ("sent",), ("recorded",), ("sent", "recorded")])
@pytest.mark.parametrize("ending", ENDINGS)
def test_finish_returns_how_far_the_request_had_come(advances: tuple[str, ...], ending: int) -> None:
    owner = make(slots=1)
    slots = owner.open_range(0)
    token = publish(slots, 1)
    for advance in advances:
        assert getattr(slots, advance)(token, 7)
    was = {"sent": SENT, "recorded": RECORDED}[advances[-1]] if advances else CLAIMED
    assert slots.finish(token, ending) == was
    assert slots.finish(token, ending) == -1
    assert owner.states(0) == {ending: 1}
    assert not slots.sent(token, 8)
    assert not slots.recorded(token, 8)


def test_settling_counts_the_ending_and_each_phase_and_releases() -> None:
    table = make(slots=2)
    slots = table.open_range(0)
    token = slots.publish(slots.claim(), 7, 3, 0, FAR_NS, 1 * MS)
    slots.sent(token, 2 * MS)
    slots.recorded(token, 5 * MS)
    assert slots.resolve(slot_of(token), 7) == token
    assert slots.settle(token, 20, 12 * MS) == 7 * MS
    assert table.endings(3)[20] == sum(table.endings(3)) == 1
    sums = [table.histogram(3, phase)[1] for phase in range(_ctable.PHASES)]
    assert sums == [3 * MS, 7 * MS, 11 * MS]
    assert slots.in_flight == 0
    with pytest.raises(ValueError, match="expected an occupancy that has ended"):
        slots.settle(token, 20, 12 * MS)
    assert sum(table.endings(3)) == 1


@pytest.mark.parametrize(("status", "place"), [(200, 0), (399, 1), (400, 2), (599, 3)])
def test_settling_an_answer_counts_the_class_of_its_status_and_the_ending(status: int, place: int) -> None:
    table = make(slots=2)
    slots = table.open_range(0)
    token = slots.publish(slots.claim(), 7, 3, 0, FAR_NS, 1 * MS)
    slots.resolve(slot_of(token), 7)
    assert slots.settle_answered(token, status, 4 * MS) == -1
    assert table.answered(3) == tuple(int(at == place) for at in range(_ctable.CLASSES))
    assert table.endings(3)[0] == sum(table.endings(3)) == 1
    assert sum(table.histogram(3, _ctable.TOTAL)[0]) == 1
    assert slots.in_flight == 0


@pytest.mark.parametrize("status", [199, 600, -1])
def test_settling_a_status_that_is_none_is_an_error_that_changes_nothing(status: int) -> None:
    slots = make(slots=1).open_range(0)
    token = publish(slots, 7)
    slots.resolve(slot_of(token), 7)
    with pytest.raises(ValueError, match=r"expected 200\.\.599"):
        slots.settle_answered(token, status, 4 * MS)
    assert slots.in_flight == 1


def test_settling_what_was_never_acknowledged_counts_its_whole_time_alone() -> None:
    table = make(slots=2)
    slots = table.open_range(0)
    token = slots.publish(slots.claim(), 7, 3, 0, FAR_NS, 1 * MS)
    slots.resolve(slot_of(token), 7)
    assert slots.settle(token, 0, 4 * MS) == -1
    assert [sum(table.histogram(3, phase)[0]) for phase in range(_ctable.PHASES)] == [0, 0, 1]


def test_settling_too_early_or_by_a_stale_token_is_an_error_that_changes_nothing() -> None:
    table = make(slots=1)
    slots = table.open_range(0)
    token = publish(slots, 7)
    with pytest.raises(ValueError, match="expected an occupancy that has ended"):
        slots.settle(token, 0, 4 * MS)
    end(slots, token)
    publish(slots, 8)
    with pytest.raises(ValueError, match="not stale"):
        slots.settle(token, 0, 4 * MS)
    assert sum(table.endings(0)) == 0


def test_a_delivery_report_after_the_reply_changes_nothing() -> None:
    slots = make().open_range(0)
    token = publish(slots, 1)
    slots.sent(token, 5)
    assert slots.resolve(slot_of(token), 1) == token
    assert not slots.recorded(token, 6)
    assert slots.times(token) == (1, 5, 0, FAR_NS)


# ---- the verdict on a reply


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("later_occupants", [0, 1, 2])
@pytest.mark.parametrize("phase", ["ended", "resting", "claimed anew"])
def test_late_duplicate_and_forged_are_told_apart(ending: int, later_occupants: int, phase: str) -> None:
    """The current and the previous occupant of a slot are known; who came before is forged."""
    slots = make(slots=1).open_range(0)
    token = publish(slots, 1000)
    assert slots.finish(token, ending) >= 0
    for tag in range(later_occupants):
        slots.release(token)
        token = publish(slots, tag)
        assert slots.finish(token, FAILED) >= 0
    if phase != "ended":
        slots.release(token)
    if phase == "claimed anew":
        slots.claim()
    verdict = FORGED if later_occupants == 2 else DUPLICATE if ending == ANSWERED else LATE
    assert slots.resolve(0, 1000) == verdict
    assert slots.resolve(0, 1001) == FORGED


def test_a_reply_for_the_previous_occupant_leaves_the_live_one_alone() -> None:
    owner = make(slots=1)
    slots = owner.open_range(0)
    end(slots, publish(slots, 1), EXPIRED)
    token = publish(slots, 2)
    assert slots.resolve(0, 1) == LATE
    assert slots.resolve(0, 3) == FORGED
    assert live_states(owner) == {slot_of(token): CLAIMED}
    assert slots.resolve(0, 2) == token


@pytest.mark.parametrize("tag", [0, 1, 2**60 - 1])
@pytest.mark.parametrize("claimed", [False, True])
def test_a_slot_that_nobody_used_knows_nobody(tag: int, claimed: bool) -> None:
    owner = make(slots=1)
    slots = owner.open_range(0)
    if claimed:
        slots.claim()
    assert slots.resolve(0, tag) == FORGED
    if claimed:
        assert owner.reclaim(0) == (0, 1)
        assert owner.open_range(0).resolve(0, tag) == FORGED


@pytest.mark.parametrize("slot", [-1, 0, 1, 4, 2**20, 2**62])
def test_a_slot_of_another_range_is_forged(slot: int) -> None:
    owner = make(slots=2)
    other = owner.open_range(0)
    publish(other, 5)
    assert owner.open_range(1).resolve(slot, 5) == FORGED


@pytest.mark.parametrize("tag", [2**60, 2**62 - 1, 2**64 - 1])
def test_a_reply_whose_id_names_another_topic_is_for_the_reader_of_that_topic(tag: int) -> None:
    owner = make(slots=1)
    slots = owner.open_range(0)
    token = publish(slots, tag % 2**62)
    assert slots.resolve(0, tag) == ELSEWHERE
    assert live_states(owner) == {0: CLAIMED}
    assert slots.resolve_elsewhere(0, tag % 2**62) == token


@pytest.mark.parametrize("tag", [0, 2**60 - 1])
def test_the_first_and_the_last_tag_are_tags_like_others(tag: int) -> None:
    slots = make(slots=1).open_range(0)
    token = publish(slots, tag)
    assert slots.resolve(0, tag) == token
    slots.release(token)
    assert slots.resolve(0, tag) == DUPLICATE
    publish(slots, 5)
    assert slots.resolve(0, tag) == DUPLICATE


# ---- deadlines


@pytest.mark.parametrize(
    "deadline_ns",
    [1, TICK_NS - 1, TICK_NS, TICK_NS + 1, 100 * MS, TURN_NS - 1, TURN_NS, TURN_NS + 1, 3 * TURN_NS + 12345],
)
@pytest.mark.parametrize("sweep_every_ns", [1 * MS, 10 * MS, 10 * TURN_NS])
def test_a_deadline_is_reported_at_its_nanosecond_and_not_before(deadline_ns: int, sweep_every_ns: int) -> None:
    slots = make().open_range(0)
    start = 123_456_789_012
    assert slots.expired(start, 10) == []
    token = publish(slots, 1, start + deadline_ns, start)
    now = start
    while now + sweep_every_ns < start + deadline_ns:
        now += max(sweep_every_ns, (start + deadline_ns - now) // 64)  # as finely as asked, but a short test
        if now < start + deadline_ns:
            assert slots.expired(now, 10) == []
    assert slots.expired(start + deadline_ns - 1, 10) == []
    assert slots.expired(start + deadline_ns, 10) == [token]


@pytest.mark.parametrize("first_sweep", [True, False])
@pytest.mark.parametrize("ago_ns", [0, 1, TICK_NS, TURN_NS, 100 * TURN_NS])
def test_a_deadline_that_has_passed_is_reported_by_the_next_sweep(first_sweep: bool, ago_ns: int) -> None:
    slots = make().open_range(0)
    now = 1000 * TURN_NS + 17
    if first_sweep:
        slots.expired(now, 1)
    token = publish(slots, 1, now - ago_ns, now)
    assert slots.expired(now, 10) == [token]


def test_after_a_long_pause_one_sweep_finds_all_that_is_due() -> None:
    slots = make(slots=1000).open_range(0)
    start = 7 * TURN_NS
    slots.expired(start, 1)
    tokens = [publish(slots, i, start + i * 10 * MS, start) for i in range(1000)]  # ten seconds
    late = start + 50 * TURN_NS
    assert sorted(slots.expired(late, 1000)) == sorted(tokens)


def test_a_pause_of_many_turns_costs_no_more_than_one() -> None:
    """A sweep that looked at each tick since the clock began would not end within the life of this test."""
    slots = make(slots=2).open_range(0)
    assert slots.expired(2**62, 1) == []
    token = publish(slots, 1, 2**63, 2**62)
    assert slots.expired(2**63 - 1, 1) == []
    assert slots.expired(2**63, 1) == [token]


def test_a_sweep_reports_no_more_than_asked_and_the_next_goes_on() -> None:
    slots = make(slots=100).open_range(0)
    tokens = {publish(slots, i, 50 + i, 1) for i in range(100)}
    found: list[int] = []
    while batch := slots.expired(1000, 7):
        assert len(batch) <= 7
        for token in batch:
            end(slots, token, EXPIRED)
        found += batch
    assert len(found) == 100
    assert set(found) == tokens
    assert slots.expired(1000, 0) == []
    assert slots.expired(1000, -1) == []


def test_what_is_not_finished_is_reported_again_behind_the_others() -> None:
    slots = make(slots=6).open_range(0)
    tokens = [publish(slots, i, 50, 1) for i in range(6)]
    seen = slots.expired(100, 2) + slots.expired(100, 2) + slots.expired(100, 2)
    assert sorted(seen) == sorted(tokens)
    assert sorted(slots.expired(100, 10)) == sorted(tokens)


def test_ended_and_released_slots_are_not_reported() -> None:
    slots = make(slots=3).open_range(0)
    answered, released, waiting = (publish(slots, i, 50, 1) for i in range(3))
    assert slots.resolve(slot_of(answered), 0) == answered
    end(slots, released)
    assert slots.expired(100, 10) == [waiting]
    slots.release(answered)
    assert slots.in_flight == 1


def test_many_deadlines_of_later_turns_delay_the_others_by_a_few_sweeps_at_most() -> None:
    """30,000 slots share a bucket with one that is due: a sweep visits 4096 and the limit, so eight find it."""
    slots = make(slots=30_001).open_range(0)
    start = TURN_NS
    slots.expired(start, 1)
    for tag in range(30_000):
        publish(slots, tag, start + 2 * TURN_NS, start)
    due = publish(slots, 99_999, start + TURN_NS, start)
    sweeps = 1
    while not (found := slots.expired(start + TURN_NS, 64)):
        sweeps += 1
        assert sweeps <= 8
    assert found == [due]
    end(slots, due, EXPIRED)
    total = 0
    while batch := slots.expired(start + 2 * TURN_NS, 1000):
        total += len(batch)
        for token in batch:
            end(slots, token, EXPIRED)
    assert total == 30_000


def test_live_before_counts_who_still_waits_since_then() -> None:
    slots = make(slots=4).open_range(0)
    first, second, _third = (publish(slots, i, now_ns=10 * (i + 1)) for i in range(3))
    assert [slots.live_before(ns) for ns in (10, 11, 21, 31)] == [0, 1, 2, 3]
    slots.finish(second, EXPIRED)
    assert slots.live_before(31) == 2
    end(slots, first)
    slots.release(second)
    assert slots.live_before(31) == 1


def test_100_000_requests_that_nobody_answers_leak_nothing() -> None:
    owner = make(slots=64)
    slots = owner.open_range(0)
    now, done = 10**12, 0
    memory_before = resident_bytes()
    for tag in range(100_000):
        token = publish(slots, tag, now + 5 * MS, now)
        slots.sent(token, now)
        now += MS
        for due in slots.expired(now, 64):
            assert slots.finish(due, EXPIRED) == SENT
            assert slots.resolve(slot_of(due), tag - 4) == LATE
            slots.release(due)
            done += 1
    assert done == 100_000 - slots.in_flight
    assert slots.in_flight == 4
    assert owner.states(0) == {SENT: 4, RESTING: 60}
    assert resident_bytes() - memory_before < 2**20
    for due in slots.expired(now + 100 * MS, 64):
        end(slots, due, EXPIRED)
    assert sorted(slots.claim() for _ in range(64)) == list(range(64))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
