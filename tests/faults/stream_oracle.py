"""The oracle's rules about streams: what clients got, compared with the topic of streams alone.

The topic says what a stream is: the records on the request's home partition that belong to the attempt of the first of
them, in order, each item once. A client gets the beginning of that, in that order. It is told that the stream is
complete only if the topic holds the end, and then it has everything. A client that comes back as browsers do
(`Last-Event-ID`) is one client: what it got on all its connections is put together. A stream that fails says why, and
the topic shows that it is so.

Nothing here uses the gateway's own rules about streams, and nothing does I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastgw import ids
from tests.faults.oracle import CUT, REFUSED, SILENT, Found, Lie, Verdict

COMPLETE = "complete"  # the client was told that it has everything
FAILED = "failed"  # the service's own error, for which the client has asked
LOST = "resync"  # the position of a client that came back is not known
UNSETTLED = "unsettled"  # a client came back again and again, and was told no end
OVERTAKEN, SLOW_READER = "overtaken", "slow_reader"
OWN_TROUBLE = "the store of this node"  # in the detail of a failure for which the gateway blames itself
UNKNOWN = {CUT, REFUSED, SILENT, OVERTAKEN, SLOW_READER}  # what the topic of streams does not explain

OK, ERROR = b"ok", b"error"


class Limits(NamedTuple):
    """The deadlines of the routes, in ms, and how much later than due anything may be noticed."""

    first_ms: int
    idle_ms: int
    longest_ms: int
    slack_ms: int = 1000


@dataclass
class Streamed:
    """A stream as its client got it.

    Attributes:
        asked: names the request.
        ending: COMPLETE, FAILED, LOST, UNSETTLED, CUT, REFUSED, SILENT, or the name of the gateway's ending.
        began_ms, ended_ms: since 1970, by the clock of the client.
        total: how many items the end says there are; -1: it does not say.
        is_bytes: the items are pieces of bytes; the records of the topic may have other borders.
        is_claimed: the head said that the record is there.
        detail: of the failure, in the gateway's words.
        was_stopped: whether a client that came back after the end was told to stop. None: it did not come back.
        after_end: what it was told.
    """

    asked: bytes
    correlation_id: bytes = b""
    items: list[bytes] = field(default_factory=list)
    ending: str = ""
    began_ms: int = 0
    ended_ms: int = 0
    total: int = -1
    is_bytes: bool = False
    is_claimed: bool = False
    connections: int = 1
    detail: str = ""
    was_stopped: bool | None = None
    after_end: str = ""

    def __str__(self) -> str:
        last = self.items[-1][:40] if self.items else b""
        return (
            f"{self.asked!r} with the id {self.correlation_id!r}: {self.ending} at {self.ended_ms} after "
            f"{len(self.items)} items on {self.connections} connections, the last one {last!r} {self.detail}"
            f"{self.after_end}"
        )


class Story(NamedTuple):
    """What the topic says of one stream.

    Attributes:
        items: (when it was appended, item), in order.
        end: OK, ERROR; b"": there is none.
        is_broken: an item is missing in the log, so nothing after it counts.
        attempts: runs of the handler that wrote anything.
    """

    items: list[tuple[int, bytes]]
    end: bytes = b""
    end_ms: int = 0
    is_broken: bool = False
    attempts: int = 0

    @property
    def first_ms(self) -> int:
        """When its first item or its end was appended; never, if there is neither."""
        return min([at_ms for at_ms, _ in self.items[:1]] + [self.end_ms] * bool(self.end), default=1 << 63)

    def __str__(self) -> str:
        broken = ", then one is missing" if self.is_broken else ""
        return f"the topic: {len(self.items)} items{broken}, end {self.end!r} at {self.end_ms}"


NO_STORY = Story([])


def judge_streams(
    verdict: Verdict, streams: Iterable[Streamed], requests: Iterable[Found], records: Iterable[Found], limits: Limits
) -> None:
    """Adds the lies about streams to a verdict. What became of the requests' records is judged by `oracle.judge`.

    Args:
        requests: the request topic.
        records: the topic of streams, all records since before the first request.
    """
    ids_by_request = {record.body: record.correlation_id for record in requests}
    stories = stories_of(records)
    for stream in streams:
        is_recorded = stream.asked in ids_by_request
        if stream.is_claimed and not is_recorded:
            verdict.accuse(Lie.LOST, f"{stream}: the head said that it is recorded")
        story = stories.get(ids_by_request.get(stream.asked, stream.correlation_id), NO_STORY)
        lie = _lie_of(stream, story, limits)
        if lie is not None:
            verdict.accuse(lie, f"{stream}; {story}")


def stories_of(records: Iterable[Found]) -> dict[bytes, Story]:
    """Correlation id -> what the topic says of this stream."""
    by_id: dict[bytes, list[Found]] = defaultdict(list)
    for record in records:
        cid = ids.parse(record.correlation_id)
        if cid is not None and cid.home == record.partition:
            by_id[record.correlation_id].append(record)
    return {one: _story(sorted(found, key=lambda record: record.offset)) for one, found in by_id.items()}


def _story(records: list[Found]) -> Story:
    attempts = {_told(record, "stream_attempt") for record in records}
    deciding = (record for record in records if _told(record, "stream_seq") or _told(record, "stream_end"))
    attempt = next((_told(record, "stream_attempt") for record in deciding), None)
    items: list[tuple[int, bytes]] = []
    for record in records:
        if _told(record, "stream_attempt") != attempt:
            continue
        at_ms, end = record.appended_ms, _told(record, "stream_end")
        if end != ERROR and _told(record, "stream_seq"):
            first = int(_told(record, "stream_seq"))
            if first > len(items):
                return Story(items, is_broken=True, attempts=len(attempts))
            items += [(at_ms, item) for item in record.body.split(b"\n")[len(items) - first :]]
        if end:
            is_broken = int(_told(record, "stream_total") or 0) > len(items)
            return Story(items, b"" if is_broken else end, at_ms, is_broken, len(attempts))
    return Story(items, attempts=len(attempts))


def _told(record: Found, name: str) -> bytes:
    return record.stream.get(name, b"")


def _lie_of(stream: Streamed, story: Story, limits: Limits) -> Lie | None:
    """The first lie about a stream; None: there is none."""
    got, written = _both(stream, story)
    if stream.ending == SILENT:
        return Lie.SILENCE
    if stream.ending == COMPLETE and story.end != OK:
        return Lie.NOT_ENDED
    if stream.ending == COMPLETE and (got != written or stream.total not in (-1, len(written))):
        return Lie.NOT_WHOLE
    if got != written[: len(got)]:
        return Lie.NOT_WRITTEN
    if stream.ending in (LOST, UNSETTLED) or stream.was_stopped is False:
        return Lie.STRANDED
    return None if _is_shown(stream, story, limits) else Lie.EXCUSE


def _both(stream: Streamed, story: Story) -> tuple[Sequence[object], Sequence[object]]:
    """What the client got, and what the topic holds: items, or bytes, which have no borders."""
    written = [item for _, item in story.items]
    return (b"".join(stream.items), b"".join(written)) if stream.is_bytes else (stream.items, written)


def _is_shown(stream: Streamed, story: Story, limits: Limits) -> bool:
    """Whether the topic shows what the client was told about the end of its stream."""
    ending, noticed_ms = stream.ending, stream.ended_ms - limits.slack_ms
    is_ended = bool(story.end) and story.end_ms < noticed_ms
    if ending == FAILED:
        got, written = _both(stream, story)
        return story.end == ERROR and got == written
    if ending == "stream_idle":
        since_ms = stream.ended_ms - limits.idle_ms + limits.slack_ms
        return not is_ended and not any(since_ms < at_ms < noticed_ms for at_ms, _ in story.items)
    if ending == "stream_broken":
        return story.is_broken or not is_ended or OWN_TROUBLE in stream.detail
    if ending in ("expired", "expired_unknown"):
        return story.first_ms > stream.began_ms + limits.first_ms - limits.slack_ms
    if ending == "stream_max":
        return stream.ended_ms >= stream.began_ms + limits.longest_ms - limits.slack_ms
    if ending in ("bad_item", "bad_reply"):
        return False  # the service of the scenarios writes none
    return ending == COMPLETE or ending in UNKNOWN or not stream.items


def streams_by_attempts(records: Iterable[Found]) -> Mapping[int, int]:
    """How many runs of a handler -> how many streams have so many."""
    counts: dict[int, int] = defaultdict(int)
    for story in stories_of(records).values():
        counts[story.attempts] += 1
    return dict(counts)
