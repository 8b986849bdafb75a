"""The gateway's own answers: every row of the outcome table as RFC 9457 wants it."""

from __future__ import annotations

import orjson
import pytest

from fastgw import _ctable, errors, problem

ID = b"00000000-0000-8000-8000-000000000001"


@pytest.mark.parametrize("ending", [e for e in errors.ENDINGS if e is not errors.ANSWERED], ids=lambda e: e.name)
def test_a_problem_tells_status_outcome_and_whether_to_retry(ending):
    status, headers, body, request_id = problem.answer(ending, "because", ID)
    assert (status, request_id) == (ending.status, ID)
    fields = dict(headers)
    assert fields["content-type"] == "application/problem+json"
    assert fields["fastgw-outcome"] == ending.outcome.value
    assert orjson.loads(body) == {
        "type": f"urn:fastgw:problem:{ending.name}",
        "title": ending.title,
        "status": ending.status,
        "detail": "because",
        "instance": f"urn:uuid:{ID.decode()}",
        "outcome": ending.outcome.value,
        "retryable": ending.retryable,
        "request_id": ID.decode(),
    }


@pytest.mark.parametrize("ending", [e for e in errors.ENDINGS if e.status == 503], ids=lambda e: e.name)
def test_a_503_says_when_to_come_back_and_that_nothing_was_recorded(ending):
    assert ("retry-after", "1") in problem.answer(ending, "x", ID)[1]
    assert ending.outcome is errors.Outcome.NOT_RECORDED
    assert ending.retryable


def test_draining_closes_the_connection():
    assert ("connection", "close") in problem.answer(errors.DRAINING, "x", ID)[1]


def test_the_numbers_of_endings_are_the_columns_of_the_counters():
    assert [ending.number for ending in errors.ENDINGS] == list(range(len(errors.ENDINGS)))
    assert len(errors.ENDINGS) <= _ctable.ENDINGS_MAX
    assert len({ending.name for ending in errors.ENDINGS}) == len(errors.ENDINGS)


def test_nothing_that_may_have_been_recorded_is_called_retryable():
    """Except where the request has a key: the same work is not sent twice."""
    found = [e for e in errors.ENDINGS if e.retryable and e.outcome is not errors.Outcome.NOT_RECORDED]
    assert found == [errors.KEY_BUSY]


def test_a_detail_that_is_no_text_is_shown_all_the_same():
    assert orjson.loads(problem.answer(errors.REFUSED_SEND, "a\udcff\u00e4", ID)[2])["detail"] == "a\\udcff\u00e4"
