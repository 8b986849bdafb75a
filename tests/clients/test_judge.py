"""The judge finds each fault in logs that have it, and none in logs that have none."""

from __future__ import annotations

import pytest

from tests.clients.fleet import FIRST, SECOND, Line
from tests.clients.judge import LATE_ANSWER_S, LATE_LINE_S, End, judge
from tests.faults.oracle import Found

STREAMS = {"curl-1-express": FIRST[0], "undici-2-tls": SECOND[1]}
GOOD = Line("curl-1-express", "fast curl-1-express 0 0", 200, "1.1", "fast curl-1-express 0 0", "recorded", "")
CUT = GOOD._replace(status=0, version="", answer="", outcome="", error="Recv failure: Connection reset by peer")
GOAWAY = CUT._replace(
    client="undici-2-tls", body="slow undici-2-tls 0 3", error='"GOAWAY" frame received with code 0', heard_s=101.0
)
SECOND_ANSWER = GOOD._replace(client="undici-2-tls", body=GOAWAY.body, answer=GOAWAY.body, version="2", heard_s=104.0)
ENDS = [End(100.0, 105.0)]


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
    verdict = judge([GOAWAY], [record_of(GOAWAY)], STREAMS, ENDS, 1)
    assert verdict.good
    assert verdict.forgotten == {"undici-2-tls": 1}


@pytest.mark.parametrize("early", [True, False])
def test_one_that_forgets_a_request_when_no_generation_ends_is_found(early):
    [end] = ENDS
    forgot = GOAWAY._replace(heard_s=end.began_s - 0.1 if early else end.over_s + LATE_LINE_S + 0.1)
    assert len(judge([forgot], [record_of(forgot)], STREAMS, ENDS, 1).unanswered) == 1
    repeated = SECOND_ANSWER._replace(heard_s=end.began_s - 0.1 if early else end.over_s + LATE_ANSWER_S + 0.1)
    assert len(judge([repeated], [record_of(repeated), record_of(repeated, 1)], STREAMS, ENDS, 1).retried) == 1


def test_one_that_repeats_a_request_at_a_goaway_is_told_apart_and_a_second_time_is_found():
    twice = [record_of(SECOND_ANSWER, number) for number in range(2)]
    verdict = judge([SECOND_ANSWER], twice, STREAMS, ENDS, 1)
    assert verdict.good
    assert verdict.forgotten == {"undici-2-tls": 1}
    assert len(judge([SECOND_ANSWER], [*twice, record_of(SECOND_ANSWER, 2)], STREAMS, ENDS, 1).retried) == 1


def test_more_forgotten_requests_than_there_were_connections_are_found():
    lines = [GOAWAY._replace(body=f"slow undici-2-tls 0 {number}") for number in range(5)]
    records = [record_of(line) for line in lines]
    assert judge(lines[:4], records[:4], STREAMS, [*ENDS, *ENDS], 2).good
    verdict = judge(lines, records, STREAMS, [*ENDS, *ENDS], 2)
    assert not verdict.good
    assert len(verdict.forgotten_too_often) == 1


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
