"""The store as a child of the supervisor: it runs while a route of any living worker needs it.

The service does not depend on it: it starts without waiting for it, and systemd's watchdog does not look at it. One
store at a time: a successor starts after its predecessor has ended. Only a reload waits for it, because the workers
that are replaced would refuse the requests of routes that they could not serve yet.

Not even SIGKILL ends a process that waits for a frozen disk. Nobody waits for such a store: the service ends without
it, and the lock on its folder keeps the next one out.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from math import inf

from fastgw.back_off import BackOff
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.times import SupervisorTimes
from fastgw.supervisor.workers import back_off_of, run_ended


class StoreChild:
    """The store process, or the plan to start one.

    Attributes:
        child: the process; None: none runs.
    """

    def __init__(self, start: Callable[[], Child | None], times: SupervisorTimes) -> None:
        """
        Args:
            start: starts a store process; None: that is not possible now.
        """
        self.child: Child | None = None
        self._start = start
        self._times = times
        self._back_off: BackOff = back_off_of(times)
        self._is_wanted = False
        self._awaited_until = -inf  # monotonic seconds

    @property
    def due_at(self) -> float:
        """When the next start is due, in monotonic seconds."""
        return self._back_off.due_at

    def holds_up(self, now: float) -> bool:
        """Whether the end of the service has to wait for the process."""
        return self.child is not None and now < self.child.killed_at + self._times.agent_stop

    def want(self, is_wanted: bool) -> None:
        """Whether a store is needed."""
        now = time.monotonic()
        self._is_wanted = is_wanted
        if is_wanted and self.child is None:
            self._back_off.succeeded(now)
        elif not is_wanted:
            self._back_off.cancel()
            self.stop()

    def await_next(self, until: float) -> None:
        """A new store is wanted, with other parts, and waited for until then (monotonic seconds)."""
        self._awaited_until = until
        self.stop()
        self.want(True)

    def is_awaited(self, now: float, serves: Callable[[float], bool]) -> bool:
        """Whether to wait for the store.

        Args:
            serves: whether a store that was started at this time can answer.
        """
        if now < self._awaited_until and (self.child is None or not self._serves(self.child, serves)):
            return True
        self._awaited_until = -inf
        return False

    @staticmethod
    def _serves(child: Child, serves: Callable[[float], bool]) -> bool:
        return child.state is State.READY and serves(child.started_at)

    def start_if_due(self, now: float) -> None:
        """Start the process, if one is wanted and the back-off is over."""
        if self.child is None and self._is_wanted and self._back_off.due(now):
            self.child = self._start()
            if self.child is None:
                self._back_off.failed(now)

    def ended(self, ran_s: float) -> None:
        """The process has ended."""
        self.child = None
        if self._is_wanted:
            run_ended(self._back_off, time.monotonic(), ran_s, self._times)

    def read_again(self) -> None:
        """Let the process read its configuration again."""
        if self.child is not None and self.child.state is State.READY:
            self.child.send(signal.SIGHUP)
        elif self.child is not None and self.child.state is State.STARTING:
            self.stop()  # it may have read the old or the new one

    def stop(self) -> None:
        """Let the process end."""
        if self.child is not None and self.child.state is not State.STOPPING:
            self.child.stop(time.monotonic() + self._times.agent_stop)
