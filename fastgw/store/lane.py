"""The rules of idempotency keys: who may send a request, and which reply answers it. Pure: no I/O, no clock.

A lane is a partition of `<name>.later`. It holds claims, releases and replies of the keys that belong to it, in one
order, and each record has the time at which the broker appended it. Every node applies the rules of this module to the
same records, so all nodes come to the same result. Nothing else decides: no configuration, no clock, no arrival.

    state      record                                               becomes
    -----      ------                                               -------
    free       a claim                                              held
    held       a claim that states the next attempt, names the      held, by the new attempt
               holder, has its fingerprint, and was appended
               `take_over` or more after it
    held       a reply below 500, or one that cannot be decoded,    answered
               to the holder, or to the attempt that its claim
               replaces, appended before the holder's `take_over`;
               to the latter, within `GRACE_MS` after the claim
    held       a reply of 500 or more to the holder, before then    free
    held       the holder's release                                 free
    held       time: `keep` after the claim, at least `take_over`   free
    answered   time: `keep` after the reply                         free

Any other record changes nothing: another claim loses, another reply has no effect. A reply that cannot be decoded
answers, because the work was done.

**A release wins over its claim** in either order: a worker gives up while its claim is still on its way. So releases
are remembered for `RELEASE_MS`.

**No state outlives its records in Kafka**, because a node that rebuilds its tables sees only what Kafka has kept:
`keep`, the longest `take_over`, and an hour. So a held key becomes free after `keep`, even if nobody takes it over, and
a reply counts only for a limited time after the claim.

**What a claim does not say counts for nothing.** A node whose log begins between two attempts knows the second one
alone. So replies count to the attempt that the holder's own claim names, and to none before it.

**A claim that has lost is released, too**, by the worker that wrote it. Kafka may have deleted the record to which it
lost but not yet the claim: without the release, the claim would then look as if it had won.

**Forgetting changes nothing.** A key is forgotten `CLOCK_SLACK_MS` after it has become free, because append times can
go back: a broker's clock is set, or a broker with another clock becomes the leader.
"""

from __future__ import annotations

import heapq
from collections import Counter
from enum import Enum, IntEnum
from typing import Final, NamedTuple

import msgspec

from fastgw.dialects.control import Cancelled, Claim, Released

RELEASE_MS: Final = 3_600_000  # a producer gives up a claim after the timeout of its route, which is at most an hour
CLOCK_SLACK_MS: Final = 3_600_000
OVER_MAX: Final = 64  # ended holdings of one key that are remembered
GRACE_MS: Final = 1_800_000  # after the claim that replaces an attempt, in which a reply to that attempt counts


class Grade(IntEnum):
    """What a reply is for its key; the status bytes of the claim's dialect decide."""

    BELOW_500 = 0
    FROM_500 = 1  # 500 or more
    UNDECODABLE = 2


class GradedReply(NamedTuple):
    """A reply on the home partition of its id."""

    correlation_id: bytes
    grade: Grade


Record = Claim | Released | Cancelled | GradedReply

# --- the state of a key ---------------------------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True):
    """A request with this key may be under way."""

    claim: Claim  # of the holder
    offset: int  # of the claim
    appended_ms: int  # when the broker appended it
    first_id: bytes = b""  # of the attempt that found the key free; empty: it is this one
    first_ms: int = 0  # when the claim of that attempt was appended

    @property
    def holding_id(self) -> bytes:
        """The id of the first attempt: it names this holding, however often the key is taken over."""
        return self.first_id or self.claim.correlation_id

    @property
    def holding_ms(self) -> int:
        """When this holding began."""
        return self.first_ms if self.first_id else self.appended_ms

    @property
    def take_over_ms(self) -> int:
        """From this time on, another attempt can win, and replies no longer count."""
        return self.appended_ms + self.claim.take_over_ms

    @property
    def ends_ms(self) -> int:
        return self.appended_ms + max(self.claim.keep_ms, self.claim.take_over_ms)

    @property
    def attempts(self) -> tuple[bytes, ...]:
        """The ids whose replies can answer: of the holder, and of the attempt that it replaces, if there is one."""
        claim = self.claim
        return (claim.correlation_id, claim.replaces) if claim.replaces else (claim.correlation_id,)

    def counts(self, correlation_id: bytes, time_ms: int) -> bool:
        """Whether a reply to one of these attempts counts if it is appended at this time."""
        is_holder = correlation_id == self.claim.correlation_id
        return time_ms < self.take_over_ms and (is_holder or time_ms < self.appended_ms + GRACE_MS)


