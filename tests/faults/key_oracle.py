"""The oracle of idempotency keys: compares what clients were told with the lanes and with the records that were sent.

The rules of `fastgw.store.lane` are replayed over the lanes, so the oracle knows who held each key, and which reply has
answered it. The first rules below do not rest on that: they are counted from the topics alone. Nothing here does I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from fastgw.dialects.control import Claim, Released
from fastgw.store.lane import Grade, GradedReply, KeyAnswered, Lane, Won


class Heard(NamedTuple):
    """What a client was told about one request with a key. All requests with a key are the same request."""

    key_hash: bytes
    status: int
    is_of_service: bool
    body: bytes


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


def judge_keys(
    heard: Iterable[Heard], sent: Sequence[Sent], lanes: Mapping[int, Sequence[Written]]
) -> list[tuple[KeyLie, object]]:
    """Every lie, and who has told it.

    Args:
        lanes: all records of each lane.
    """
    winners: dict[bytes, list[Won]] = defaultdict(list)
    answers: dict[bytes, set[bytes]] = defaultdict(set)
    for records in lanes.values():
        _replay(records, winners, answers)
    won = {one.held.claim.correlation_id for of_key in winners.values() for one in of_key}
    unclaimed = ((KeyLie.UNCLAIMED, one) for one in sent if one.correlation_id not in won)
    return [*_about_records(sent, lanes), *_about_answers(heard, answers), *unclaimed]


def _replay(records: Sequence[Written], winners: dict[bytes, list[Won]], answers: dict[bytes, set[bytes]]) -> None:
    lane = Lane()
    for written in records:
        event = lane.apply(written.offset, written.appended_ms, written.content)
        if isinstance(event, Won):
            winners[event.key_hash].append(event)
        elif isinstance(event, KeyAnswered):
            answers[event.key_hash].add(written.value)


def _about_records(sent: Sequence[Sent], lanes: Mapping[int, Sequence[Written]]) -> Iterable[tuple[KeyLie, object]]:
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
        before = claims.get(claim.content.replaces)
        if before is None or claim.appended_ms < before.appended_ms + claim.content.take_over_ms:
            yield KeyLie.TOO_EARLY, one


def _about_answers(heard: Iterable[Heard], answers: Mapping[bytes, set[bytes]]) -> Iterable[tuple[KeyLie, object]]:
    told: dict[bytes, set[bytes]] = defaultdict(set)
    for one in heard:
        if one.status == 422:
            yield KeyLie.REUSED, one
        elif one.is_of_service and one.status < 500:
            told[one.key_hash].add(one.body)
            if one.body not in answers.get(one.key_hash, ()):
                yield KeyLie.INVENTED, one
    for key_hash, bodies in told.items():
        if len(bodies) > 1:
            yield KeyLie.DIFFERENT, (key_hash, bodies)
