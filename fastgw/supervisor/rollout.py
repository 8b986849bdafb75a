"""A reload: which configuration each worker should have, and which worker is next. Decides, but starts no processes.

    IDLE ── begins ──> CHECKING ── passes ──> FORWARD ── passes ──> IDLE: ok
                          │                      │
                        fails                  fails
                          v                      v
                  IDLE: refused                BACK ── passes or fails ──> IDLE: undone

CHECKING reads the new configuration and checks it against Kafka. FORWARD gives it to one worker after the other. If a
worker does not become ready with it, BACK returns the replaced workers to the previous configuration, which is known to
work.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from fastgw.config import Config
from fastgw.state_file import OK, REFUSED, UNDONE


class ConfigVersion(NamedTuple):
    """One version of the configuration, and the sealed memory file that passes it to children."""

    config: Config
    fd: int


class Stage(Enum):
    """The stages of a reload."""

    IDLE = "idle"  # no reload runs
    CHECKING = "checking"
    FORWARD = "forward"
    BACK = "back"


class Event(Enum):
    """The events of a reload."""

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
"""The next stage, and the result of the reload if it ends there."""


class Step(NamedTuple):
    """The result of one step of a reload."""

    result: str = ""  # of the reload; empty: it continues
    error: str = ""  # why it was refused or undone
    unused: ConfigVersion | None = None  # no worker will be started with it any more


class Rollout:
    """The present reload, if there is one.

    Attributes:
        current: the running configuration; during a reload the previous one.
        fresh: the new configuration of the reload, once it has been read.
        done: workers that already have the configuration of this stage.
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
        """The worker to replace now."""
        return self._todo[0] if self._todo else None

    @property
    def target(self) -> ConfigVersion:
        """The configuration for the worker to replace now."""
        return self.fresh if self.stage is Stage.FORWARD and self.fresh else self.current

    def version_of(self, worker: int) -> ConfigVersion:
        """The configuration for a successor of this worker: that of the stage if the worker is done."""
        return self.target if worker in self.done else self.current

    def begin(self) -> None:
        self._error = ""
        self._enter(Event.BEGINS)

    def passed_check(self, workers: int) -> None:
        """The new configuration has passed its check: replace this number of workers, one after the other."""
        self._enter(Event.PASSES)
        self._todo.extend(range(workers))

    def replaced(self) -> Step:
        """The replaced worker has become ready with the configuration of this stage."""
        self.done.append(self._todo.popleft())
        return self._end_if_all_done()

    def failed(self, why: str) -> Step:
        """The check has failed, or a worker does not become ready."""
        self._error = f"{self._error}; on the way back, {why}" if self.stage is Stage.BACK else why
        undo, unused = self.done, self.fresh
        step = self._enter(Event.FAILS)
        self.fresh = None
        if self.stage is Stage.BACK:
            self._todo.extend(undo)
            step = self._end_if_all_done()
        return step._replace(unused=unused)

    def cancel(self) -> Step:
        """The service ends: cancel the reload."""
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
