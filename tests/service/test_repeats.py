"""Requests with one idempotency key."""

from __future__ import annotations

import pytest

from fastgw.service import Request, repeats
from fastgw.service.messages import ReplyRecord
from fastgw.service.progress import OffsetProgress
from fastgw.service.repeats import Repeats
from fastgw.service.replies import Work


def work(correlation_id: bytes = b"first", body: bytes = b"{}", **headers: bytes) -> Work:
    told = {"idempotency_key": b"key", "http_method": b"POST", "http_route": b"/pay"} | headers
    return Work(Request(body, told), OffsetProgress(), 0, "replies", 3, correlation_id)


def reply(value: bytes = b"done", status: int = 200) -> ReplyRecord:
    headers = [("correlation_id", b"first"), ("content-type", b"text/plain")]
    return ReplyRecord(value, headers, status=status)


def test_a_request_that_was_answered_gets_the_same_reply() -> None:
    known = Repeats()
    assert known.begin(work()) is True
    assert known.end(work(), reply()) == []
    again = known.begin(work(b"second"))
    assert again == ReplyRecord(b"done", [("correlation_id", b"second"), ("content-type", b"text/plain")])
    assert known.answered == 1


def test_a_request_waits_for_the_one_that_is_under_way() -> None:
    known = Repeats()
    known.begin(work())
    second, third = work(b"second", idempotency_attempt=b"2"), work(b"third")
    assert known.begin(second) is False
    assert known.begin(third) is False
    answers = known.end(work(), reply())
    assert [(each, told.headers[0][1]) for each, told in answers] == [(second, b"second"), (third, b"third")]


@pytest.mark.parametrize(
    "other",
    [
        work(body=b"{ }"),
        work(idempotency_key=b"other"),
        work(http_method=b"PUT"),
        work(http_route=b"/refund"),
        work(http_path=b"/pay"),
        work(http_query=b"a"),
    ],
)
def test_another_request_under_the_same_key_is_other_work(other: Work) -> None:
    known = Repeats()
    known.begin(work())
    known.end(work(), reply())
    assert known.begin(other) is True


@pytest.mark.parametrize("status", [500, 503, 599])
def test_an_error_of_the_service_is_not_stored_but_told_to_those_who_wait(status: int) -> None:
    known = Repeats()
    known.begin(work())
    known.begin(work(b"second"))
    assert len(known.end(work(), reply(status=status))) == 1
    assert known.begin(work(b"third")) is True


def test_a_refusal_is_stored() -> None:
    known = Repeats()
    known.begin(work())
    known.end(work(), reply(status=422))
    assert isinstance(known.begin(work()), ReplyRecord)


def test_a_reply_is_forgotten_after_its_time() -> None:
    now_ns = 0
    known = Repeats(lambda: now_ns)
    known.begin(work())
    known.end(work(), reply())
    now_ns = repeats.KEPT_NS - 1
    assert isinstance(known.begin(work()), ReplyRecord)
    now_ns = repeats.KEPT_NS
    assert known.begin(work()) is True


def test_the_reply_that_was_used_least_is_forgotten_if_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPLIES_MAX", 2)
    known = Repeats()
    for key in (b"a", b"b", b"a", b"c"):
        if known.begin(work(idempotency_key=key)) is True:
            known.end(work(idempotency_key=key), reply())
    assert known.begin(work(idempotency_key=b"b")) is True
    assert isinstance(known.begin(work(idempotency_key=b"a")), ReplyRecord)


def test_replies_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    large = reply(b"x" * 1000)
    monkeypatch.setattr(repeats, "REPLIES_BYTES_MAX", 2500)
    known = Repeats()
    for key in (b"a", b"b", b"c"):
        known.begin(work(idempotency_key=key))
        known.end(work(idempotency_key=key), large)
    assert repr(known) == "<Repeats 0 under way, 2 stored>"
    monkeypatch.setattr(repeats, "REPLY_BYTES_MAX", 999)
    known.begin(work(idempotency_key=b"d"))
    known.end(work(idempotency_key=b"d"), large)
    assert known.begin(work(idempotency_key=b"d")) is True
