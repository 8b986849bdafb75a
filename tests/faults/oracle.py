"""The oracle: compares what every client was told with what is in Kafka, and calls a lie a lie.

It knows three things: the answers that the clients wrote down, the records of the request topic and the records of the
response topic. Bodies are unique, so a body names its request; the correlation id joins its record to its replies.
Nothing here does I/O: a wrong log is as easy to judge as a right one, which is how the oracle itself is tested.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

ANSWERED = "answered"  # the service's own answer
CUT = "cut"  # the connection ended without an answer
REFUSED = "refused"  # no connection: nothing was sent
SILENT = "silent"  # the connection lived on, long after every deadline, and nothing came

TICKET_CANCELLED = "ticket_cancelled"  # a deferred request that its own client has cancelled
AS_ASKED = {ANSWERED, TICKET_CANCELLED, "complete", "failed"}  # not a failure; the last two are of streams

OFFENDERS_SHOWN = 5  # of each kind of lie
NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


class Told(NamedTuple):
    """What one client was told about one request; times are monotonic seconds."""

    body: bytes
    began_s: float
    ended_s: float
    ending: str  # ANSWERED, CUT, REFUSED, SILENT, or the name of the gateway's ending
    outcome: str = ""  # what the answer says became of the record; empty: there was no answer
    status: int = 0
    request_id: bytes = b""  # the correlation id that the answer names; empty: it names none
    answer: bytes = b""
    port: int = 0

    def __str__(self) -> str:
        return f"{self.body[:60]!r} was told {self.status} {self.ending} {self.outcome} {self.answer[:120]!r}"


class Found(NamedTuple):
    """One record of a topic; the fields after the body are needed for deferred and for streamed answers.

    The body of a request without one is its query: it names the request, too.
    """

    correlation_id: bytes
    body: bytes
    partition: int = 0
    offset: int = 0
    appended_ms: int = 0  # its timestamp
    deadline_ms: int = 0  # what its header says; 0: it has none
    kind: bytes = b""  # of a control record; empty: it is none
    stream: Mapping[str, bytes] = NO_HEADERS  # its headers about streams


class Lie(StrEnum):
    """The kinds of lies."""

    RESEND_ME = "not_recorded, and the record is there"
    LOST = "recorded, and the record is not there"
    TWICE = "two records for one request"
    STRANGER = "an answer that belongs to another request"
    SILENCE = "no answer while the connection lived"
    INVENTED = "a service's answer that no service gave"
    UNASKED = "a record that no client asked for"
    UNDECIDED = "a status URL told what the first record in its partition does not say"
    CHANGED = "a status URL told two different final answers"
    FORGOTTEN = "a status URL that the gateway does not know, or no longer"
    UNSETTLED = "a status URL that never told a final answer"
    NOT_ENDED = "a stream told an end that its topic does not hold"
    NOT_WHOLE = "a stream told its end, and items are missing, doubled or out of order"
    NOT_WRITTEN = "a stream with an item that its topic does not hold at this place"
    STRANDED = "a client that came back to its stream could not go on, or was not told to stop"
    EXCUSE = "a stream failed for a reason that its topic does not show"


@dataclass
class Verdict:
    """What the oracle found."""

    requests: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    lies: Counter[StrEnum] = field(default_factory=Counter)
    offenders: dict[StrEnum, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, told: Iterable[Told]) -> None:
        """Counts requests that are judged elsewhere."""
        for one in told:
            self.requests += 1
            self.endings[one.ending] += 1

    def accuse(self, lie: StrEnum, offender: object) -> None:
        """Counts a lie, and keeps the first few of each kind to show."""
        self.lies[lie] += 1
        if self.lies[lie] <= OFFENDERS_SHOWN:
            self.offenders[lie].append(str(offender))

    def __str__(self) -> str:
        lines = [f"{self.requests} requests: {dict(self.endings)}"]
        for lie, count in self.lies.items():
            lines += [f"LIE, {count} times: {lie}", *(f"  {offender}" for offender in self.offenders[lie])]
        return "\n".join(lines)


def judge(told: Iterable[Told], requests: Iterable[Found], replies: Iterable[Found] | None) -> Verdict:
    """Compares every answer with what is in Kafka.

    Args:
        told: every request of the clients, each exactly once.
        requests: the request topic, all records since before the first of them.
        replies: the response topic; None when the fault has destroyed it, which spares INVENTED.
    """
    verdict = Verdict()
    ids_by_body: dict[bytes, list[bytes]] = defaultdict(list)
    for record in requests:
        ids_by_body[record.body].append(record.correlation_id)
    bodies_by_id: dict[bytes, set[bytes]] | None = None
    if replies is not None:
        bodies_by_id = defaultdict(set)
        for reply in replies:
            bodies_by_id[reply.correlation_id].add(reply.body)
    asked = set()
    for one in told:
        asked.add(one.body)
        verdict.requests += 1
        verdict.endings[one.ending] += 1
        _judge_one(verdict, one, ids_by_body.get(one.body, []), bodies_by_id)
    for body, ids in ids_by_body.items():
        if body not in asked:
            verdict.accuse(Lie.UNASKED, f"{body[:60]!r} with the id {ids[0]!r}")
    return verdict


def _judge_one(
    verdict: Verdict, told: Told, record_ids: list[bytes], replies: Mapping[bytes, set[bytes]] | None
) -> None:
    if len(record_ids) > 1:
        verdict.accuse(Lie.TWICE, f"{told}; ids {record_ids}")
    if told.outcome == "not_recorded" and record_ids:
        verdict.accuse(Lie.RESEND_ME, f"{told}; ids {record_ids}")
    if told.outcome == "recorded" and not record_ids:
        verdict.accuse(Lie.LOST, told)
    if told.ending == SILENT:
        verdict.accuse(Lie.SILENCE, told)
    if told.request_id and record_ids and told.request_id not in record_ids:
        verdict.accuse(Lie.STRANGER, f"{told}; it names {told.request_id!r}, its record is {record_ids}")
    if told.ending == ANSWERED and not _was_given(told, record_ids, replies):
        verdict.accuse(Lie.INVENTED if told.answer == told.body else Lie.STRANGER, told)


def _was_given(told: Told, record_ids: list[bytes], replies: Mapping[bytes, set[bytes]] | None) -> bool:
    """Whether this answer is a reply to this request's own record. Services echo, unless they are asked for worse."""
    if replies is None:
        return told.answer == told.body
    return any(told.answer in replies.get(one, ()) for one in record_ids)
