"""The oracle of idempotency keys: compares what clients were told with the lanes and with the records that were sent.

The rules are replayed over the lanes by `tests.store.lane_reference`, which shares no code with the gateway. So the
oracle knows who held each key and when, and which reply has answered it. The first rules below do not even rest on
that: they are counted from the topics alone. Nothing here does I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from fastgw.dialects.control import Claim, Released
from fastgw.store.lane import Grade, GradedReply
from tests.store.lane_reference import Entry, replay

SLACK_MS = 5  # between what a client writes down and what a broker does: both round, and have the same clock


class Heard(NamedTuple):
    """What a client was told about one request with a key. All requests with a key are the same request.

    Times are milliseconds since 1970.
    """

    key_hash: bytes
    status: int
    is_of_service: bool
    body: bytes
    correlation_id: bytes = b""  # of the request; empty: the answer does not name it
    outcome: str = ""  # what the answer says became of the record
    began_ms: float = 0.0
    ended_ms: float = inf


class Sent(NamedTuple):
    """A record of the request topic."""

    key_hash: bytes
    attempt: int
    correlation_id: bytes


class Written(NamedTuple):
    """A record of a lane, in the order of the log; of a reply also its value."""

    appended_ms: int
    offset: int
    content: Claim | Released | GradedReply
    value: bytes = b""


class KeyLie(StrEnum):
    """The kinds of lies."""

    TWICE = "two records for one key and attempt"
    TOO_EARLY = "another attempt was sent before the first one had its time"
    UNCLAIMED = "a record whose claim has not won"
    DIFFERENT = "two answers to one key"
    INVENTED = "an answer that is not the one in the lane"
    REUSED = "422 for a key that was used for one request"
    NOT_BUSY = "409 while no other request held the key"
    STUCK = "a key that was held for longer than its time, and nobody took it over"
    KEPT = "503 for a request whose own claim holds the key"
    RESEND_ME = "not_recorded, and the record is there"
    LOST = "recorded, and the record is not there"


class Different(NamedTuple):
    """The answers to one key."""

    key_hash: bytes
    bodies: set[bytes]


About = Heard | Sent | Claim | Different
"""Whom a lie is about; each has a `key_hash`."""


class Holding(NamedTuple):
    """A claim that has won."""

    correlation_id: bytes
    won_ms: int
    take_over_ms: int  # from this time on another attempt may win
    end_ms: float  # when it was answered, freed, or taken over; otherwise when its time was over


@dataclass
class Story:
    """What the lanes say about one key."""

    holdings: list[Holding] = field(default_factory=list)
    answers: set[bytes] = field(default_factory=set)  # values
    claimed_ms: list[int] = field(default_factory=list)  # when anybody wrote a claim
    released: set[bytes] = field(default_factory=set)  # ids of claims that were given up


def judge_keys(
    heard: Iterable[Heard],
    sent: Sequence[Sent],
    lanes: Mapping[int, Sequence[Written]],
    published_ms: int,
    lost: frozenset[bytes] = frozenset(),
    unread_ms: float = 0.0,
) -> list[tuple[KeyLie, About]]:
    """Every lie, and who has told it.

    Args:
        lanes: all records of each lane.
        published_ms: how long a request that does not answer may hold a key: `take_over` of the route.
        lost: keys about which records are missing, because their topic was deleted. All that can be said of them is
            whether an answer is one that the service has given to this key: it answers with the id of the request.
        unread_ms: how long after its append time a record may be hidden from the nodes, by an open transaction.
    """
    heard = list(heard)
    told = [one for one in heard if one.key_hash not in lost]
    judged = [one for one in sent if one.key_hash not in lost]
    stories = {key: _story_of(records) for key, records in _by_key(lanes).items()}
    won = {holding.correlation_id for story in stories.values() for holding in story.holdings}
    given = {(one.key_hash, one.correlation_id) for one in sent}
    return [
        *_about_records(judged, lanes),
        *((KeyLie.UNCLAIMED, one) for one in judged if one.correlation_id not in won),
        *_about_answers(told, stories),
        *_about_outcomes(heard, {one.correlation_id for one in sent}),
        *_about_refusals(told, stories, unread_ms + SLACK_MS),
        *_about_time(told, stories, lanes, published_ms, unread_ms + SLACK_MS),
        *((KeyLie.INVENTED, one) for one in heard if one.key_hash in lost and not _was_given(one, given)),
    ]


def log_of(key_hash: bytes, lanes: Mapping[int, Sequence[Written]]) -> str:
    """The records about a key, for people."""
    return "\n    ".join(str(one) for one in _by_key(lanes)[key_hash])


def _by_key(lanes: Mapping[int, Sequence[Written]]) -> dict[bytes, list[Written]]:
    """The records about each key, in order: no rule compares records of two keys."""
    records = [one for of_lane in lanes.values() for one in of_lane]
    keys: dict[bytes, bytes] = {}  # id of an attempt -> its key
    for one in records:
        if isinstance(one.content, Claim):
            keys[one.content.correlation_id] = one.content.key_hash
    by_key: dict[bytes, list[Written]] = defaultdict(list)
    for one in records:
        of_reply = keys.get(one.content.correlation_id) if isinstance(one.content, GradedReply) else None
        key_hash = of_reply if isinstance(one.content, GradedReply) else one.content.key_hash
        if key_hash is not None:
            by_key[key_hash].append(one)
    return by_key


def _story_of(records: Sequence[Written]) -> Story:
    story = Story()
    for one, said in zip(records, replay([Entry(one.appended_ms, one.content) for one in records]), strict=True):
        content, at_ms = one.content, one.appended_ms
        if isinstance(content, Claim):
            story.claimed_ms.append(at_ms)
        elif isinstance(content, Released):
            story.released.add(content.correlation_id)
        if said[0] in ("won", "answered", "freed") and story.holdings:
            story.holdings[-1] = story.holdings[-1]._replace(end_ms=min(story.holdings[-1].end_ms, at_ms))
        if said[0] == "won" and isinstance(content, Claim):
            over_ms = at_ms + max(content.take_over_ms, content.keep_ms)
            story.holdings.append(Holding(content.correlation_id, at_ms, at_ms + content.take_over_ms, over_ms))
        elif said[0] == "answered":
            story.answers.add(one.value)
    return story


def _about_records(sent: Sequence[Sent], lanes: Mapping[int, Sequence[Written]]) -> Iterable[tuple[KeyLie, About]]:
    """From the topics alone: nothing here knows who has won."""
    claims = {
        written.content.correlation_id: written
        for records in lanes.values()
        for written in records
        if isinstance(written.content, Claim)
    }
    replies = {
        written.content.correlation_id: written.content.grade
        for records in lanes.values()
        for written in records
        if isinstance(written.content, GradedReply)
    }
    # A reply of 500 or more frees the key, and attempts are counted from 1 again.
    counted: set[tuple[bytes, int]] = set()
    for one in sent:
        if replies.get(one.correlation_id) is Grade.FROM_500:
            continue
        if (one.key_hash, one.attempt) in counted:
            yield KeyLie.TWICE, one
        counted.add((one.key_hash, one.attempt))
        claim = claims.get(one.correlation_id)
        if claim is None or not isinstance(claim.content, Claim) or one.attempt == 1:
            continue
        if replies.get(claim.content.replaces) is Grade.FROM_500:
            continue  # the key was free
        before = claims.get(claim.content.replaces)
        if before is None or claim.appended_ms < before.appended_ms + claim.content.take_over_ms:
            yield KeyLie.TOO_EARLY, one


def _about_answers(heard: Iterable[Heard], stories: Mapping[bytes, Story]) -> Iterable[tuple[KeyLie, About]]:
    told: dict[bytes, set[bytes]] = defaultdict(set)
    for one in heard:
        if one.status == 422:
            yield KeyLie.REUSED, one
        elif one.is_of_service and one.status < 500:
            told[one.key_hash].add(one.body)
            if one.key_hash not in stories or one.body not in stories[one.key_hash].answers:
                yield KeyLie.INVENTED, one
    for key_hash, bodies in told.items():
        if len(bodies) > 1:
            yield KeyLie.DIFFERENT, Different(key_hash, bodies)


def _about_outcomes(heard: Iterable[Heard], sent_ids: set[bytes]) -> Iterable[tuple[KeyLie, About]]:
    """What the gateway itself says about the record of a request."""
    for one in heard:
        if one.is_of_service or not one.correlation_id:
            continue
        if one.outcome == "not_recorded" and one.correlation_id in sent_ids:
            yield KeyLie.RESEND_ME, one
        if one.outcome == "recorded" and one.correlation_id not in sent_ids:
            yield KeyLie.LOST, one


def _about_refusals(
    heard: Iterable[Heard], stories: Mapping[bytes, Story], slack_ms: float
) -> Iterable[tuple[KeyLie, About]]:
    for one in heard:
        story = stories.get(one.key_hash, Story())
        if one.status == 409 and not _others(one, story, slack_ms):
            yield KeyLie.NOT_BUSY, one
        holds = any(holding.correlation_id == one.correlation_id for holding in story.holdings)
        if one.status == 503 and holds and one.correlation_id not in story.released:
            yield KeyLie.KEPT, one


def _about_time(
    heard: Iterable[Heard],
    stories: Mapping[bytes, Story],
    lanes: Mapping[int, Sequence[Written]],
    published_ms: int,
    slack_ms: float,
) -> Iterable[tuple[KeyLie, About]]:
    """No key stays stuck: it is free after the published time, and a request that comes then takes it over."""
    for records in lanes.values():
        for written in records:
            if isinstance(written.content, Claim) and written.content.take_over_ms > published_ms:
                yield KeyLie.STUCK, written.content
    for one in heard:
        if one.status != 409:
            continue
        story = stories.get(one.key_hash, Story())
        others = _others(one, story, slack_ms)
        if not others:
            continue
        free_ms = max(holding.take_over_ms for holding in others)
        # A request that lives for longer than a holder had claims the next attempt. If that came to nothing, its claim
        # is there all the same; and one claim is enough for all requests of a worker.
        tried = any(free_ms <= at_ms <= one.ended_ms + SLACK_MS for at_ms in story.claimed_ms)
        if free_ms + SLACK_MS < one.began_ms and not tried:
            yield KeyLie.STUCK, one


def _others(one: Heard, story: Story, slack_ms: float) -> list[Holding]:
    """The holdings of a key by other requests while this one waited."""
    return [
        holding
        for holding in story.holdings
        if holding.correlation_id != one.correlation_id
        and holding.won_ms <= one.ended_ms + SLACK_MS
        and holding.end_ms >= one.began_ms - slack_ms
    ]


def _was_given(one: Heard, given: set[tuple[bytes, bytes]]) -> bool:
    """Whether this is no answer of the service, or one to a record with this key."""
    return not one.is_of_service or one.status >= 500 or (one.key_hash, one.body) in given
