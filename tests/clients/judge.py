"""Holds what the clients were told against the request topic: no record may be left without an answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.clients.fleet import Line, Stream
from tests.faults.oracle import Found

SHOWN = 5
# Libraries that give up what is under way on a connection when its server says by GOAWAY that it takes nothing new
# there. RFC 9113, 6.8, has them wait for their answers; Go's net/http and Envoy say it at the same moment as we do.
# Stream -> what the library calls it. undici sends the requests beside the first once more, as if they were new.
FORGETFUL = {
    "httpx-2-granian": "ConnectionState.CLOSED",  # h2: https://github.com/python-hyper/h2/issues/1181
    "httpx-2-tls": "ConnectionState.CLOSED",
    "jdk-2-tls": "GOAWAY received",  # seen with JDK 17
    "undici-2-granian": '"GOAWAY" frame received',  # 7.30: onHttp2SessionGoAway destroys the socket
    "undici-2-tls": '"GOAWAY" frame received',
}
REPEATING = {"undici-2-granian", "undici-2-tls"}
LATE_LINE_S = 2.0  # on its way through the client's process and ours
LATE_ANSWER_S = 10.0  # to what was sent once more; it takes two seconds if it is a slow one


class End(NamedTuple):
    """The end of a generation of workers, monotonic."""

    began_s: float  # it was told to end
    over_s: float  # its processes were gone
    workers: int = 1  # one after the other is replaced: a client may meet one GOAWAY after another


@dataclass
class Verdict:
    """What was found.

    Attributes:
        unanswered: records whose client got no answer, or told nothing.
        forgotten: records whose client gave up at a GOAWAY, though the gateway would have answered: see FORGETFUL.
        forgotten_too_often: streams that did so more often than there are connections, at every end of a generation.
        retried: records beyond the first for one body: a library asked again, because it had no answer.
        lies: answers that contradict the topic, or belong to another request.
        misspoken: answers in another HTTP version than the stream was to speak.
        cut: requests without answer that have no record, by stream: allowed, and told.
        endings: how many requests ended how, by what was answered.
    """

    unanswered: list[str] = field(default_factory=list)
    forgotten: Counter[str] = field(default_factory=Counter)
    forgotten_too_often: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    misspoken: list[str] = field(default_factory=list)
    cut: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not (self.unanswered or self.retried or self.lies or self.misspoken or self.forgotten_too_often)

    def __str__(self) -> str:
        text = [
            f"answered: {dict(self.endings)}",
            f"without record, without answer: {dict(self.cut)}",
            f"given up by its client at a GOAWAY: {dict(self.forgotten)}",
        ]
        for name in ("unanswered", "retried", "lies", "misspoken", "forgotten_too_often"):
            found = getattr(self, name)
            if found:
                streams = dict(Counter(str(one).split()[1] for one in found))
                text += [f"{name}, {len(found)} times, {streams}:", *(f"  {one}" for one in found[:SHOWN])]
        return "\n".join(text)


def judge(
    lines: Iterable[Line],
    records: Iterable[Found],
    streams: Mapping[str, Stream],
    ends: Sequence[End] = (),
    connections: int = 0,
) -> Verdict:
    """Compares every line with the request topic.

    Args:
        lines: every request of the clients, each exactly once.
        records: the request topic, all records since before the first of them.
        streams: what the clients are called, and what they were to speak.
        ends: when generations of workers ended: only then a library may forget what is under way.
        connections: of each stream, with one request under way on each.
    """
    verdict = Verdict()
    told = {line.body: line for line in lines}
    ids: dict[str, list[bytes]] = defaultdict(list)
    for record in records:
        ids[record.body.decode()].append(record.correlation_id)
    for body, found in ids.items():
        line = told.get(body)
        if line is None:
            verdict.unanswered.append(f"{body!r} is recorded, and its client told nothing of it")
        elif not line.status and _may_forget(line, ends):
            verdict.forgotten[line.client] += 1
        elif not line.status:
            verdict.unanswered.append(f"{body!r} is recorded, and its client got: {line.error}")
        if (
            len(found) == 2
            and line is not None
            and line.client in REPEATING
            and _is_at_an_end(line, ends, LATE_ANSWER_S)
        ):
            verdict.forgotten[line.client] += 1
        elif len(found) > 1:
            verdict.retried.append(f"{body!r} has the records {found}, its client was told {line}")
    for line in told.values():
        _judge_one(verdict, line, len(ids.get(line.body, ())), streams[line.client])
    most = connections * sum(end.workers for end in ends)
    verdict.forgotten_too_often = [
        f"stream {name} forgot {count} requests, at most {most} were under way at a GOAWAY"
        for name, count in verdict.forgotten.items()
        if count > most
    ]
    return verdict


def _may_forget(line: Line, ends: Sequence[End]) -> bool:
    return FORGETFUL.get(line.client, "no such word") in line.error and _is_at_an_end(line, ends, LATE_LINE_S)


def _may_repeat(line: Line, ends: Sequence[End]) -> bool:
    return line.client in REPEATING and _is_at_an_end(line, ends, LATE_ANSWER_S)


def _is_at_an_end(line: Line, ends: Sequence[End], later_s: float) -> bool:
    return any(end.began_s <= line.heard_s <= end.over_s + later_s for end in ends)


def _judge_one(verdict: Verdict, line: Line, records: int, stream: Stream) -> None:
    if not line.status:
        verdict.cut[line.client] += not records
        return
    verdict.endings[f"{line.status} {line.outcome}"] += 1
    if line.version != stream.spoken:
        verdict.misspoken.append(f"{line}, not HTTP/{stream.spoken}")
    truthful = bool(records) if line.outcome == "recorded" else line.outcome == "unknown" or not records
    if not truthful or not line.outcome or (line.status == 200 and (line.answer != line.body or not records)):
        verdict.lies.append(f"{line}, records: {records}")
