"""A range of the correlation table against a plain Python model: any calls in any order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from fastgw import _ctable
from fastgw._ctable import (
    ANSWERED,
    CLAIMED,
    CLAIMING,
    DUPLICATE,
    ELSEWHERE,
    FORGED,
    KEPT,
    LATE,
    RECORDED,
    RESTING,
    SENT,
    SINGLE,
    STREAM,
    STREAMING,
)
from tests.actors.tables import ENDINGS, LIVE, TICK_NS, TURN_NS, make, slot_of


@dataclass
class Occupancy:
    """What the model knows of one occupant of one slot."""

    tag: int
    deadline_ns: int
    claimed_ns: int
    kind: int
    state: int = CLAIMED
    ending: int = 0
    sent_ns: int = 0
    recorded_ns: int = 0

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass
class ModelSlot:
    claiming: bool = False
    claimed_since: bool = False  # somebody claimed it after its last occupant, published or not
    occupants: list[int] = field(default_factory=list)  # tokens, oldest first


class TableModel(RuleBasedStateMachine):
    """Everything a range can be asked, in any order, against dictionaries and lists."""

    claimed = Bundle("claimed")
    tokens = Bundle("tokens")

    SLOTS = 4

    @initialize()
    def begin(self) -> None:
        self.table = make(slots=self.SLOTS)
        self.range = self.table.open_range(1)
        self.first = self.SLOTS  # range 1 starts behind range 0
        self.free = deque(range(self.first, self.first + self.SLOTS))
        self.slots = {slot: ModelSlot() for slot in self.free}
        self.known: dict[int, Occupancy] = {}
        self.used = 0  # slots that were ever claimed: always the first ones
        self.now_ns = 5
        self.next_tag = 0

    @rule(target=claimed)
    def claim(self) -> int:
        slot = self.range.claim()
        assert slot == (self.free.popleft() if self.free else -1)
        if slot >= 0:
            self.slots[slot].claiming = self.slots[slot].claimed_since = True
            self.used = max(self.used, slot - self.first + 1)
        return slot

    @rule(
        target=tokens,
        slot=consumes(claimed),
        wait_ns=st.integers(-3 * TICK_NS, 3 * TURN_NS),
        kind=st.sampled_from((SINGLE, SINGLE, KEPT, STREAM)),
    )
    def publish(self, slot: int, wait_ns: int, kind: int) -> int:
        self.next_tag += 1
        deadline_ns = max(0, self.now_ns + wait_ns)
        if slot < 0 or not self.slots[slot].claiming:
            with pytest.raises(ValueError, match="expected a claimed slot"):
                self.range.publish(slot, self.next_tag, 3, 4, deadline_ns, self.now_ns)
            return -1
        if kind == SINGLE:
            token = self.range.publish(slot, self.next_tag, 3, 4, deadline_ns, self.now_ns)
        else:
            token = self.range.publish_kind(slot, self.next_tag, 3, 4, kind, deadline_ns, self.now_ns)
        assert slot_of(token) == slot
        assert token not in self.known
        self.known[token] = Occupancy(self.next_tag, deadline_ns, self.now_ns, kind)
        self.slots[slot].claiming = self.slots[slot].claimed_since = False
        self.slots[slot].occupants.append(token)
        return token

    @rule(slot=consumes(claimed))
    def abandon(self, slot: int) -> None:
        if slot < 0 or not self.slots[slot].claiming:
            with pytest.raises(ValueError, match="expected a claimed slot"):
                self.range.abandon(slot)
            return
        self.range.abandon(slot)
        self.slots[slot].claiming = False
        self.free.append(slot)

    def current(self, token: int) -> Occupancy | None:
        """The occupancy a token names, as long as nobody has claimed the slot since."""
        if token < 0:
            return None
        slot = self.slots[slot_of(token)]
        return self.known[token] if slot.occupants[-1] == token and not slot.claimed_since else None

    @rule(token=tokens)
    def sent(self, token: int) -> None:
        one = self.current(token)
        expected = one is not None and one.state == CLAIMED
        assert self.range.sent(token, self.now_ns) is expected
        if one and expected:
            one.state, one.sent_ns = SENT, self.now_ns

    @rule(token=tokens)
    def recorded(self, token: int) -> None:
        one = self.current(token)
        expected = one is not None and one.state in (CLAIMED, SENT)
        assert self.range.recorded(token, self.now_ns) is expected
        if one and expected:
            one.state, one.recorded_ns = RECORDED, self.now_ns

    @rule(token=tokens)
    def streaming(self, token: int) -> None:
        one = self.current(token)
        expected = one is not None and one.state in (CLAIMED, SENT, RECORDED)
        assert self.range.streaming(token) is expected
        if one and expected:
            one.state = STREAMING

    @rule(token=tokens, wait_ns=st.integers(-3 * TICK_NS, 3 * TURN_NS))
    def extend(self, token: int, wait_ns: int) -> None:
        deadline_ns = max(0, self.now_ns + wait_ns)
        one = self.current(token)
        expected = one is not None and one.live
        assert self.range.extend(token, deadline_ns) is expected
        if one and expected:
            one.deadline_ns = deadline_ns

    @rule(token=tokens, partition=st.integers(0, 0xFFFE))
    def partition(self, token: int, partition: int) -> None:
        self.range.set_partition(token, partition)
        assert self.range.partition(token) == (partition if self.current(token) else -1)

    @rule(token=tokens, ending=st.sampled_from(ENDINGS))
    def finish(self, token: int, ending: int) -> None:
        one = self.current(token)
        if one and one.live:
            assert self.range.finish(token, ending) == one.state
            one.state = one.ending = ending
        else:
            assert self.range.finish(token, ending) == -1

    def verdict(self, slot: ModelSlot, tag: int) -> int:
        """On a reply that ends nothing: this occupant and the one before are remembered."""
        remembered = slot.occupants[-2:]
        for token in remembered:
            if self.known[token].tag == tag:
                return DUPLICATE if self.known[token].ending == ANSWERED else LATE
        return FORGED

    @rule(token=tokens, change=st.sampled_from((0, 0, 0, 1 << 59, 1 << 60, 1 << 61)), elsewhere=st.booleans())
    def resolve(self, token: int, change: int, elsewhere: bool) -> None:
        if token < 0:
            return
        tag = self.known[token].tag ^ change
        one = self.current(token)
        resolve = self.range.resolve_elsewhere if elsewhere else self.range.resolve
        if tag >> 60 and not elsewhere:
            assert resolve(slot_of(token), tag) == ELSEWHERE
        elif one and one.live and one.tag == tag:
            assert resolve(slot_of(token), tag) == token
            one.state = one.ending = ANSWERED
        else:
            assert resolve(slot_of(token), tag) == self.verdict(self.slots[slot_of(token)], tag)

    @rule(token=tokens)
    def release(self, token: int) -> None:
        one = self.current(token)
        if one and one.state in ENDINGS:
            self.range.release(token)
            one.state = RESTING
            self.free.append(slot_of(token))
        else:
            with pytest.raises(ValueError, match="expected an occupancy that has ended"):
                self.range.release(token)

    @rule(token=tokens)
    def ask(self, token: int) -> None:
        one = self.current(token)
        if one:
            assert self.range.times(token) == (one.claimed_ns, one.sent_ns, one.recorded_ns, one.deadline_ns)
        else:
            with pytest.raises(ValueError, match="stale"):
                self.range.times(token)

    @rule(step_ns=st.one_of(st.integers(0, 3 * TICK_NS), st.integers(0, 3 * TURN_NS)), limit=st.integers(1, 5))
    def time_passes(self, step_ns: int, limit: int) -> None:
        self.now_ns += step_ns
        due = {token for token, one in self.known.items() if one.live and one.deadline_ns <= self.now_ns}
        found = self.range.expired(self.now_ns, limit)
        assert len(found) == len(set(found)) == min(limit, len(due))
        assert due.issuperset(found)

    @precondition(lambda self: self.known)
    @rule()
    def the_worker_dies_and_another_takes_over(self) -> None:
        live = {token for token, one in self.known.items() if one.live}
        halfway = [slot for slot in self.slots.values() if slot.claiming]
        assert self.table.reclaim(1) == (len(live), len(halfway))
        for slot in halfway:
            slot.claiming = False
        for one in self.known.values():
            if one.state != RESTING:
                one.ending = one.ending or _ctable.RECLAIMED
                one.state = RESTING
        self.range = self.table.open_range(1)
        never_used_first = [*range(self.used, self.SLOTS), *range(self.used)]
        self.free = deque(self.first + i for i in never_used_first)

    @invariant()
    def counts_agree(self) -> None:
        assert self.range.in_flight == self.SLOTS - len(self.free)
        live = sorted((one.claimed_ns, slot_of(token), one.state) for token, one in self.known.items() if one.live)
        assert [(item.claimed_ns, item.slot, item.state) for item in self.table.waiting(10)] == live
        kinds = {item.slot: item.kind for item in self.table.waiting(10)}
        assert kinds == {slot_of(token): one.kind for token, one in self.known.items() if one.live}
        for asked in ({SINGLE}, {KEPT}, {STREAM}, {SINGLE, STREAM}):
            before = [one for one in self.known.values() if one.live and one.kind in asked]
            mask = sum(1 << kind for kind in asked)
            assert self.range.live_before(self.now_ns, mask) == sum(one.claimed_ns < self.now_ns for one in before)
        states = self.table.states(1)
        assert sum(states.values()) == self.SLOTS
        for state in (*LIVE, *ENDINGS):
            assert states.get(state, 0) == sum(one.state == state for one in self.known.values())
        assert states.get(CLAIMING, 0) == sum(slot.claiming for slot in self.slots.values())


TestAgainstModel = TableModel.TestCase
TestAgainstModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
