"""Small tables for tests, and the shortest ways to put requests into them and end them."""

from __future__ import annotations

import os

from fastgw import _ctable, table
from fastgw._ctable import ANSWERED, CANCELLED, CLAIMED, EXPIRED, FAILED, RECORDED, SENT, STREAMING, SlotRange, Table

LIVE = {CLAIMED, SENT, RECORDED, STREAMING}
ENDINGS = (ANSWERED, EXPIRED, CANCELLED, FAILED)
MS = 1_000_000
TICK_NS = 1 << 23
TURN_NS = TICK_NS * 8192  # one turn of the deadline wheel, 68.7 s
FAR_NS = 2**62


def make(workers: int = 1, slots: int = 8) -> Table:
    fd, made = table.create(node=0xABCDEF, workers=workers, slots_per_process=slots)
    os.close(fd)  # the mapping lives on without it
    return made


def publish(slots: SlotRange, tag: int, deadline_ns: int = FAR_NS, now_ns: int = 1) -> int:
    return slots.publish(slots.claim(), tag, 1, 2, deadline_ns, now_ns)


def slot_of(token: int) -> int:
    return token % _ctable.SLOTS_MAX


def answer(slots: SlotRange, route: int, started_ns: int, times_ns: tuple[int, int] | None, ended_ns: int) -> None:
    """A whole request of a route: `times_ns` are those of sending and acknowledgement, None: it is answered before."""
    slot = slots.claim()
    token = slots.publish(slot, 7, route, 2, FAR_NS, started_ns)
    if times_ns is not None:
        slots.sent(token, times_ns[0])
        slots.recorded(token, times_ns[1])
    slots.resolve(slot, 7)
    slots.settle(token, 0, ended_ns)


def live_states(owner: Table) -> dict[int, int]:
    """Slot -> state of those that are live."""
    return {waiting.slot: waiting.state for waiting in owner.waiting(_ctable.SLOTS_MAX)}


def end(slots: SlotRange, token: int, ending: int = FAILED) -> None:
    assert slots.finish(token, ending) >= 0
    slots.release(token)
