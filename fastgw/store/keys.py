"""Idempotency keys: one `Lane` for each partition of the topic of kept replies, and who watches which key.

The lanes are in memory. The tables keep the claims and releases beside the replies, in the same transaction as the
position up to which they were read. So a store that starts builds its lanes again from the tables, record by record, by
the rules of `lane`. That needs no second format on disk, and costs no write when a state changes. What is in the tables
decides nothing: only the order of the records does. An index finds the claims and releases, and the replies to the ids
of the claims. So a store that keeps millions of other replies starts as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from heapq import heappop, heappush
from math import inf
from typing import Final, Protocol

import msgspec
import structlog

from fastgw.dialects import BadReply, plain
from fastgw.dialects.control import Claim, Control, Released
from fastgw.kept_replies import KeyKnown, KeyState
from fastgw.mesh.store_frames import KeyWatch
from fastgw.messages import Reply
from fastgw.store.entries import Entry, Key, KeyKind
from fastgw.store.lane import Answered, Event, Freed, Grade, GradedReply, Held, KeyAnswered, Lane, Lost, NoEffect, Won
from fastgw.store.requests import RecordKind
from fastgw.store.tables import Kept, Source, Tables
from fastgw.store.topic_reader import Arrived

READ_AT_ONCE = 1000  # entries

log = structlog.get_logger("fastgw.store")

_ABOUT_KEYS: Final[Key] = (int(KeyKind.IDEMPOTENCY), b"")  # of all claims and releases
_CLAIM, _RELEASED = "claim", "released"  # headers of entries: a header stays in the tables, a value may not
_STATUS_OF = {"plain": plain.status_of}  # by the dialect that a claim names
_OF_KEYS = (Claim, Released)
_encode = msgspec.msgpack.Encoder().encode
_decode_claim = msgspec.msgpack.Decoder(Claim).decode
_decode_released = msgspec.msgpack.Decoder(Released).decode


class KeyListener(Protocol):
    """A connection of a worker."""

    def tell(self, state: KeyState) -> None: ...


class Values(Protocol):
    """Reads values that the tables have left in the topic; see `LogValues`."""

    def read(self, partition: int, offset: int, on_value: Callable[[bytes | None], None]) -> None: ...


Trouble = Callable[[int], KeyKnown | None]
"""Why nothing can be said about the keys of a lane now: RESTORING, BEHIND or NEWER_LAYOUT; None: it can."""


def entry_of(control: Control, appended_ms: int) -> Entry | None:
    """What the tables keep of a control record about a key; None: it is about something else."""
    if isinstance(control, Claim):
        return Entry(RecordKind.CLAIM, appended_ms, (_ABOUT_KEYS,), [(_CLAIM, _encode(control))], b"")
    if isinstance(control, Released):
        return Entry(RecordKind.RELEASED, appended_ms, (_ABOUT_KEYS,), [(_RELEASED, _encode(control))], b"")
    return None


class Keys:
    """All lanes of the topic, and the watches of all connections.

    Attributes:
        lanes: by their partition; none while the topic has another number of partitions than `later.lanes`.
    """

    def __init__(self, tables: Tables, values: Values, trouble: Trouble, beat: Callable[[], None]) -> None:
        """
        Args:
            beat: called now and then while the lanes are built, which may take longer than the store may be silent.
        """
        self.lanes: dict[int, Lane] = {}
        self._tables = tables
        self._values = values
        self._trouble = trouble
        self._beat = beat
        self._topic_id = b""
        self._watches: dict[bytes, dict[tuple[KeyListener, int], KeyWatch]] = {}  # by key
        self._numbers: dict[KeyListener, dict[int, KeyWatch]] = {}

    def __repr__(self) -> str:
        return f"<Keys {len(self)} in {len(self.lanes)} lanes, {self.watch_count} watches>"

    def __len__(self) -> int:
        """The number of keys that are not forgotten."""
        return sum(map(len, self.lanes.values()))

    @property
    def watch_count(self) -> int:
        return sum(map(len, self._numbers.values()))

    @property
    def longest_ms(self) -> int:
        """How long after its claim a key may be answered; the tables must keep the claim so long."""
        return max([lane.longest_ms for lane in self.lanes.values()], default=0)

    def other_lanes(self) -> int:
        """A number of lanes that a node with another configuration uses; 0: there is none."""
        met: set[int] = set().union(*[lane.lanes_met for lane in self.lanes.values()])
        return min(met - {len(self.lanes)}, default=0)

    # --- records ---

    def locate(self, topic_id: bytes, partitions: Set[int], forgotten: Set[int], lanes: int) -> None:
        """The topic was found. Lanes that are not known yet are built from the tables.

        Args:
            partitions: that it has.
            forgotten: those whose records are read again from the beginning.
            lanes: `later.lanes`. With another number of partitions, no key can be served.
        """
        if topic_id != self._topic_id:
            self.lanes = {}
        self._topic_id = topic_id
        if partitions != set(range(lanes)):
            hint = "`fastgw check` says what to do"
            log.error("idempotency keys are not served", partitions=len(partitions), lanes=lanes, hint=hint)
            self.lanes = {}
            return
        for partition in partitions:
            if partition in forgotten or partition not in self.lanes:
                self.lanes[partition] = self._built(partition)

    def _built(self, partition: int) -> Lane:
        lane, source = Lane(), Source(self._topic_id, partition)
        replies = _Merged()  # to the ids of the claims so far
        for kept in self._with_key(_ABOUT_KEYS, source, 0):
            for reply in replies.before(kept.offset):
                _apply_again(lane, reply)
            content = _apply_again(lane, kept)
            if isinstance(content, Claim):
                replies.add(self._with_key((int(KeyKind.ID), content.correlation_id), source, kept.offset))
        for reply in replies.before(inf):
            _apply_again(lane, reply)
        lane.forget()
        return lane

    def _with_key(self, key: Key, source: Source, offset: int) -> Iterator[Kept]:
        """The entries of a lane with this key from this offset on, in order."""
        while entries := self._tables.entries_with_key(key, source, offset, READ_AT_ONCE):
            self._beat()
            yield from entries
            offset = entries[-1].offset + 1

    def took(self, arrived: Arrived, content: Control | Reply) -> bytes | None:
        """A record was read and is in the tables. Returns the key whose state it has changed."""
        reply = arrived.reply
        lane = self.lanes.get(reply.partition)
        if lane is None:
            return None
        event = _apply(lane, reply.offset, arrived.appended_ms, content)
        trouble = self._trouble(reply.partition)
        # What has happened long ago is no news: until the lane is read to its end, its key may have had other holders.
        if event is None or isinstance(event, NoEffect) or trouble == KeyKnown.RESTORING:
            return None
        # A claim that this node cannot read may have won instead. Replies to what was sent before are told as ever.
        if trouble != KeyKnown.NEWER_LAYOUT or not isinstance(event, Won | Lost):
            self._tell_event(event, arrived)
        return event.key_hash

    def forget(self) -> None:
        """Forget the keys that have been free for long enough."""
        for lane in self.lanes.values():
            lane.forget()

    # --- watches ---

    def watch(self, listener: KeyListener, watch: KeyWatch, now_ms: int) -> None:
        """Register a watch, and tell what is known now."""
        self.unwatch(listener, watch.number)
        self._numbers.setdefault(listener, {})[watch.number] = watch
        self._watches.setdefault(watch.key_hash, {})[listener, watch.number] = watch
        self._tell_present(listener, watch, now_ms)

    def unwatch(self, listener: KeyListener, number: int) -> None:
        """End a watch; an unknown number is none."""
        watch = self._numbers.get(listener, {}).pop(number, None)
        if watch is None:
            return
        watches = self._watches[watch.key_hash]
        del watches[listener, number]
        if not watches:
            del self._watches[watch.key_hash]

    def gone(self, listener: KeyListener) -> None:
        """The connection has ended, and its watches with it."""
        for number in list(self._numbers.get(listener, ())):
            self.unwatch(listener, number)
        self._numbers.pop(listener, None)

    def tell_again(self, partitions: Set[int], now_ms: int) -> None:
        """Tell what is known of the keys of these lanes, because it could not be said before."""
        for listener, watches in list(self._numbers.items()):
            for watch in list(watches.values()):
                if watch.lane in partitions:
                    self._tell_present(listener, watch, now_ms)

    # --- what is told ---

    def _tell_present(self, listener: KeyListener, watch: KeyWatch, now_ms: int) -> None:
        lane, trouble = self.lanes.get(watch.lane), self._trouble(watch.lane)
        if lane is None or trouble is not None:
            listener.tell(KeyState(watch.number, trouble or KeyKnown.RESTORING))
            return
        now_ms = max(now_ms, lane.newest_ms)
        self._tell_holding(listener, watch, lane.state(watch.key_hash, now_ms), now_ms)

    def _tell_holding(
        self, listener: KeyListener, watch: KeyWatch, holding: Held | Answered | None, now_ms: int
    ) -> None:
        if isinstance(holding, Held):
            listener.tell(_held(watch.number, holding, now_ms))
        elif isinstance(holding, Answered):
            self._tell_answered(listener, watch, holding)
        else:
            listener.tell(KeyState(watch.number, KeyKnown.FREE, kept=self.kept(watch.route)))

    def _tell_answered(self, listener: KeyListener, watch: KeyWatch, answered: Answered) -> None:
        """Tell the answer that the tables keep, or that has to be read from the topic."""

        def told(reply: Reply | None) -> None:
            if reply is None:
                listener.tell(KeyState(watch.number, KeyKnown.BEHIND))
            else:
                listener.tell(_answered(watch.number, answered, reply))

        self.read(watch.lane, answered.offset, told)

    def read(self, lane: int, offset: int, on_reply: Callable[[Reply | None], None]) -> None:
        """Read a reply from the tables or from the topic; `on_reply` gets None if it cannot be read."""
        found = self._tables.entries_from(Source(self._topic_id, lane), offset, 1)
        if not found or found[0].offset != offset:
            log.error("a kept reply is missing", partition=lane, offset=offset)
            on_reply(None)
            return
        entry = found[0].entry
        headers = [(name, value or b"") for name, value in entry.headers]

        def told(value: bytes | None) -> None:
            on_reply(None if value is None else Reply(entry.keys[0][1], lane, offset, headers, value))

        if entry.is_reference:
            self._values.read(lane, offset, told)
        else:
            told(entry.value or b"")

    def _tell_event(self, event: Event, arrived: Arrived) -> None:
        if isinstance(event, Won):
            for (listener, _), watch in self._watches_of(event.key_hash):
                listener.tell(_held(watch.number, event.held, event.held.appended_ms))
        elif isinstance(event, Lost):
            # First the state to which the claim has lost: with it, the worker decides what comes next.
            if event.holding is not None:
                for (listener, _), watch in self._watches_of(event.key_hash):
                    self._tell_holding(listener, watch, event.holding, arrived.appended_ms)
            lost = (event.correlation_id,)
            self._tell_all(event.key_hash, lambda watch: KeyState(watch.number, KeyKnown.LOST, lost))
        elif isinstance(event, KeyAnswered):
            for (listener, _), watch in self._watches_of(event.key_hash):
                listener.tell(_answered(watch.number, event.answered, arrived.reply))
        elif isinstance(event, Freed):
            self._tell_all(event.key_hash, lambda watch: self._freed(watch, event, arrived.reply))

    def _freed(self, watch: KeyWatch, event: Freed, record: Reply) -> KeyState:
        claim, kept = event.held.claim, self.kept(watch.route)
        number, ids = watch.number, event.held.attempts
        if event.reply_offset is None:
            return KeyState(number, KeyKnown.FREED, ids, claim.fingerprint, claim.attempt, kept=kept)
        return KeyState(
            number, KeyKnown.FREED, ids, claim.fingerprint, claim.attempt, 0, kept, record.partition, record.offset,
            record.headers, record.value,
        )  # fmt: skip

    def _tell_all(self, key_hash: bytes, state_for: Callable[[KeyWatch], KeyState]) -> None:
        for (listener, _), watch in self._watches_of(key_hash):
            listener.tell(state_for(watch))

    def _watches_of(self, key_hash: bytes) -> list[tuple[tuple[KeyListener, int], KeyWatch]]:
        return list(self._watches.get(key_hash, _NONE).items())

    def kept(self, route: str) -> int:
        """The keys of this route that are held or answered."""
        return sum(lane.kept[route] for lane in self.lanes.values())


class _Merged:
    """Entries of several keys of one lane, in order. Holds one page of each key at most."""

    def __init__(self) -> None:
        self._next: list[tuple[int, int, Kept, Iterator[Kept]]] = []  # a heap, by offset; the number decides a tie
        self._number = 0

    def add(self, entries: Iterator[Kept]) -> None:
        kept = next(entries, None)
        if kept is not None:
            self._number += 1
            heappush(self._next, (kept.offset, self._number, kept, entries))

    def before(self, offset: float) -> Iterator[Kept]:
        """Take the entries below this offset."""
        while self._next and self._next[0][0] < offset:
            _, _, kept, entries = heappop(self._next)
            yield kept
            self.add(entries)


_NONE: Mapping[tuple[KeyListener, int], KeyWatch] = {}


def _apply(lane: Lane, offset: int, appended_ms: int, content: Control | Reply | None) -> Event | None:
    """Apply a record to its lane; None: it is not about a key, or was applied before."""
    if isinstance(content, Reply):
        claim = lane.claim_of(content.correlation_id)
        if claim is None:
            return None
        return lane.apply(offset, appended_ms, GradedReply(content.correlation_id, _grade(claim, content)))
    return lane.apply(offset, appended_ms, content) if isinstance(content, _OF_KEYS) else None


def _grade(claim: Claim, reply: Reply) -> Grade:
    """What a reply is for its key. Only the claim counts, not the route of this node: all nodes must agree."""
    status_of = _STATUS_OF.get(claim.dialect)
    if status_of is None:
        return Grade.UNDECODABLE
    try:
        return Grade.FROM_500 if status_of(reply.headers) >= 500 else Grade.BELOW_500
    except BadReply:
        return Grade.UNDECODABLE


def _apply_again(lane: Lane, kept: Kept) -> Control | Reply | None:
    """Apply the record of an entry, and give it. A reply that came before its claim has no effect."""
    content = _content_of(kept)
    _apply(lane, kept.offset, kept.entry.timestamp_ms, content)
    return content


def _content_of(kept: Kept) -> Control | Reply | None:
    """The record of an entry, as far as lanes need it: a reply has no value."""
    entry = kept.entry
    if entry.kind == RecordKind.CLAIM:
        return _decode_claim(entry.headers[0][1] or b"")
    if entry.kind == RecordKind.RELEASED:
        return _decode_released(entry.headers[0][1] or b"")
    if entry.kind == RecordKind.REPLY:
        headers = [(name, value or b"") for name, value in entry.headers]
        return Reply(entry.keys[0][1], kept.source.partition, kept.offset, headers, b"")
    return None


def _held(number: int, held: Held, now_ms: int) -> KeyState:
    claim, left_ms = held.claim, max(0, held.take_over_ms - now_ms)
    return KeyState(
        number, KeyKnown.HELD, held.attempts, claim.fingerprint, claim.attempt, left_ms, first_id=held.holding_id,
        first_ms=held.holding_ms,
    )  # fmt: skip


def _answered(number: int, answered: Answered, reply: Reply) -> KeyState:
    claim = answered.claim
    return KeyState(
        number, KeyKnown.ANSWERED, (answered.correlation_id,), claim.fingerprint, claim.attempt, 0, 0, reply.partition,
        reply.offset, reply.headers, reply.value,
    )  # fmt: skip
