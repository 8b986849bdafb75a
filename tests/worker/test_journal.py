"""What a worker says of requests that somebody should look at: soon, with an id, and never a thousand times."""

from __future__ import annotations

import pytest
import structlog

from fastgw.worker.journal import PERIOD_NS, Journal, Throttle

ID = b"00000000-0000-8000-8000-000000000001"
KIND, OTHER = ("expired", "POST /o"), ("expired", "POST /p")


def test_the_first_of_a_kind_is_logged_and_the_others_of_its_period_are_counted():
    throttle = Throttle(10)
    assert [throttle.admit(KIND, now_ns) for now_ns in (0, 1, 9, 10, 11, 20)] == [0, -1, -1, 2, -1, 1]


def test_kinds_do_not_hold_each_other_back():
    throttle = Throttle(10)
    assert [throttle.admit(kind, 0) for kind in (KIND, OTHER, KIND)] == [0, 0, -1]


def test_what_was_held_back_last_is_logged_when_its_period_has_passed_and_only_once():
    throttle = Throttle(10)
    for _ in range(3):
        throttle.admit(KIND, 0)
    throttle.admit(OTHER, 0)
    assert throttle.overdue(9) == []
    assert throttle.overdue(10) == [(KIND, 2)]
    assert throttle.overdue(20) == []
    assert throttle.admit(KIND, 21) == 0


def test_an_ending_to_act_on_is_one_line_with_the_id_of_a_request():
    journal = Journal()
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            journal.ended("expired", "POST /o", ID, "no reply came")
        journal.sum_up(1 << 62)
    assert lines[0] == {
        "event": "request failed", "log_level": "warning", "ending": "expired", "route": "POST /o",
        "request_id": ID.decode(), "detail": "no reply came",
    }  # fmt: skip
    assert (len(lines), lines[1]["count"]) == (2, 999)


def test_an_error_of_its_own_is_logged_with_its_traceback_once_in_a_while():
    journal = Journal(period_ns=PERIOD_NS)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            try:
                raise ZeroDivisionError
            except ZeroDivisionError:
                journal.broke("record not sent", "POST /o", ID)
    assert [(line["event"], line["exc_info"], line["request_id"]) for line in lines] == [
        ("record not sent", True, ID.decode())
    ]


@pytest.mark.parametrize("raw", [b"", b"\xff"])
def test_no_id_stops_it(raw):
    Journal().ended("expired", "", raw, "")
