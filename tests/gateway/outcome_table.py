"""What the client is told, row by row, written down a second time: the table that the gateway's answers are held to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.actors.raw_http import Answer
from tests.gateway.gateways import Gateway
from tests.waiting import eventually


class Row(NamedTuple):
    """One row; `retry_after` and `closes` say which headers the answer carries."""

    status: int
    outcome: str
    retryable: bool = False
    retry_after: bool = False
    closes: bool = False


TABLE = {
    "answered": Row(200, "recorded"),
    "malformed": Row(400, "not_recorded", closes=True),
    "no_route": Row(404, "not_recorded"),
    "wrong_method": Row(405, "not_recorded"),
    "body_timeout": Row(408, "not_recorded", retryable=True, closes=True),
    "bodies_full": Row(503, "not_recorded", retryable=True, retry_after=True),
    "body_too_large": Row(413, "not_recorded", closes=True),
    "target_too_long": Row(414, "not_recorded"),
    "headers_too_large": Row(431, "not_recorded"),
    "table_full": Row(503, "not_recorded", retryable=True, retry_after=True),
    "in_flight_cap": Row(503, "not_recorded", retryable=True, retry_after=True),
    "queue_full": Row(503, "not_recorded", retryable=True, retry_after=True),
    "draining": Row(503, "not_recorded", retryable=True, retry_after=True, closes=True),
    "not_ready": Row(503, "not_recorded", retryable=True, retry_after=True),
    "topic_unknown": Row(502, "not_recorded"),
    "not_authorized": Row(502, "not_recorded"),
    "record_too_large": Row(413, "not_recorded"),
    "send_unknown": Row(504, "unknown"),
    "expired_unknown": Row(504, "unknown"),
    "expired": Row(504, "recorded"),
    "bad_reply": Row(502, "recorded"),
    "cancelled_unknown": Row(499, "unknown"),
    "cancelled": Row(499, "recorded"),
    "cancelled_early": Row(499, "not_recorded"),
    "refused_send": Row(502, "not_recorded"),
    "not_sent": Row(503, "not_recorded", retryable=True, retry_after=True),
    "header_timeout": Row(408, "not_recorded", retryable=True, closes=True),
    "expectation_failed": Row(417, "not_recorded"),
    "connection_cap": Row(503, "not_recorded", retryable=True, retry_after=True, closes=True),
    "no_consumer": Row(503, "not_recorded", retryable=True, retry_after=True),
    "backlog": Row(503, "not_recorded", retryable=True, retry_after=True),
    "misdirected": Row(421, "not_recorded"),
    "store_down": Row(503, "not_recorded", retryable=True, retry_after=True),
    "store_restoring": Row(503, "not_recorded", retryable=True, retry_after=True),
    "store_behind": Row(503, "not_recorded", retryable=True, retry_after=True),
    "store_full": Row(503, "not_recorded", retryable=True, retry_after=True),
    "watch_cap": Row(503, "not_recorded", retryable=True, retry_after=True),
    "deferred": Row(202, "recorded"),
    "work_expired": Row(504, "recorded"),
    "ticket_unknown": Row(404, "not_recorded"),
    "ticket_gone": Row(410, "not_recorded"),
    "ticket_cancelled": Row(410, "recorded"),
    "answers_full": Row(502, "recorded"),
    "key_invalid": Row(400, "not_recorded"),
    "key_reused": Row(422, "not_recorded"),
    "key_busy": Row(409, "unknown", retryable=True, retry_after=True),
    "claim_late": Row(503, "not_recorded", retryable=True, retry_after=True),
    "kept_cap": Row(503, "not_recorded", retryable=True, retry_after=True),
    "not_acceptable": Row(406, "not_recorded"),
    "http_version": Row(505, "not_recorded"),
    "wrong_listener": Row(501, "not_recorded"),
    "bad_item": Row(502, "recorded"),
    "stream_broken": Row(502, "recorded"),
    "stream_idle": Row(504, "recorded"),
    "stream_max": Row(504, "recorded"),
    "slow_reader": Row(499, "recorded"),
    "overtaken": Row(410, "recorded"),
    "deferred_joined": Row(202, "unknown"),
    "cancel_refused": Row(409, "not_recorded"),
    "newer_layout": Row(503, "not_recorded", retryable=True, retry_after=True),
    "replay_cap": Row(503, "not_recorded", retryable=True, retry_after=True),
}


def assert_told(answer: Answer, name: str, closes: bool | None = False) -> None:
    """The answer says exactly what the row `name` says, in status, body and headers.

    `closes`: the connection ends although the row does not ask for it; None: it may end or not.
    """
    row, problem = TABLE[name], answer.problem
    assert (problem["type"], answer.status) == (f"urn:fastgw:problem:{name}", row.status), problem
    assert problem["status"] == row.status
    assert answer.headers["fastgw-outcome"] == problem["outcome"] == row.outcome
    assert problem["retryable"] is row.retryable
    assert problem["title"]
    assert problem["detail"]
    assert answer.headers.get("retry-after") == ("1" if row.retry_after else None)
    if closes is not None:
        assert answer.headers.get("connection") == ("close" if row.closes or closes else None)
    assert answer.headers["cache-control"] == "no-store"


@contextmanager
def counted(gateway: Gateway, name: str, times: int = 1, **labels: str) -> Iterator[None]:
    """What happens inside ends `times` requests in the way `name`, and leaves nothing in flight."""

    def count() -> float:
        return gateway.metric("fastgw_requests_total", ending=name, outcome=TABLE[name].outcome, **labels)

    before = count()
    yield
    eventually(lambda: count() == before + times, 5, f"{times} more {name}")
    eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 5, "nothing is left in flight")
