"""The rules of idempotency keys a second time: slow, without any state, by looking back over the whole log.

Where `fastgw.store.lane` carries a state from record to record, this asks of each record what came before it. Both must
come to the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastgw.dialects.control import Cancelled, Claim, Released
from fastgw.store.lane import Grade, GradedReply

HOUR_MS = 3_600_000


class Entry(NamedTuple):
    """One record of the log; its offset is its index."""

    appended_ms: int
    record: Claim | Released | Cancelled | GradedReply


# One word and the ids that it is about, for each record.
Said = tuple[object, ...]


def replay(log: Sequence[Entry]) -> list[Said]:
    """What each record of the log has done."""
    wins: list[int] = []
    said: list[Said] = []
    for at, (_, record) in enumerate(log):
        if isinstance(record, Claim):
            words = _claim(log, wins, at, record)
            if words[0] == "won":
                wins.append(at)
        elif isinstance(record, Released):
            holder = _holder(log, wins, at, record.key_hash)
            holds = holder is not None and log[holder].record.correlation_id == record.correlation_id
            words = ("freed", record.correlation_id, None) if holds else ("nothing",)
        elif isinstance(record, GradedReply):
            words = _reply(log, wins, at, record)
        else:
            words = ("nothing",)
        said.append(words)
    return said


def _claim(log: Sequence[Entry], wins: list[int], at: int, claim: Claim) -> Said:
    now = log[at].appended_ms
    me = claim.correlation_id
    if any(
        isinstance(entry.record, Released)
        and (entry.record.correlation_id, entry.record.key_hash) == (me, claim.key_hash)
        and now < entry.appended_ms + HOUR_MS
        for entry in log[:at]
    ):
        return "lost", me, "released"
    answer = _answer(log, wins, at, claim.key_hash)
    if answer is not None:
        same = _claim_of(log, answer[0]).fingerprint == claim.fingerprint
        return "lost", me, "answered" if same else "other_fingerprint"
    holder = _holder(log, wins, at, claim.key_hash)
    if holder is None:
        return "won", me
    held = _claim_of(log, holder)
    if me in _attempts(log, holder):
        return ("nothing",)
    if claim.fingerprint != held.fingerprint:
        return "lost", me, "other_fingerprint"
    if (claim.attempt, claim.replaces) != (held.attempt + 1, held.correlation_id):
        return "lost", me, "held"
    if now - log[holder].appended_ms < held.take_over_ms:
        return "lost", me, "too_early"
    return "won", me


def _reply(log: Sequence[Entry], wins: list[int], at: int, reply: GradedReply) -> Said:
    for key_hash in {_claim_of(log, win).key_hash for win in wins}:
        holder = _holder(log, wins, at, key_hash)
        attempts = _attempts(log, holder) if holder is not None else {}
        if holder is None or not _counts(attempts, reply.correlation_id, log[at].appended_ms):
            continue
        held = _claim_of(log, holder)
        if log[at].appended_ms >= log[holder].appended_ms + held.take_over_ms:
            continue
        if reply.grade is not Grade.FROM_500:
            return "answered", held.correlation_id, reply.correlation_id
        if reply.correlation_id == held.correlation_id:
            return "freed", held.correlation_id, at
    return ("nothing",)


def _claim_of(log: Sequence[Entry], at: int) -> Claim:
    claim = log[at].record
    assert isinstance(claim, Claim)
    return claim


def _last_win(log: Sequence[Entry], wins: list[int], before: int, key_hash: bytes) -> int | None:
    return max((win for win in wins if win < before and _claim_of(log, win).key_hash == key_hash), default=None)


def _lasts_ms(claim: Claim) -> int:
    return max(claim.keep_ms, claim.take_over_ms)


def _end(log: Sequence[Entry], wins: list[int], win: int, before: int) -> int | None:
    """The record that ended what this win began; None if none did before `before`, whatever the time."""
    holder, attempts = _claim_of(log, win), _attempts(log, win)
    for at in range(win + 1, before):
        appended_ms, record = log[at]
        if appended_ms >= log[win].appended_ms + _lasts_ms(holder):
            continue  # nothing that comes too late ends it
        if isinstance(record, Released) and (record.correlation_id, record.key_hash) == (
            holder.correlation_id, holder.key_hash,
        ):  # fmt: skip
            return at
        if isinstance(record, GradedReply) and appended_ms < log[win].appended_ms + holder.take_over_ms:
            if record.grade is Grade.FROM_500 and record.correlation_id == holder.correlation_id:
                return at
            if record.grade is not Grade.FROM_500 and _counts(attempts, record.correlation_id, appended_ms):
                return at
    return None


def _holder(log: Sequence[Entry], wins: list[int], at: int, key_hash: bytes) -> int | None:
    """The claim that holds the key when the record at `at` comes; None: none does."""
    win = _last_win(log, wins, at, key_hash)
    if win is None or _end(log, wins, win, at) is not None:
        return None
    lasts = log[at].appended_ms < log[win].appended_ms + _lasts_ms(_claim_of(log, win))
    return win if lasts else None


def _answer(log: Sequence[Entry], wins: list[int], at: int, key_hash: bytes) -> tuple[int, int] | None:
    """The last win and the reply that has answered it, when the record at `at` comes and the answer is kept."""
    win = _last_win(log, wins, at, key_hash)
    end = _end(log, wins, win, at) if win is not None else None
    if win is None or end is None:
        return None
    record = log[end].record
    if not isinstance(record, GradedReply) or record.grade is Grade.FROM_500:
        return None
    is_kept = log[at].appended_ms < log[end].appended_ms + _claim_of(log, win).keep_ms
    return (win, end) if is_kept else None


def _attempts(log: Sequence[Entry], win: int) -> dict[bytes, int]:
    """The ids whose replies count for this win, and until when: its own, and that which its claim replaces."""
    own, appended_ms = _claim_of(log, win), log[win].appended_ms
    attempts = {own.correlation_id: appended_ms + own.take_over_ms}
    if own.replaces:
        attempts.setdefault(own.replaces, appended_ms + HOUR_MS // 2)
    return attempts


def _counts(attempts: dict[bytes, int], correlation_id: bytes, appended_ms: int) -> bool:
    return correlation_id in attempts and appended_ms < attempts[correlation_id]
