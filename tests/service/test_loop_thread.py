"""An event loop beside the thread that reads."""

from __future__ import annotations

import asyncio
import threading

from fastgw.service.loop_thread import LoopThread
from tests.waiting import eventually


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
