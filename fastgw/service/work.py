"""The service's book-keeping: what is settled, what runs elsewhere, an event loop beside, a log that cannot flood."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from fastgw import client_lines
from fastgw.throttle import PERIOD_NS, Throttle

log = logging.getLogger("fastgw.service")

AsyncJob = Callable[[], Coroutine[Any, Any, None]]

LOOP_STOP_WAIT_S = 1.0


class OffsetProgress:
    """Which records of one partition are settled: only what has no unsettled record before it may be committed.

    `start` and `committable` belong to the consumer's thread, `finish` to any.
    """

    __slots__ = ("_finished", "_next", "_open", "_stored")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # in order of offset, because records start in order
        self._finished: deque[int] = deque()
        self._next = -1
        self._stored = -1

    def start(self, offset: int) -> None:
        """A record is taken up; offsets only grow."""
        self._open[offset] = None
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """A record is settled: its reply is delivered, or it needs none."""
        self._finished.append(offset)

    def committable(self) -> int:
        """The offset to commit (that of the first record not settled), -1 when it is the same as last time."""
        while self._finished:
            self._open.pop(self._finished.popleft(), None)
        offset = next(iter(self._open), self._next)
        if offset == self._stored:
            return -1
        self._stored = offset
        return offset


class InHand:
    """Counts handlers that run elsewhere than on the consumer's thread, and lets that thread wait for them."""

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._count = 0  # guarded by _changed

    def enter(self) -> None:
        with self._changed:
            self._count += 1

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def wait_for_room(self, timeout_s: float) -> int:
        """How many more may start; 0 when nothing ended within the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit, timeout_s)
            return max(0, self._limit - self._count)

    def wait_until_none(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout_s)


class LoopThread:
    """An event loop in a thread of its own: async handlers wait there while the consumer's thread waits for Kafka."""

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
        """Ends the loop; what still runs on it is cancelled."""
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


class Rarely:
    """Lets one event of each kind pass every ten seconds, and says how many it held back. Any thread may call it."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._period_ns = period_ns
        self._guard = threading.Lock()
        self._throttle = Throttle(period_ns)  # guarded

    def passes(self, kind: str) -> int | None:
        """How many of this kind were held back since the last that passed; None: hold this one back, too."""
        with self._guard:
            held_back = self._throttle.admit((kind,), time.monotonic_ns())
        return held_back if held_back >= 0 else None

    def warn(self, event: str, detail: str) -> None:
        """Logs a warning, if one of this event may pass."""
        held_back = self.passes(event)
        if held_back is not None:
            log.warning("%s %s%s", event, detail, f" (and {held_back} more like it)" if held_back else "")

    def sum_up(self, at_end: bool = False) -> None:
        """Says what was held back and has stopped; `at_end`, or may go on."""
        with self._guard:
            ended = self._throttle.overdue(time.monotonic_ns() + (self._period_ns if at_end else 0))
        for (event,), held_back in ended:
            log.warning("%s: %d more lines like this were held back", event, held_back)


class RarelyFilter(logging.Filter):
    """Lets each client say each kind of thing once in ten seconds: a lost broker is reported twenty times a second.

    What comes as an error as well, and what is no trouble, does not pass (see `client_lines`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._rarely = Rarely()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line may pass; confluent-kafka's lines have the kind (such as FAIL), client and text as args."""
        if not isinstance(record.args, tuple) or not record.args:
            return self._rarely.passes(f"{record.levelno} {record.msg}") is not None
        if record.levelno > logging.DEBUG and record.args[0] == client_lines.FAILED:
            return False
        return self._rarely.passes(f"{record.levelno} {record.args[:2]}") is not None


client_log = logging.getLogger("fastgw.service.librdkafka")
client_log.addFilter(RarelyFilter())
