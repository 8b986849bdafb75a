"""The oracle's rule about status URLs can say no: every kind of lie is called one, and the truth is not."""

from __future__ import annotations

import pytest

from fastgw import ids
from tests.faults.oracle import ANSWERED, CUT, REFUSED, SILENT, TICKET_CANCELLED, Found, Lie, Verdict
from tests.faults.ticket_oracle import CANCELLED, IS_CANCELLED, WORK_EXPIRED, WORKING, Followed, Seen, judge_tickets

HOME, ELSEWHERE = 3, 4
DEADLINE_MS = 1000
PORT, OTHER_PORT = 8001, 8002


def id_of(number: int) -> bytes:
    """A correlation id whose home is HOME."""
    return b"00000000-0000-8000-9000-0000%03x%05x" % (HOME, number)


ONE, TWO, THREE, FOUR = (id_of(number) for number in range(1, 5))


def kept(
    correlation_id: bytes, body: bytes, offset: int, partition: int = HOME, at_ms: int = 500, kind: bytes = b""
) -> Found:
    return Found(correlation_id, body, partition, offset, at_ms, 0, kind)


REQUESTS = [Found(one, b"request", deadline_ms=DEADLINE_MS) for one in (ONE, TWO, THREE, FOUR)]
KEPT = [
    kept(ONE, b"elsewhere", 1, ELSEWHERE),
    kept(ONE, b"second", 9),
    kept(ONE, b"first", 5),
    kept(TWO, b"", 6, kind=CANCELLED),
    kept(TWO, b"too late for it", 7),
    kept(THREE, b"after the deadline", 8, at_ms=DEADLINE_MS),
    kept(FOUR, b"", 2, kind=b"layout"),
    kept(FOUR, b"in time", 3, at_ms=DEADLINE_MS - 1),
    kept(b"no id", b"garbage", 4),
]


def said(ending: str, answer: bytes = b"", port: int = PORT) -> Seen:
    return Seen(0.0, 0.0, ending, answer, port)


def ticket(correlation_id: bytes, *told: str | Seen, left: bool = False) -> Followed:
    """A status URL that told this, one answer after the other."""
    seen = [said(one) if isinstance(one, str) else one for one in told]
    timed = [one._replace(began_s=number, ended_s=number + 0.5) for number, one in enumerate(seen)]
    return Followed(b"request", correlation_id, "/_later/x", timed, left)


TRUTH = [
    ticket(
        ONE, WORKING, CUT, REFUSED, "store_down", "store_restoring", said(ANSWERED, b"first"), said(ANSWERED, b"first")
    ),
    ticket(ONE, said(ANSWERED, b"first"), said(WORKING, b"", OTHER_PORT), said(ANSWERED, b"first", OTHER_PORT)),
    ticket(ONE, said(ANSWERED, b"first"), "store_restoring", "store_behind", said(ANSWERED, b"first")),
    ticket(TWO, "send_unknown", IS_CANCELLED, TICKET_CANCELLED),
    ticket(THREE, WORKING, WORK_EXPIRED),
    ticket(FOUR, said(ANSWERED, b"in time")),
    ticket(id_of(5), WORKING, left=True),
]

LIES = {
    "the_second_reply": (ticket(ONE, said(ANSWERED, b"second")), {Lie.UNDECIDED}),
    "a_reply_in_another_partition": (ticket(ONE, said(ANSWERED, b"elsewhere")), {Lie.UNDECIDED}),
    "a_reply_to_a_cancelled_request": (ticket(TWO, said(ANSWERED, b"too late for it")), {Lie.UNDECIDED}),
    "a_reply_after_the_deadline": (ticket(THREE, said(ANSWERED, b"after the deadline")), {Lie.UNDECIDED}),
    "a_reply_that_is_not_there": (ticket(id_of(9), said(ANSWERED, b"first")), {Lie.UNDECIDED}),
    "expired_and_a_reply_came_in_time": (ticket(FOUR, WORK_EXPIRED), {Lie.UNDECIDED}),
    "expired_and_it_was_cancelled": (ticket(TWO, WORK_EXPIRED), {Lie.UNDECIDED}),
    "cancelled_after_the_reply": (ticket(ONE, TICKET_CANCELLED), {Lie.UNDECIDED}),
    "the_client_is_told_that_it_has_cancelled": (ticket(ONE, IS_CANCELLED), {Lie.UNDECIDED}),
    "two_final_answers": (ticket(ONE, said(ANSWERED, b"first"), TICKET_CANCELLED), {Lie.UNDECIDED, Lie.CHANGED}),
    "two_replies": (ticket(ONE, said(ANSWERED, b"first"), said(ANSWERED, b"second")), {Lie.UNDECIDED, Lie.CHANGED}),
    "a_node_that_forgets": (ticket(ONE, said(ANSWERED, b"first"), WORKING), {Lie.FORGOTTEN}),
    "an_unknown_status_url": (ticket(ONE, "ticket_unknown", said(ANSWERED, b"first")), {Lie.FORGOTTEN}),
    "a_status_url_that_is_gone": (ticket(ONE, said(ANSWERED, b"first"), "ticket_gone"), {Lie.FORGOTTEN}),
    "no_final_answer": (ticket(ONE, WORKING, "store_down"), {Lie.UNSETTLED}),
    "never_asked": (ticket(ONE), {Lie.UNSETTLED}),
    "silence": (ticket(ONE, SILENT, said(ANSWERED, b"first")), {Lie.SILENCE}),
}  # fmt: skip


def judged(*tickets: Followed) -> Verdict:
    verdict = Verdict()
    judge_tickets(verdict, tickets, REQUESTS, KEPT)
    return verdict


def test_the_ids_of_these_tests_are_ids() -> None:
    for one in (ONE, TWO, THREE, FOUR):
        cid = ids.parse(one)
        assert cid is not None
        assert cid.home == HOME


def test_the_truth_is_not_called_a_lie() -> None:
    assert judged(*TRUTH).lies == {}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_called_by_its_name(name: str) -> None:
    lie, kinds = LIES[name]
    verdict = judged(*TRUTH, lie)
    assert verdict.lies == dict.fromkeys(kinds, 1)
    assert all(str(lie) in verdict.offenders[kind][0] for kind in kinds)


def test_an_answer_that_overlaps_with_the_first_final_one_is_no_relapse() -> None:
    seen = [Seen(0.0, 2.0, ANSWERED, b"first", PORT), Seen(1.0, 3.0, WORKING, b"", PORT)]
    assert judged(Followed(b"request", ONE, "/_later/x", seen)).lies == {}
