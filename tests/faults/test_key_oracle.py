"""The oracle of idempotency keys can say no: every kind of lie is called one, and the truth is not."""

from __future__ import annotations

import pytest

from fastgw.dialects.control import Claim
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

LIES = {
    KeyLie.TWICE: (HEARD, [*SENT, Sent(KEY, 2, SECOND)], LANE),
    KeyLie.TOO_EARLY: (HEARD, SENT, EARLY),
    KeyLie.UNCLAIMED: (HEARD, [*SENT, Sent(KEY, 3, THIRD)], LANE),
    KeyLie.DIFFERENT: ([*HEARD, Heard(KEY, 200, True, b"second")], SENT, LANE),
    KeyLie.INVENTED: ([Heard(KEY, 200, True, b"of nobody")], SENT, LANE),
    KeyLie.REUSED: ([*HEARD, Heard(KEY, 422, False, b"")], SENT, LANE),
}


def test_the_truth_is_not_called_a_lie() -> None:
    assert judge_keys(HEARD, SENT, {0: LANE}) == []


def test_a_key_that_a_failure_has_freed_may_be_sent_again_at_once() -> None:
    assert judge_keys(HEARD, [Sent(KEY, 1, FIRST), Sent(KEY, 1, SECOND)], {0: FREED}) == []


@pytest.mark.parametrize("lie", list(KeyLie))
def test_every_kind_of_lie_is_called_one(lie: KeyLie) -> None:
    heard, sent, lane = LIES[lie]
    assert lie in {said for said, _ in judge_keys(heard, sent, {0: lane})}
