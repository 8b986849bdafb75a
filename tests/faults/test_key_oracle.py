"""The oracle of idempotency keys can say no: every kind of lie is called one, and the truth is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastgw.dialects.control import Claim, Released
from fastgw.store.lane import Grade, GradedReply
from tests.faults.key_oracle import Heard, KeyLie, Sent, Written, judge_keys

KEY = bytes(32)
FIRST, SECOND, THIRD = (b"0000000%d-0000-8000-8000-000000000000" % number for number in (1, 2, 3))
TAKE_OVER_MS = 1000


def claim(raw: bytes, at_ms: int, offset: int, replaces: bytes = b"") -> Written:
    attempt = 2 if replaces else 1
    content = Claim(raw, KEY, bytes(32), attempt, replaces, 1, TAKE_OVER_MS, 100_000, "pay", "plain")
    return Written(at_ms, offset, content)


def reply(raw: bytes, at_ms: int, offset: int, value: bytes, grade: Grade = Grade.BELOW_500) -> Written:
    return Written(at_ms, offset, GradedReply(raw, grade), value)


LANE = [
    claim(FIRST, 0, 0),
    claim(SECOND, 1000, 1, FIRST),
    claim(THIRD, 1001, 2),
    reply(FIRST, 1500, 3, b"first"),
    reply(SECOND, 1600, 4, b"second"),
]
SENT = [Sent(KEY, 1, FIRST), Sent(KEY, 2, SECOND)]
HEARD = [Heard(KEY, 200, True, b"first"), Heard(KEY, 409, False, b""), Heard(KEY, 200, True, b"first")]
EARLY = [claim(FIRST, 0, 0), claim(SECOND, 999, 1, FIRST), reply(FIRST, 1500, 3, b"first")]
FREED = [
    claim(FIRST, 0, 0),
    reply(FIRST, 1, 1, b"", Grade.FROM_500),
    claim(SECOND, 2, 2),
    reply(SECOND, 3, 3, b"first"),
]

# What the second request of LANE, which takes over at 1000, can be told before and after that.
BUSY = Heard(KEY, 409, False, b"", THIRD, "unknown", 1100, 1400)
FREE_AT_LAST = [claim(FIRST, 0, 0), reply(FIRST, 10, 1, b"first")]
STUCK = [claim(FIRST, 0, 0)]
GIVEN_UP = [claim(FIRST, 0, 0), Written(700, 1, Released(FIRST, KEY)), claim(SECOND, 701, 2)]
OTHER_KEY = bytes([1]) * 32


def refused(status: int, raw: bytes, began_ms: float, ended_ms: float, outcome: str = "not_recorded") -> Heard:
    return Heard(KEY, status, False, b"", raw, outcome, began_ms, ended_ms)


LIES = {
    KeyLie.NOT_BUSY: ([*HEARD, refused(409, SECOND, 20, 900, "unknown")], [Sent(KEY, 1, FIRST)], FREE_AT_LAST),
    KeyLie.STUCK: ([refused(409, SECOND, 1010, 2000, "unknown")], [Sent(KEY, 1, FIRST)], STUCK),
    KeyLie.KEPT: ([refused(503, FIRST, 0, 500)], [], STUCK),
    KeyLie.RESEND_ME: ([*HEARD, refused(503, SECOND, 990, 1500)], SENT, LANE),
    KeyLie.LOST: ([*HEARD, refused(504, THIRD, 990, 1500, "recorded")], SENT, LANE),
    KeyLie.TWICE: (HEARD, [*SENT, Sent(KEY, 2, SECOND)], LANE),
    KeyLie.TOO_EARLY: (HEARD, SENT, EARLY),
    KeyLie.UNCLAIMED: (HEARD, [*SENT, Sent(KEY, 3, THIRD)], LANE),
    KeyLie.DIFFERENT: ([*HEARD, Heard(KEY, 200, True, b"second")], SENT, LANE),
    KeyLie.INVENTED: ([Heard(KEY, 200, True, b"of nobody")], SENT, LANE),
    KeyLie.REUSED: ([*HEARD, Heard(KEY, 422, False, b"")], SENT, LANE),
}


def judged(heard: Sequence[Heard], sent: Sequence[Sent], lane: Sequence[Written]) -> list[tuple[KeyLie, object]]:
    return list(judge_keys(heard, sent, {0: lane}, TAKE_OVER_MS))


def test_the_truth_is_not_called_a_lie() -> None:
    assert judged(HEARD, SENT, LANE) == []


def test_a_key_that_a_failure_has_freed_may_be_sent_again_at_once() -> None:
    assert judged(HEARD, [Sent(KEY, 1, FIRST), Sent(KEY, 1, SECOND)], FREED) == []


def test_a_failure_that_comes_before_a_take_over_has_freed_the_key() -> None:
    early = [FREED[0], FREED[1], claim(SECOND, 2, 2, FIRST), FREED[3]]
    assert judged(HEARD, [Sent(KEY, 1, FIRST), Sent(KEY, 2, SECOND)], early) == []
    assert {said for said, _ in judged(HEARD, SENT, [FREED[0], *early[2:]])} == {KeyLie.TOO_EARLY, KeyLie.UNCLAIMED} | {
        KeyLie.INVENTED
    }


@pytest.mark.parametrize(
    ("one", "lane"),
    [
        (BUSY, LANE),  # held by the second one, after the take-over
        (refused(409, SECOND, 900, 1900, "unknown"), STUCK),  # it came before the time of the holder was over
        (refused(409, SECOND, 1010, 2000, "unknown"), [*STUCK, claim(SECOND, 1990, 1, FIRST)]),  # its claim came late
        (refused(409, SECOND, 1010, 2000, "unknown"), [*STUCK, claim(THIRD, 1500, 1, FIRST)]),  # another was faster
        (refused(503, FIRST, 0, 705), GIVEN_UP),  # its claim was given up
        (refused(503, THIRD, 0, 705), LANE),  # its claim lost
        (refused(504, FIRST, 0, 900, "recorded"), STUCK),
        (refused(504, SECOND, 0, 900, "unknown"), STUCK),
    ],
)
def test_a_refusal_that_the_lane_explains_is_none(one: Heard, lane: list[Written]) -> None:
    sent = [] if one.outcome == "not_recorded" else [Sent(KEY, 1, FIRST)]
    assert judged([one], sent, lane) == []


def test_a_claim_that_would_hold_its_key_for_longer_than_published_is_one_that_is_stuck() -> None:
    assert {said for said, _ in judge_keys([], [], {0: STUCK}, TAKE_OVER_MS - 1)} == {KeyLie.STUCK}


def test_of_a_key_whose_lane_is_lost_an_answer_is_known_by_its_request() -> None:
    lost = frozenset([KEY])
    told = [Heard(KEY, 200, True, FIRST), Heard(KEY, 200, True, SECOND), refused(409, THIRD, 0, 1)]
    assert judge_keys(told, SENT, {0: []}, TAKE_OVER_MS, lost) == []
    stranger = [Sent(KEY, 1, FIRST), Sent(OTHER_KEY, 1, SECOND)]
    assert [said for said, _ in judge_keys(told, stranger, {0: []}, TAKE_OVER_MS, lost | {OTHER_KEY})] == [
        KeyLie.INVENTED
    ]
    said = {said for said, _ in judge_keys([refused(503, FIRST, 0, 1)], SENT, {0: []}, TAKE_OVER_MS, lost)}
    assert said == {KeyLie.RESEND_ME}


@pytest.mark.parametrize("lie", list(KeyLie))
def test_every_kind_of_lie_is_called_one(lie: KeyLie) -> None:
    heard, sent, lane = LIES[lie]
    assert lie in {said for said, _ in judged(heard, sent, lane)}
