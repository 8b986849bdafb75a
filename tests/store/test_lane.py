"""The rules of idempotency keys, one by one, and on any log: all readers agree, and so does the reference."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.dialects.control import Cancelled, Claim, Released
from fastgw.store import lane as rules
from fastgw.store.lane import (
    Answered,
    Event,
    Freed,
    Grade,
    GradedReply,
    Held,
    KeyAnswered,
    Lane,
    Lost,
    NoEffect,
    Why,
    Won,
)
from tests.store.lane_reference import Entry, Said, replay

MINUTE, HOUR = 60_000, 3_600_000
TAKE_OVER, KEEP = 10 * MINUTE, 2 * HOUR
KEYS = [bytes([number]) * 32 for number in range(2)]
PRINTS = [b"f" * 32, b"g" * 32]


def named(number: int) -> bytes:
    """The correlation id of a request."""
    return b"00000001-0000-8000-8000-%012x" % number


def claim(number: int, attempt: int = 1, replaces: int | None = None, **changed) -> Claim:
    before = b"" if replaces is None else named(replaces)
    whole = Claim(named(number), KEYS[0], PRINTS[0], attempt, before, 8, TAKE_OVER, KEEP, "pay", "plain")
    return whole._replace(**changed)


def released(number: int, key_hash: bytes = KEYS[0]) -> Released:
    return Released(named(number), key_hash)


def reply(number: int, grade: Grade = Grade.BELOW_500) -> GradedReply:
    return GradedReply(named(number), grade)


def events(*log: tuple[int, rules.Record]) -> list[Event | None]:
    """What each record does; the first of a pair is its append time."""
    lane = Lane()
    return [lane.apply(offset, at_ms, record) for offset, (at_ms, record) in enumerate(log)]


def last(*log: tuple[int, rules.Record]) -> Event | None:
    return events(*log)[-1]


# --- each rule ------------------------------------------------------------------------------------------------------


def test_the_first_claim_of_a_free_key_wins():
    assert last((5, claim(1))) == Won(KEYS[0], Held(claim(1), 0, 5))


def test_a_second_claim_joins_the_holder():
    event = last((5, claim(1)), (5, claim(2)))
    assert event == Lost(KEYS[0], named(2), Why.HELD, Held(claim(1), 0, 5))


def test_another_request_under_the_same_key_is_told_apart_while_it_is_held_and_when_it_is_answered():
    other = claim(2, fingerprint=PRINTS[1])
    assert last((0, claim(1)), (1, other)).why is Why.OTHER_FINGERPRINT
    assert last((0, claim(1)), (1, reply(1)), (2, other)).why is Why.OTHER_FINGERPRINT


def test_another_request_does_not_take_over():
    other = claim(2, 2, 1, fingerprint=PRINTS[1])
    assert last((0, claim(1)), (TAKE_OVER, other)).why is Why.OTHER_FINGERPRINT


def test_two_keys_do_not_know_each_other():
    assert isinstance(last((0, claim(1)), (0, claim(2, key_hash=KEYS[1]))), Won)


@pytest.mark.parametrize("grade", [Grade.BELOW_500, Grade.UNDECODABLE])
def test_a_reply_below_500_and_one_that_cannot_be_decoded_answer_the_key(grade):
    held, answered = Held(claim(1), 0, 0), Answered(claim(1), named(1), 1, 7, grade)
    log = [(0, claim(1)), (7, reply(1, grade))]
    assert last(*log) == KeyAnswered(KEYS[0], held, answered)
    assert last(*log, (8, claim(2))) == Lost(KEYS[0], named(2), Why.ANSWERED, answered)
    assert last(*log, (8, reply(1))) == NoEffect(Why.NOT_HOLDING), "only the first reply counts"


def test_an_answered_key_is_free_again_after_keep():
    log = [(0, claim(1)), (7, reply(1))]
    assert isinstance(last(*log, (7 + KEEP - 1, claim(2))), Lost)
    assert isinstance(last(*log, (7 + KEEP, claim(2))), Won)


def test_a_reply_of_500_to_the_holder_frees_the_key():
    log = [(0, claim(1)), (7, reply(1, Grade.FROM_500))]
    assert last(*log) == Freed(KEYS[0], Held(claim(1), 0, 0), 1)
    assert isinstance(last(*log, (7, claim(2))), Won)


def test_a_reply_counts_until_take_over():
    assert isinstance(last((0, claim(1)), (TAKE_OVER - 1, reply(1))), KeyAnswered)
    for grade in Grade:
        assert last((0, claim(1)), (TAKE_OVER, reply(1, grade))) == NoEffect(Why.TOO_LATE)


def test_the_next_attempt_wins_when_the_holder_has_had_its_time():
    assert last((0, claim(1)), (TAKE_OVER - 1, claim(2, 2, 1))).why is Why.TOO_EARLY
    event = last((0, claim(1)), (TAKE_OVER, claim(2, 2, 1)))
    assert event == Won(KEYS[0], Held(claim(2, 2, 1), 1, TAKE_OVER, named(1), 0))


def test_a_holding_has_the_name_of_its_first_attempt_however_often_it_is_taken_over():
    log = [(0, claim(1)), (TAKE_OVER, claim(2, 2, 1)), (2 * TAKE_OVER, claim(3, 3, 2))]
    held = last(*log).held
    assert (held.holding_id, held.holding_ms, held.attempts) == (named(1), 0, (named(3), named(2)))
    assert last(*log, (2 * TAKE_OVER, reply(3))).answered.holding_id == named(1)


def test_so_many_ended_holdings_of_a_key_are_remembered_and_no_more():
    lane, offset = Lane(), 0
    for number in range(rules.OVER_MAX + 1):
        for record in (claim(number), released(number)):
            lane.apply(offset, number, record)
            offset += 1
    assert lane.over(KEYS[0], named(0)) is None
    assert lane.over(KEYS[0], named(1)) == rules.Over(named(1), None, 1 + KEEP)
    assert lane.over(KEYS[1], named(1)) is None
    lane.apply(offset, 2 + KEEP, claim(100))
    lane.apply(offset + 1, 2 + KEEP, released(100))
    assert lane.over(KEYS[0], named(1)) is None, "its time is over"


def test_the_time_of_the_holder_is_the_one_that_its_claim_states():
    assert last((0, claim(1)), (MINUTE, claim(2, 2, 1, take_over_ms=1))).why is Why.TOO_EARLY


@pytest.mark.parametrize("other", [claim(3), claim(3, 3, 1), claim(3, 2, 2), claim(3, 3, 2)])
def test_only_the_next_attempt_that_names_the_holder_takes_over(other):
    assert last((0, claim(1)), (TAKE_OVER, other)).why is Why.HELD


def test_of_two_next_attempts_the_first_one_wins():
    log = [(0, claim(1)), (TAKE_OVER, claim(2, 2, 1)), (TAKE_OVER, claim(3, 2, 1))]
    assert [type(event) for event in events(*log)] == [Won, Won, Lost]


def test_a_reply_to_a_replaced_attempt_answers_but_does_not_free():
    log = [(0, claim(1)), (TAKE_OVER, claim(2, 2, 1))]
    assert last(*log, (TAKE_OVER, reply(1, Grade.FROM_500))) == NoEffect(Why.OLD_ATTEMPT)
    answered = last(*log, (TAKE_OVER, reply(1)))
    assert isinstance(answered, KeyAnswered)
    assert answered.answered.correlation_id == named(1)
    assert last(*log, (TAKE_OVER, reply(1)), (TAKE_OVER, reply(2))) == NoEffect(Why.NOT_HOLDING)


def test_an_attempt_of_an_earlier_holding_does_not_answer_a_later_one():
    log = [(0, claim(1)), (1, reply(1, Grade.FROM_500)), (2, claim(2))]
    assert last(*log, (3, reply(1))) == NoEffect(Why.NOT_HOLDING)


def test_a_reply_to_a_replaced_attempt_counts_for_half_an_hour_after_the_claim_that_replaces_it():
    log = [(0, claim(1)), (TAKE_OVER, claim(2, 2, 1, take_over_ms=KEEP))]
    assert isinstance(last(*log, (TAKE_OVER + rules.GRACE_MS - 1, reply(1))), KeyAnswered)
    assert last(*log, (TAKE_OVER + rules.GRACE_MS, reply(1))) == NoEffect(Why.TOO_LATE)
    assert isinstance(last(*log, (TAKE_OVER + rules.GRACE_MS, reply(2))), KeyAnswered)


def test_only_the_attempt_that_the_holder_replaces_is_still_waited_for():
    log = [(number * MINUTE, claim(number + 1, number + 1, number or None, take_over_ms=MINUTE)) for number in range(3)]
    assert all(isinstance(event, Won) for event in events(*log))
    counts = [isinstance(last(*log, (2 * MINUTE + 1, reply(number))), KeyAnswered) for number in (1, 2, 3)]
    assert counts == [False, True, True]


def test_a_claim_says_which_replies_count_even_if_the_attempt_before_it_is_not_in_the_log():
    answered = last((TAKE_OVER, claim(2, 2, 1)), (TAKE_OVER, reply(1)))
    assert isinstance(answered, KeyAnswered)
    assert answered.answered.correlation_id == named(1)


def test_a_release_frees_the_key():
    log = [(0, claim(1)), (1, released(1))]
    assert last(*log) == Freed(KEYS[0], Held(claim(1), 0, 0), None)
    assert isinstance(last(*log, (1, claim(2))), Won)


def test_a_release_counts_even_if_it_precedes_its_claim():
    log = [(0, released(1)), (1, claim(1))]
    assert last(*log) == Lost(KEYS[0], named(1), Why.RELEASED, None)
    assert isinstance(last(*log, (1, claim(2))), Won)
    assert isinstance(last((0, released(1, KEYS[1])), (1, claim(1))), Won), "it was about another key"


def test_releases_are_remembered_for_an_hour_each():
    releases = [(0, released(1)), (1, released(2)), (2, released(3))]
    for number in (1, 2, 3):
        assert last(*releases, (rules.RELEASE_MS - 1, claim(number))).why is Why.RELEASED
    assert isinstance(last(*releases, (rules.RELEASE_MS, claim(1))), Won)


def test_a_key_that_is_released_again_and_again_stays_small():
    key = rules.Key()
    for number in range(1_000):
        key, _ = rules.judge_claim(key, claim(number), 2 * number, number * MINUTE)
        key, _ = rules.judge_release(key, released(number), number * MINUTE)
    assert len(key.releases) <= (rules.RELEASE_MS + rules.CLOCK_SLACK_MS) // MINUTE + 1


def test_a_claim_that_comes_twice_wins_once():
    assert last((0, claim(1)), (1, claim(1))) == NoEffect(Why.REPEATED)
    assert last((0, claim(1)), (1, released(1)), (2, claim(1))).why is Why.RELEASED


@pytest.mark.parametrize("other", [2, 3])
def test_a_release_of_another_claim_frees_nothing(other):
    log = [(0, claim(1)), (0, claim(2)), (1, released(other))]
    assert last(*log) == NoEffect(Why.NOT_HOLDING)
    assert last(*log, (1, claim(4))).why is Why.HELD


def test_a_replaced_attempt_cannot_release_the_key():
    log = [(0, claim(1)), (TAKE_OVER, claim(2, 2, 1)), (TAKE_OVER, released(1))]
    assert last(*log) == NoEffect(Why.NOT_HOLDING)


def test_a_held_key_that_nobody_takes_over_is_free_after_keep():
    assert last((0, claim(1)), (KEEP - 1, claim(2))).why is Why.HELD
    assert isinstance(last((0, claim(1)), (KEEP, claim(2))), Won)
    long = claim(1, take_over_ms=2 * KEEP)
    assert last((0, long), (2 * KEEP - 1, claim(2))).why is Why.HELD
    assert isinstance(last((0, long), (2 * KEEP, claim(2))), Won)


def test_an_idempotent_request_is_not_cancelled():
    log = [(0, claim(1)), (1, Cancelled(named(1)))]
    assert last(*log) == NoEffect(Why.NEVER_CANCELLED)
    assert isinstance(last(*log, (2, reply(1))), KeyAnswered)


def test_a_lane_tells_what_a_claim_would_meet_and_which_lanes_it_has_met():
    lane = Lane()
    assert lane.state(KEYS[0], 0) is None
    lane.apply(0, 0, claim(1, lanes=8))
    lane.apply(1, 0, claim(2, lanes=16))
    assert isinstance(lane.state(KEYS[0], KEEP - 1), Held)
    assert lane.state(KEYS[0], KEEP) is None
    assert lane.lanes_met == {8, 16}


def test_a_record_that_was_seen_does_nothing():
    lane = Lane()
    assert isinstance(lane.apply(4, 0, claim(1)), Won)
    assert lane.apply(4, 0, released(1)) is None
    assert isinstance(lane.state(KEYS[0], 1), Held)


# --- forgetting -----------------------------------------------------------------------------------------------------


def test_keys_are_forgotten_when_no_record_can_meet_them():
    lane = Lane()
    lane.apply(0, 0, claim(1))
    lane.apply(1, 7, reply(1))
    lane.apply(2, 7 + KEEP + rules.CLOCK_SLACK_MS - 1, claim(2, key_hash=KEYS[1]))
    assert (lane.forget(), len(lane)) == (0, 2)
    lane.apply(3, 7 + KEEP + rules.CLOCK_SLACK_MS, reply(9))
    assert (lane.forget(), len(lane)) == (1, 1)


def test_a_freed_key_and_a_release_do_not_stay():
    lane = Lane()
    lane.apply(0, 0, claim(1))
    lane.apply(1, 1, reply(1, Grade.FROM_500))
    lane.apply(2, 1, released(2, KEYS[1]))
    lane.apply(3, rules.CLOCK_SLACK_MS + 1, reply(9))
    assert (lane.forget(), len(lane)) == (1, 1)
    lane.apply(4, rules.RELEASE_MS + rules.CLOCK_SLACK_MS + 1, reply(9))
    assert (lane.forget(), len(lane)) == (1, 0)


def test_keys_that_come_and_go_leave_nothing_behind():
    lane = Lane()
    for number in range(5_000):
        at_ms = number * MINUTE
        key_hash = b"%032d" % number
        lane.apply(2 * number, at_ms, claim(number, key_hash=key_hash))
        lane.apply(2 * number + 1, at_ms, reply(number) if number % 3 else released(number, key_hash))
        lane.forget()
    assert len(lane) <= (KEEP + rules.CLOCK_SLACK_MS) // MINUTE + 1
    lane.apply(10_000, 10_000 * MINUTE, reply(0))
    lane.forget()
    assert (len(lane), len(lane._held_by), len(lane._to_forget), len(lane._forget_at)) == (0, 0, 0, 0)


# --- any log --------------------------------------------------------------------------------------------------------

STEPS_MS = [0, 0, 1, MINUTE, TAKE_OVER - 1, TAKE_OVER, HOUR - 1, HOUR, KEEP - 1, KEEP, 3 * HOUR]

KINDS = ["new", "new", "next", "next", "near", "reply", "reply", "reply", "release", "old", "cancel"]


def some_log(draw: random.Random, length: int, back_ms: int) -> list[Entry]:
    """A log in which everything happens: races, take-overs in time and too early, repeated and late records.

    Append times go back by less than `back_ms`.
    """
    guide, log, now, ids = Lane(), [], HOUR, 0
    claims: list[Claim] = []
    for offset in range(length):
        now += draw.choice(STEPS_MS)
        appended_ms = max(0, now - (draw.randrange(back_ms) if draw.random() < 0.3 else 0))
        key_hash = draw.choice(KEYS)
        state = guide.state(key_hash, appended_ms)
        kind = draw.choice(
            ["new", "new", "next", "next", "near", "reply", "reply", "reply", "release", "old", "cancel"]
        )
        known = draw.choice(claims[-6:]) if claims else claim(0)
        record: rules.Record
        if kind in ("new", "next", "near"):
            ids += 1
            fingerprint = PRINTS[draw.random() < 0.2]
            record = claim(ids, key_hash=key_hash, fingerprint=fingerprint, keep_ms=draw.choice([MINUTE, KEEP]))
            if kind != "new" and isinstance(state, Held):
                attempt, replaces = state.claim.attempt + 1, state.claim.correlation_id
                if kind == "near":
                    attempt, replaces = attempt + draw.randrange(2), draw.choice([replaces, known.correlation_id])
                record = record._replace(attempt=attempt, replaces=replaces)
            claims.append(record)
        elif kind == "reply":
            record = GradedReply(known.correlation_id, draw.choice(list(Grade)))
        elif kind == "release":
            ahead = claim(ids + 1, key_hash=key_hash) if draw.random() < 0.3 else known  # of a claim that may come
            record = Released(ahead.correlation_id, ahead.key_hash)
        else:
            record = known if kind == "old" else Cancelled(known.correlation_id)
        log.append(Entry(appended_ms, record))
        guide.apply(offset, appended_ms, record)
    return log


def read(log: list[Entry]) -> list[Event]:
    return read_into(Lane(), log)


def read_into(lane: Lane, log: list[Entry]) -> list[Event]:
    return [lane.apply(offset, *entry) for offset, entry in enumerate(log)]


def said(event: Event) -> Said:
    """An event in the words of the reference."""
    match event:
        case Won(_, held):
            return "won", held.claim.correlation_id
        case Lost(_, correlation_id, why, _):
            return "lost", correlation_id, why.value
        case KeyAnswered(_, held, answered):
            return "answered", held.claim.correlation_id, answered.correlation_id
        case Freed(_, held, offset):
            return "freed", held.claim.correlation_id, offset
        case _:
            return ("nothing",)


logs = st.builds(
    some_log, st.integers(0, 1 << 64).map(random.Random), st.integers(1, 40), st.just(rules.CLOCK_SLACK_MS)
)


@settings(max_examples=400, deadline=None)
@given(logs)
def test_the_reference_comes_to_the_same_answers(log):
    assert [said(event) for event in read(log)] == replay(log)


@settings(max_examples=400, deadline=None)
@given(logs)
def test_a_key_has_one_holder_and_one_answer_at_a_time(log):
    holders: dict[bytes, Held] = {}
    for (appended_ms, _), event in zip(log, read(log), strict=True):
        if isinstance(event, Won):
            before = holders.get(event.key_hash)
            if before is not None and appended_ms < before.ends_ms:
                assert event.held.claim.attempt == before.claim.attempt + 1
                assert event.held.claim.replaces == before.claim.correlation_id
                assert event.held.claim.fingerprint == before.claim.fingerprint
                assert appended_ms - before.appended_ms >= before.claim.take_over_ms
            holders[event.key_hash] = event.held
        elif isinstance(event, KeyAnswered | Freed):
            assert event.held == holders.pop(event.key_hash), "only what is held ends, and once"


@settings(max_examples=300, deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_readers_with_other_batches_and_restarts_agree(log, draw):
    whole = read(log)
    lane, events, at = Lane(), [], 0
    while at < len(log):
        if draw.random() < 0.3:
            lane = Lane()
            read_into(lane, log[:at])
        if draw.random() < 0.5:
            lane.forget()
        again = draw.randrange(at + 1)  # a successor starts somewhere before
        end = draw.randrange(at, len(log)) + 1
        seen = [lane.apply(offset, *log[offset]) for offset in range(again, end)]
        assert seen[: at - again] == [None] * (at - again)
        events += seen[at - again :]
        at = end
    assert events == whole


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 64).map(random.Random))
@example(random.Random(6893437))  # a reply to an attempt whose claim is not kept any more
def test_a_reader_that_starts_at_what_kafka_has_kept_agrees(draw):
    log = as_workers_write(some_log(draw, 60, 10 * MINUTE))
    whole = read(log)
    retention_ms = KEEP + TAKE_OVER + HOUR
    for now in range(len(log)):
        newest_ms = max(entry.appended_ms for entry in log[: now + 1])
        start = _first_kept(log, newest_ms - retention_ms)
        if not 0 < start <= now:
            continue
        lane = Lane()
        rest = [lane.apply(offset, *log[offset]) for offset in range(start, len(log))]
        assert [said(event) for event in rest[now - start :]] == [said(event) for event in whole[now:]]


def as_workers_write(log: list[Entry]) -> list[Entry]:
    """The log without records that producers repeat, and with a release after each claim that has lost."""
    lane, written = Lane(), []
    for entry in log:
        event = lane.apply(lane.next_offset, *entry)
        if event == NoEffect(Why.REPEATED):
            continue
        written.append(entry)
        if isinstance(event, Lost):
            written.append(Entry(entry.appended_ms, Released(event.correlation_id, event.key_hash)))
            lane.apply(lane.next_offset, *written[-1])
    return written


def _first_kept(log: list[Entry], from_ms: int) -> int:
    """Kafka deletes whole segments from the front, each when its newest record is old enough."""
    return next((at for at, entry in enumerate(log) if entry.appended_ms > from_ms), len(log))


def test_the_logs_of_these_tests_hold_every_case():
    """What a strategy does not make, a property does not show."""
    met: set[object] = set()
    for seed in range(300):
        for event in read(some_log(random.Random(seed), 40, rules.CLOCK_SLACK_MS)):
            met.add(event.why if isinstance(event, Lost | NoEffect) else type(event))
            if isinstance(event, Won) and event.held.claim.replaces:
                met.add("taken over")
            if isinstance(event, KeyAnswered) and event.answered.correlation_id != event.held.claim.correlation_id:
                met.add("answered by an old attempt")
    assert met == {*Why, Won, KeyAnswered, Freed, "taken over", "answered by an old attempt"}
