"""The judge finds each fault in logs that have it, and none in logs that have none."""

from __future__ import annotations

import pytest

from tests.clients.fleet import FIRST, SECOND, Line
from tests.clients.judge import judge
from tests.faults.oracle import Found

STREAMS = {"curl-1-express": FIRST[0], "undici-2-tls": SECOND[1]}
GOOD = Line("curl-1-express", "fast curl-1-express 0 0", 200, "1.1", "fast curl-1-express 0 0", "recorded", "")
CUT = GOOD._replace(status=0, version="", answer="", outcome="", error="Recv failure: Connection reset by peer")
GOAWAY = CUT._replace(client="undici-2-tls", body="slow undici-2-tls 0 3", error='"GOAWAY" frame received with code 0')


def record_of(line, number=0):
    return Found(b"id-%d" % number, line.body.encode())


def test_an_answer_with_its_record_is_good():
    assert judge([GOOD], [record_of(GOOD)], STREAMS).good


def test_a_cut_request_without_record_is_allowed_and_counted():
    verdict = judge([CUT], [], STREAMS)
    assert verdict.good
    assert verdict.cut == {"curl-1-express": 1}


def test_a_cut_request_with_a_record_is_found():
    assert len(judge([CUT], [record_of(CUT)], STREAMS).unanswered) == 1


def test_a_record_of_which_its_client_told_nothing_is_found():
    assert len(judge([], [record_of(GOOD)], STREAMS).unanswered) == 1


def test_a_request_that_a_library_repeated_is_found():
    assert len(judge([GOOD], [record_of(GOOD), record_of(GOOD, 1)], STREAMS).retried) == 1


def test_a_library_that_forgets_its_requests_at_a_goaway_is_told_apart():
    verdict = judge([GOAWAY], [record_of(GOAWAY)], STREAMS)
    assert verdict.good
    assert verdict.forgotten == {"undici-2-tls": 1}


@pytest.mark.parametrize(
    ("line", "records"),
    [
        (GOOD._replace(answer="fast curl-1-express 0 1"), 1),
        (GOOD, 0),
        (GOOD._replace(status=503, outcome="not_recorded"), 1),
        (GOOD._replace(status=504, outcome="recorded"), 0),
        (GOOD._replace(status=502, outcome=""), 0),
    ],
    ids=["a stranger's answer", "invented", "not recorded and recorded", "recorded and not recorded", "no outcome"],
)
def test_a_lie_is_found(line, records):
    assert len(judge([line], [record_of(line)] * records, STREAMS).lies) == 1


def test_an_answer_in_another_version_is_found():
    assert len(judge([GOOD._replace(version="2")], [record_of(GOOD)], STREAMS).misspoken) == 1
