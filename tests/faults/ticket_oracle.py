"""The oracle's rule about deferred answers: what status URLs told, compared with the topic of kept replies.

The first record that counts decides a request: it is on the request's home partition, and it was appended before the
time for the work was over. A status URL tells what was decided, or that it does not know yet, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastgw import ids
from tests.faults.oracle import ANSWERED, CUT, REFUSED, SILENT, TICKET_CANCELLED, Found, Lie, Verdict

REPLY, CANCELLED = b"", b"cancelled"  # the values of the header fastgw_kind that can decide a request

WORKING = "working"  # 202, as before
IS_CANCELLED = "is_cancelled"  # 202 to a DELETE
WORK_EXPIRED = "work_expired"
GONE = "ticket_gone"

FINAL = {ANSWERED, TICKET_CANCELLED, WORK_EXPIRED, IS_CANCELLED}
NOT_NOW = {
    WORKING,
    CUT,
    REFUSED,
    "store_down",
    "store_restoring",
    "store_behind",
    "watch_cap",
    "not_ready",
    "draining",
    "queue_full",  # a cancellation that was not written
    "send_unknown",  # a cancellation that was not read back in time
}


class Seen(NamedTuple):
    """One answer of a status URL; times are monotonic seconds."""

    began_s: float
    ended_s: float
    ending: str  # ANSWERED, WORKING, IS_CANCELLED, CUT, REFUSED, SILENT, or the name of the gateway's ending
    answer: bytes = b""
    port: int = 0  # of the node that told it

    def __str__(self) -> str:
        return f"{self.ending} {self.answer[:60]!r} by {self.port} at {self.ended_s:.3f}"

    @property
    def told(self) -> tuple[str, bytes]:
        """What it says; two final answers of one status URL say the same."""
        if self.ending == ANSWERED:
            return ANSWERED, self.answer
        return (TICKET_CANCELLED if self.ending == IS_CANCELLED else self.ending), b""


@dataclass
class Followed:
    """A status URL, and all that it told, in the order in which it was asked.

    Attributes:
        is_left: the client does not ask until there is a final answer.
    """

    body: bytes  # of the request
    correlation_id: bytes
    location: str
    seen: list[Seen] = field(default_factory=list)
    is_left: bool = False

    def __str__(self) -> str:
        return f"{self.body[:60]!r} with the id {self.correlation_id!r}"


def judge_tickets(
    verdict: Verdict, tickets: Iterable[Followed], requests: Iterable[Found], kept: Iterable[Found]
) -> None:
    """Adds the lies of status URLs to a verdict.

    Args:
        requests: the request topic; the `deadline` of a record is when the time for the work is over.
        kept: the topic of kept replies, all records since before the first request.
    """
    deadlines = {record.correlation_id: record.deadline_ms for record in requests}
    decisions = decisions_of(kept, deadlines)
    for ticket in tickets:
        _judge_ticket(verdict, ticket, decisions.get(ticket.correlation_id))


def judge_former_tickets(verdict: Verdict, tickets: Iterable[Followed], known_s: float) -> None:
    """Adds the lies of status URLs whose topic of kept replies was deleted, and what decided them with it.

    Each may tell its own reply, which is its own body, until its node knows of the new topic, and then that it is gone.

    Args:
        known_s: when all nodes knew of the topic that is there now (monotonic).
    """
    for ticket in tickets:
        gone_s: dict[int, float] = {}  # port -> when it told so first
        for seen in ticket.seen:
            if seen.ending == SILENT:
                verdict.accuse(Lie.SILENCE, f"{ticket}: {seen}")
            elif seen.ending == GONE:
                gone_s.setdefault(seen.port, seen.ended_s)
            elif seen.ending not in FINAL | NOT_NOW:
                verdict.accuse(Lie.FORGOTTEN, f"{ticket}: {seen}")
            elif seen.ending in FINAL | {WORKING} and seen.began_s > min(known_s, gone_s.get(seen.port, known_s)):
                verdict.accuse(Lie.CHANGED, f"{ticket}: {seen}, and its topic of kept replies is gone")
            elif seen.ending == WORK_EXPIRED or (seen.ending == ANSWERED and seen.answer != ticket.body):
                verdict.accuse(Lie.UNDECIDED, f"{ticket}: {seen}")
        if not ticket.is_left and not any(seen.ending in FINAL | {GONE} for seen in ticket.seen):
            verdict.accuse(Lie.UNSETTLED, f"{ticket}: {ticket.seen[-1] if ticket.seen else 'never asked'}")


def decisions_of(kept: Iterable[Found], deadlines: Mapping[bytes, int]) -> dict[bytes, Found]:
    """Correlation id -> the record that decides; ids that no record decides are missing."""
    by_id: dict[bytes, list[Found]] = defaultdict(list)
    for record in kept:
        cid = ids.parse(record.correlation_id)
        if cid is not None and cid.home == record.partition and record.kind in (REPLY, CANCELLED):
            by_id[record.correlation_id].append(record)
    firsts = ((one, min(records, key=lambda record: record.offset)) for one, records in by_id.items())
    # A first record that came too late decides nothing, and then no later one does.
    return {one: first for one, first in firsts if first.appended_ms < deadlines.get(one, 1 << 63)}


def _judge_ticket(verdict: Verdict, ticket: Followed, decision: Found | None) -> None:
    for seen in ticket.seen:
        if seen.ending == SILENT:
            verdict.accuse(Lie.SILENCE, f"{ticket}: {seen}")
        elif seen.ending in FINAL:
            if not _is_true(seen, decision):
                verdict.accuse(Lie.UNDECIDED, f"{ticket}: {seen}; what decides it is {decision}")
        elif seen.ending not in NOT_NOW:
            verdict.accuse(Lie.FORGOTTEN, f"{ticket}: {seen}")
    finals = [seen for seen in ticket.seen if seen.ending in FINAL]
    if len({seen.told for seen in finals}) > 1:
        verdict.accuse(Lie.CHANGED, f"{ticket}: {', '.join(map(str, finals))}")
    for seen in _relapses(ticket.seen):
        verdict.accuse(Lie.FORGOTTEN, f"{ticket}: {seen}, and before {finals[0]}")
    if not finals and not ticket.is_left:
        verdict.accuse(Lie.UNSETTLED, f"{ticket}: {ticket.seen[-1] if ticket.seen else 'never asked'}; {decision}")


def _is_true(seen: Seen, decision: Found | None) -> bool:
    ending, answer = seen.told
    if ending == WORK_EXPIRED:
        return decision is None
    if ending == TICKET_CANCELLED:
        return decision is not None and decision.kind == CANCELLED
    return decision is not None and decision.kind == REPLY and decision.body == answer


def _relapses(seen: Sequence[Seen]) -> list[Seen]:
    """Answers "still working" of a node that has told the final answer before. Another node may be behind."""
    known: dict[int, float] = {}  # port -> when it told a final answer first
    relapses = []
    for one in seen:
        if one.ending in FINAL:
            known.setdefault(one.port, one.ended_s)
        elif one.ending == WORKING and one.began_s >= known.get(one.port, float("inf")):
            relapses.append(one)
    return relapses