class Answered(msgspec.Struct, frozen=True):
    """A reply has answered this key."""

    claim: Claim  # of the last holder
    correlation_id: bytes  # of the attempt that was answered
    offset: int  # of the reply
    appended_ms: int  # when the broker appended the reply
    grade: Grade  # BELOW_500 or UNDECODABLE
    first_id: bytes = b""  # as in `Held`

    @property
    def holding_id(self) -> bytes:
        """See `Held.holding_id`."""
        return self.first_id or self.claim.correlation_id

    @property
    def ends_ms(self) -> int:
        return self.appended_ms + self.claim.keep_ms


class Over(NamedTuple):
    """A holding that has freed its key, and that the replies to its first id do not tell everything about."""

    holding_id: bytes
    reply_offset: int | None  # None: its claim was released
    until_ms: int  # so long it is remembered


class Key(msgspec.Struct, frozen=True):
    """What is known of one key."""

    holding: Held | Answered | None = None  # None: free
    releases: tuple[tuple[bytes, int], ...] = ()  # ids of claims that were given up; when, by the broker's clock
    over: tuple[Over, ...] = ()  # the newest last; no record is judged by them, only status URLs ask

    def at(self, time_ms: int) -> Held | Answered | None:
        """The state that a record appended at this time meets; None: the key is free."""
        holding = self.holding
        return holding if holding is not None and time_ms < holding.ends_ms else None

    def has_released(self, correlation_id: bytes, time_ms: int) -> bool:
        """Whether a claim with this id that is appended at this time has been given up."""
        return any(released == correlation_id and time_ms < at + RELEASE_MS for released, at in self.releases)

    @property
    def forget_ms(self) -> int:
        """From this time on, by the broker's clock, the key is as one that was never seen."""
        free_ms = self.holding.ends_ms if self.holding is not None else 0
        if self.releases:
            free_ms = max(free_ms, *(at + RELEASE_MS for _, at in self.releases))
        if self.over:
            free_ms = max(free_ms, *(one.until_ms for one in self.over))
        return free_ms + CLOCK_SLACK_MS


# --- what a record does ---------------------------------------------------------------------------------------------


class Why(Enum):
    """Why a claim lost, or why another record had no effect."""

    RELEASED = "released"  # a claim that was given up
    HELD = "held"  # another request is under way: the client joins it
    TOO_EARLY = "too_early"  # the next attempt, but the holder still has time
    OTHER_FINGERPRINT = "other_fingerprint"  # the key was used for another request
    ANSWERED = "answered"  # the answer is there
    REPEATED = "repeated"  # this claim has won before
    NOT_HOLDING = "not_holding"  # its id does not hold a key, or no longer
    TOO_LATE = "too_late"  # a reply after its time
    OLD_ATTEMPT = "old_attempt"  # a reply of 500 or more, but not to the holder
    NEVER_CANCELLED = "never_cancelled"  # idempotent requests are not cancelled


class Won(NamedTuple):
    """The claim holds its key."""

    key_hash: bytes
    held: Held


class Lost(NamedTuple):
    """The claim does not hold its key; `holding` is the state of the key, None if it is free."""

    key_hash: bytes
    correlation_id: bytes
    why: Why
    holding: Held | Answered | None


class KeyAnswered(NamedTuple):
    """A reply has answered the key: everyone who waits for it gets this reply."""

    key_hash: bytes
    held: Held  # the state before
    answered: Answered


class Freed(NamedTuple):
    """The key is free again: everyone who waits for it gets this reply."""

    key_hash: bytes
    held: Held  # the state before
    reply_offset: int | None  # of the reply of 500 or more; None: its claim was released, nothing was sent


class NoEffect(NamedTuple):
    """The record changes nothing for anyone who waits."""

    why: Why


Event = Won | Lost | KeyAnswered | Freed | NoEffect

_FREE = Key()


