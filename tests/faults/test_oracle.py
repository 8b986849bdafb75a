"""The oracle can say no: every kind of lie is called one, and the truth is not."""

from __future__ import annotations

import pytest

from tests.faults.oracle import ANSWERED, CUT, OFFENDERS_SHOWN, REFUSED, SILENT, Found, Lie, Told, judge
from tests.faults.test_stream_oracle import LIES as LIES_OF_STREAMS
from tests.faults.test_ticket_oracle import LIES as LIES_OF_STATUS_URLS


def told(body: bytes, ending: str, outcome: str = "", request_id: bytes = b"", answer: bytes = b"") -> Told:
    return Told(body, 0.0, 1.0, ending, outcome, 200 if ending == ANSWERED else 504, request_id, answer)


REQUESTS = [Found(b"id-1", b"one"), Found(b"id-2", b"two"), Found(b"id-3", b"three")]
REPLIES = [Found(b"id-1", b"one"), Found(b"id-2", b"two")]
TRUTH = [
    told(b"one", ANSWERED, "recorded", answer=b"one"),
    told(b"two", "expired", "recorded", request_id=b"id-2"),
    told(b"three", CUT),
    told(b"four", "not_ready", "not_recorded"),
    told(b"five", "send_unknown", "unknown", request_id=b"id-5"),
    told(b"six", REFUSED),
]

LIES = {
    "not_recorded_with_the_record_there": (told(b"three", "draining", "not_recorded"), {Lie.RESEND_ME}),
    "recorded_with_the_record_missing": (told(b"seven", "expired", "recorded"), {Lie.LOST}),
    "answered_with_the_record_missing": (told(b"seven", ANSWERED, "recorded", answer=b"seven"),
                                         {Lie.LOST, Lie.INVENTED}),
    "the_answer_of_another_request": (told(b"three", ANSWERED, "recorded", answer=b"one"), {Lie.STRANGER}),
    "a_problem_that_names_another_request": (told(b"three", "expired", "recorded", request_id=b"id-1"), {Lie.STRANGER}),
    "silence_on_a_living_connection": (told(b"three", SILENT), {Lie.SILENCE}),
    "an_answer_that_no_service_gave": (told(b"three", ANSWERED, "recorded", answer=b"three"), {Lie.INVENTED}),
}  # fmt: skip


def test_the_truth_is_not_called_a_lie():
    verdict = judge(TRUTH, REQUESTS, REPLIES)
    assert verdict.lies == {}
    assert verdict.requests == len(TRUTH)
    assert verdict.endings == {ANSWERED: 1, "expired": 1, CUT: 1, "not_ready": 1, "send_unknown": 1, REFUSED: 1}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_called_by_its_name(name):
    lie, kinds = LIES[name]
    log = [one for one in TRUTH if one.body != lie.body] + [lie]
    verdict = judge(log, REQUESTS, REPLIES)
    assert verdict.lies == dict.fromkeys(kinds, 1)
    assert all(str(lie) in verdict.offenders[kind][0] for kind in kinds)
    assert all(str(kind) in str(verdict) for kind in kinds)


def test_two_records_for_one_request_are_a_lie_whatever_the_client_was_told():
    for log in (TRUTH, [told(b"one", CUT), *TRUTH[1:]]):
        assert judge(log, [*REQUESTS, Found(b"id-9", b"one")], REPLIES).lies == {Lie.TWICE: 1}
        assert judge(log, [*REQUESTS, Found(b"id-1", b"one")], REPLIES).lies == {Lie.TWICE: 1}


def test_a_record_that_nobody_asked_for_is_a_lie():
    assert judge(TRUTH, [*REQUESTS, Found(b"id-9", b"nobody's")], REPLIES).lies == {Lie.UNASKED: 1}


def test_without_a_response_topic_only_the_invented_answer_is_spared():
    answered = told(b"three", ANSWERED, "recorded", answer=b"three")
    stolen = told(b"two", ANSWERED, "recorded", answer=b"one")
    log = [TRUTH[0], stolen, answered, *TRUTH[3:]]
    assert judge(log, REQUESTS, None).lies == {Lie.STRANGER: 1}


def test_every_lie_is_counted_and_the_first_few_are_shown():
    many = [told(b"%d" % number, SILENT) for number in range(OFFENDERS_SHOWN + 3)]
    verdict = judge(many, [], [])
    assert verdict.lies == {Lie.SILENCE: len(many)}
    assert verdict.offenders[Lie.SILENCE] == [str(one) for one in many[:OFFENDERS_SHOWN]]


def test_every_kind_of_lie_is_shown():
    shown = {kind for _, kinds in [*LIES.values(), *LIES_OF_STATUS_URLS.values()] for kind in kinds}
    shown |= {kind for _, kind in LIES_OF_STREAMS.values()}
    assert shown | {Lie.TWICE, Lie.UNASKED} == set(Lie)


def test_a_request_that_was_told_202_has_exactly_one_record():
    def deferred(body: bytes, answer: bytes = b"") -> Told:
        return told(body, ANSWERED if answer else "unsettled", "recorded", request_id=b"id-2", answer=answer)

    assert judge([TRUTH[0], deferred(b"two", b"two"), TRUTH[2]], REQUESTS, REPLIES).lies == {}
    assert judge([deferred(b"seven")], [], REPLIES).lies == {Lie.LOST: 1}
    assert judge([deferred(b"two")], [REQUESTS[1], Found(b"id-9", b"two")], REPLIES).lies == {Lie.TWICE: 1}
    assert judge([deferred(b"three")], REQUESTS[2:], REPLIES).lies == {Lie.STRANGER: 1}
