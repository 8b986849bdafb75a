"""An event loop in its own thread, for async handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

AsyncJob = Callable[[], Coroutine[Any, Any, None]]

LOOP_STOP_WAIT_S = 1.0


class LoopThread:
    """An event loop in its own thread: async handlers run there while the consumer's thread waits for Kafka."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # a loop holds its tasks only weakly
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, batch: list[AsyncJob]) -> None:
        """Starts a whole batch with one wake-up of the loop."""
        self._loop.call_soon_threadsafe(self._start, batch)

    def _start(self, batch: list[AsyncJob]) -> None:
        for job in batch:
            task = self._loop.create_task(job())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ends the loop and cancels the tasks that still run."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LOOP_STOP_WAIT_S)
        if self._thread.is_alive():  # a handler blocks the loop; the thread is a daemon and ends with the process
            return
        self._loop.run_until_complete(self._cancel_all())
        self._loop.close()

    async def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