def judge_claim(key: Key, claim: Claim, offset: int, appended_ms: int) -> tuple[Key, Won | Lost | NoEffect]:
    """Apply a claim to its key."""
    holding = key.at(appended_ms)
    why = None
    if key.has_released(claim.correlation_id, appended_ms):
        why = Why.RELEASED
    elif isinstance(holding, Held) and claim.correlation_id in holding.attempts:
        return key, NoEffect(Why.REPEATED)
    elif holding is not None and holding.claim.fingerprint != claim.fingerprint:
        why = Why.OTHER_FINGERPRINT
    elif isinstance(holding, Answered):
        why = Why.ANSWERED
    elif holding is not None:
        why = _refused_take_over(holding, claim, appended_ms)
    if why is not None:
        return key, Lost(claim.key_hash, claim.correlation_id, why, holding)
    held = Held(claim, offset, appended_ms)
    if isinstance(holding, Held):  # it is taken over
        held = Held(claim, offset, appended_ms, holding.holding_id, holding.holding_ms)
    return Key(held, key.releases, key.over), Won(claim.key_hash, held)


def _refused_take_over(held: Held, claim: Claim, appended_ms: int) -> Why | None:
    holder = held.claim
    if claim.attempt != holder.attempt + 1 or claim.replaces != holder.correlation_id:
        return Why.HELD
    return Why.TOO_EARLY if appended_ms < held.take_over_ms else None


def judge_release(key: Key, released: Released, appended_ms: int) -> tuple[Key, Freed | NoEffect]:
    """Apply a release to its key."""
    releases = (*_fresh(key.releases, appended_ms), (released.correlation_id, appended_ms))
    holding = key.at(appended_ms)
    if isinstance(holding, Held) and holding.claim.correlation_id == released.correlation_id:
        return Key(None, releases, _with_over(key, holding, None, appended_ms)), Freed(released.key_hash, holding, None)
    return Key(key.holding, releases, key.over), NoEffect(Why.NOT_HOLDING)


def _with_over(key: Key, held: Held, reply_offset: int | None, now_ms: int) -> tuple[Over, ...]:
    """What is remembered of ended holdings after the end of this one."""
    kept = tuple(one for one in key.over if now_ms < one.until_ms)
    return (*kept, Over(held.holding_id, reply_offset, now_ms + held.claim.keep_ms))[-OVER_MAX:]


def _fresh(releases: tuple[tuple[bytes, int], ...], now_ms: int) -> tuple[tuple[bytes, int], ...]:
    return tuple(one for one in releases if now_ms < one[1] + RELEASE_MS + CLOCK_SLACK_MS)


def judge_reply(
    key: Key, key_hash: bytes, reply: GradedReply, offset: int, appended_ms: int
) -> tuple[Key, KeyAnswered | Freed | NoEffect]:
    """Apply a reply to the key that its id holds or held."""
    held = key.at(appended_ms)
    if not isinstance(held, Held) or reply.correlation_id not in held.attempts:
        return key, NoEffect(Why.NOT_HOLDING)
    if not held.counts(reply.correlation_id, appended_ms):
        return key, NoEffect(Why.TOO_LATE)
    if reply.grade is not Grade.FROM_500:
        answered = Answered(held.claim, reply.correlation_id, offset, appended_ms, reply.grade, held.first_id)
        return Key(answered, key.releases, key.over), KeyAnswered(key_hash, held, answered)
    if reply.correlation_id != held.claim.correlation_id:
        return key, NoEffect(Why.OLD_ATTEMPT)
    # Without a take-over, the first reply to the id of the holding is the one that has freed the key.
    over = _with_over(key, held, offset, appended_ms) if held.first_id else key.over
    return Key(None, key.releases, over), Freed(key_hash, held, offset)


# --- many keys ------------------------------------------------------------------------------------------------------


