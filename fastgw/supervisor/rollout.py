"""A reload: which configuration each worker is to have, and which worker is next. Only decisions, no processes.

    IDLE ── begins ──> CHECKING ── passes ──> FORWARD ── passes ──> IDLE: ok
                          │                      │
                        fails                  fails
                          v                      v
                  IDLE: refused                BACK ── passes or fails ──> IDLE: undone

CHECKING reads the new configuration and asks Kafka whether it could be served. FORWARD gives it to one worker after the
other; when one does not become ready with it, BACK gives those that have it the one before, as that is known to work.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from fastgw.config import Config
from fastgw.state_file import OK, REFUSED, UNDONE


class ConfigVersion(NamedTuple):
    """One version of the configuration, with the sealed memory in which children receive it."""

    config: Config
    fd: int


class Stage(Enum):
    """Where a reload is."""

    IDLE = "idle"  # there is none
    CHECKING = "checking"
    FORWARD = "forward"
    BACK = "back"


class Event(Enum):
    """What happens to it as a whole."""

    BEGINS = "begins"
    PASSES = "passes"  # the check, or the last worker
    FAILS = "fails"  # the check, or any worker


TRANSITIONS: dict[tuple[Stage, Event], tuple[Stage, str]] = {
    (Stage.IDLE, Event.BEGINS): (Stage.CHECKING, ""),
    (Stage.CHECKING, Event.PASSES): (Stage.FORWARD, ""),
    (Stage.CHECKING, Event.FAILS): (Stage.IDLE, REFUSED),
    (Stage.FORWARD, Event.PASSES): (Stage.IDLE, OK),
    (Stage.FORWARD, Event.FAILS): (Stage.BACK, ""),
    (Stage.BACK, Event.PASSES): (Stage.IDLE, UNDONE),
    (Stage.BACK, Event.FAILS): (Stage.IDLE, UNDONE),
}
"""The next stage, and the result where the reload is over with it."""


class Step(NamedTuple):
    """What a step of a reload has led to."""

    result: str = ""  # of the reload; empty: it goes on
    error: str = ""  # why it was refused or undone
    unused: ConfigVersion | None = None  # no worker will be started with it any more


class Rollout:
    """The reload that runs, if one does.

    Attributes:
        current: what runs; during a reload, what ran before it.
        fresh: what the reload brings, once it could be read.
        done: workers that have what they are to get in this stage.
    """

    def __init__(self, current: ConfigVersion) -> None:
        self.stage = Stage.IDLE
        self.current = current
        self.fresh: ConfigVersion | None = None
        self.done: list[int] = []
        self._todo: deque[int] = deque()  # the first of them is being replaced
        self._error = ""

    def __repr__(self) -> str:
        return f"<Rollout {self.stage.value} done={self.done} todo={list(self._todo)}>"

    @property
    def turn(self) -> int | None:
        """The worker that is to be replaced now."""
        return self._todo[0] if self._todo else None

    @property
    def target(self) -> ConfigVersion:
        """What the worker whose turn it is gets."""
        return self.fresh if self.stage is Stage.FORWARD and self.fresh else self.current

    def version_of(self, worker: int) -> ConfigVersion:
        """What a successor of this worker starts with: half-way, those that are done have the new one."""
        return self.target if worker in self.done else self.current

    def begin(self) -> None:
        self._error = ""
        self._enter(Event.BEGINS)

    def passed_check(self, workers: int) -> None:
        """The new configuration can be served: it is the turn of each of so many workers."""
        self._enter(Event.PASSES)
        self._todo.extend(range(workers))

    def replaced(self) -> Step:
        """The worker whose turn it was has become ready with what it was to get."""
        self.done.append(self._todo.popleft())
        return self._end_if_all_done()

    def failed(self, why: str) -> Step:
        """The check has found something, or a worker does not become ready."""
        self._error = f"{self._error}; on the way back, {why}" if self.stage is Stage.BACK else why
        undo, unused = self.done, self.fresh
        step = self._enter(Event.FAILS)
        self.fresh = None
        if self.stage is Stage.BACK:
            self._todo.extend(undo)
            step = self._end_if_all_done()
        return step._replace(unused=unused)

    def cancel(self) -> Step:
        """The service ends, and the reload with it."""
        step = Step(unused=self.fresh)
        self.stage, self.fresh = Stage.IDLE, None
        self._todo.clear()
        self.done = []
        return step

    def _end_if_all_done(self) -> Step:
        if self._todo:
            return Step()
        step = self._enter(Event.PASSES)
        if step.result == OK and self.fresh:
            before, self.current, self.fresh = self.current, self.fresh, None
            step = step._replace(unused=before)
        return step

    def _enter(self, event: Event) -> Step:
        self.stage, result = TRANSITIONS[self.stage, event]
        self._todo.clear()
        self.done = []
        return Step(result, self._error if result else "")
