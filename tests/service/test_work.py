"""The service's book-keeping: settled records, work that runs elsewhere, a log that cannot flood."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.service.work import InHand, LoopThread, OffsetProgress, Rarely, RarelyFilter
from tests.waiting import eventually


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


def test_a_closed_loop_cancels_what_still_runs() -> None:
    loop, began, ended = LoopThread("test"), threading.Event(), threading.Event()

    async def forever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    loop.start([forever])
    assert began.wait(10)
    loop.close()
    assert ended.is_set()


def test_a_loop_that_never_ran_anything_closes() -> None:
    LoopThread("test").close()
    eventually(lambda: "test" not in {thread.name for thread in threading.enumerate()})


def test_a_warning_that_repeats_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    log = Rarely()
    with caplog.at_level(logging.WARNING, "fastgw.service"):
        for _ in range(100):
            log.warn("kafka_error", "broker down")
        log.warn("other", "thing")
    assert [record.getMessage() for record in caplog.records] == ["kafka_error broker down", "other thing"]


def test_what_was_held_back_is_counted_when_it_stops_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    ending = Rarely()
    with caplog.at_level(logging.WARNING, "fastgw.service"):
        for _ in range(3):
            ending.warn("kafka_error", "broker down")
        ending.sum_up()
        assert len(caplog.records) == 1, "it may still go on"
        ending.sum_up(at_end=True)
    assert caplog.messages[-1] == "kafka_error: 2 more lines like this were held back"


def test_a_client_says_each_kind_of_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("fastgw.test.client")
    log.addFilter(RarelyFilter())
    for attempt in range(50):
        log.error("%s [%s] %s", "COMMITFAIL", "consumer-1", f"refused {attempt}")
        log.error("%s [%s] %s", "GETPID", "producer-2", f"refused {attempt}")
        log.error("%s [%s] %s", "FAIL", "producer-2", "which comes as an error as well")
        log.error("plain")
    assert caplog.messages == ["COMMITFAIL [consumer-1] refused 0", "GETPID [producer-2] refused 0", "plain"]