class Lane:
    """All keys of one lane. Give it every record of its partition, in the order of their offsets.

    Attributes:
        next_offset: the first offset that it has not seen; it ignores records below.
        newest_ms: the latest append time that it has seen.
        lanes_met: the numbers of lanes that claims state. A number other than that of this node says that the nodes
            are configured differently.
        kept: the keys that are held or answered, by the route of their claim.
        longest_ms: the longest time from a claim to the end of its answer that a claim has stated.
    """

    def __init__(self) -> None:
        self.next_offset = 0
        self.newest_ms = 0
        self.lanes_met: set[int] = set()
        self.kept: Counter[str] = Counter()
        self.longest_ms = 0
        self._keys: dict[bytes, Key] = {}
        self._held_by: dict[bytes, bytes] = {}  # id of an attempt -> the key that it holds
        # Each key has one valid entry: the one with the time that _forget_at has. Others are skipped.
        self._to_forget: list[tuple[int, bytes]] = []
        self._forget_at: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Lane keys={len(self._keys)} attempts={len(self._held_by)} next_offset={self.next_offset}>"

    def __len__(self) -> int:
        """The number of keys that are not forgotten."""
        return len(self._keys)

    def state(self, key_hash: bytes, time_ms: int) -> Held | Answered | None:
        """The state that a claim appended at this time would meet now; None: the key is free."""
        return self._keys.get(key_hash, _FREE).at(time_ms)

    def over(self, key_hash: bytes, holding_id: bytes) -> Over | None:
        """How this holding has freed the key; None: it has not, or what its first id was told says everything."""
        found = [one for one in self._keys.get(key_hash, _FREE).over if one.holding_id == holding_id]
        return found[-1] if found else None

    def claim_of(self, correlation_id: bytes) -> Claim | None:
        """The claim of the holder, if this is the id of one of its attempts: it says how to read the reply."""
        key_hash = self._held_by.get(correlation_id)
        holding = self._keys[key_hash].holding if key_hash is not None else None
        return holding.claim if holding is not None else None

    def apply(self, offset: int, appended_ms: int, record: Record) -> Event | None:
        """Apply a record; what it has done, or None if it had been seen before.

        Args:
            offset: of the record.
            appended_ms: when the broker appended it, since 1970.
        """
        if offset < self.next_offset:
            return None
        self.next_offset = offset + 1
        self.newest_ms = max(self.newest_ms, appended_ms)
        if isinstance(record, Cancelled):
            return NoEffect(Why.NEVER_CANCELLED)
        if isinstance(record, GradedReply):
            key_hash = self._held_by.get(record.correlation_id)
            if key_hash is None:
                return NoEffect(Why.NOT_HOLDING)
        else:
            key_hash = record.key_hash
        before = self._keys.get(key_hash, _FREE)
        after: Key
        event: Event
        if isinstance(record, GradedReply):
            after, event = judge_reply(before, key_hash, record, offset, appended_ms)
        elif isinstance(record, Claim):
            self.lanes_met.add(record.lanes)
            after, event = judge_claim(before, record, offset, appended_ms)
        else:
            after, event = judge_release(before, record, appended_ms)
        if after is not before:
            self._keep(key_hash, before, after)
        return event

    def forget(self) -> int:
        """Forget the keys that have been free for long enough; returns their number. It changes no later event."""
        forgotten = 0
        while self._to_forget and self._to_forget[0][0] <= self.newest_ms:
            due_ms, key_hash = heapq.heappop(self._to_forget)
            if self._forget_at.get(key_hash) != due_ms:
                continue
            key = self._keys[key_hash]
            if key.forget_ms > self.newest_ms:
                self._look_again(key_hash, key.forget_ms)
                continue
            self._index(key_hash, key, _FREE)
            del self._keys[key_hash], self._forget_at[key_hash]
            forgotten += 1
        return forgotten

    def _keep(self, key_hash: bytes, before: Key, after: Key) -> None:
        self._keys[key_hash] = after
        self._index(key_hash, before, after)
        # When the time has come, a later one is looked up.
        forget_ms = after.forget_ms
        if forget_ms < self._forget_at.get(key_hash, forget_ms + 1):
            self._look_again(key_hash, forget_ms)

    def _index(self, key_hash: bytes, before: Key, after: Key) -> None:
        if before.holding is not None:
            self.kept[before.holding.claim.route] -= 1
        if after.holding is not None:
            claim = after.holding.claim
            self.kept[claim.route] += 1
            self.longest_ms = max(self.longest_ms, claim.take_over_ms + claim.keep_ms)
        if isinstance(before.holding, Held):
            for attempt in before.holding.attempts:
                self._held_by.pop(attempt, None)
        if isinstance(after.holding, Held):
            for attempt in after.holding.attempts:
                self._held_by[attempt] = key_hash

    def _look_again(self, key_hash: bytes, at_ms: int) -> None:
        self._forget_at[key_hash] = at_ms
        heapq.heappush(self._to_forget, (at_ms, key_hash))
