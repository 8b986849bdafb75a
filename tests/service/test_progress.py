"""Settled records, and work that runs elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from fastgw.service.progress import InHand, OffsetProgress


def test_only_the_settled_beginning_may_be_committed() -> None:
    progress = OffsetProgress()
    for offset in (10, 11, 13):  # 12 is a hole, as compaction and transactions leave them
        progress.start(offset)
    assert progress.committable() == 10
    progress.finish(13)
    assert progress.committable() == -1, "13 has two before it"
    progress.finish(10)
    assert progress.committable() == 11
    progress.finish(11)
    assert progress.committable() == 14
    assert progress.committable() == -1, "no news"


@given(st.permutations(range(8)), st.integers(1, 8))
def test_nothing_unsettled_is_ever_committed(order: list[int], look_every: int) -> None:
    progress, unsettled, committed = OffsetProgress(), set(range(8)), 0
    for offset in range(8):
        progress.start(offset)
    for turn, offset in enumerate(order, 1):
        progress.finish(offset)
        unsettled.discard(offset)
        if turn % look_every == 0 or not unsettled:
            committed = max(committed, progress.committable())
        assert committed <= min(unsettled, default=8)
    assert committed == 8


def test_room_is_what_the_limit_leaves() -> None:
    in_hand = InHand(2)
    assert in_hand.wait_for_room(0) == 2
    in_hand.enter()
    in_hand.enter()
    assert in_hand.wait_for_room(0) == 0
    assert not in_hand.wait_until_none(0)
    with ThreadPoolExecutor(1) as pool:
        room = pool.submit(in_hand.wait_for_room, 10)
        in_hand.leave()
        assert room.result(10) == 1
    in_hand.leave()
    assert in_hand.wait_until_none(0)
