"""What workers and the agent show of themselves in the shared table: who accepts connections, whose heart beats.

The supervisor hears a child once, through its pipe, when it has become ready; everything else it has to see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

from fastgw._ctable import ProcessInfo
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.times import SupervisorTimes
from fastgw.table import Table, process_index


class Liveness:
    """Looks at children through the table. All times are monotonic seconds."""

    def __init__(self, table: Table, times: SupervisorTimes) -> None:
        self._table = table
        self._times = times
        self._looked_at = inf
        self._judge_after = 0.0

    def accepts(self, worker: Child) -> bool:
        """Whether it takes connections: it says so in the table first, where /readyz looks, and who comes because of
        that is in its queue before its parent has heard it."""
        if worker.state is State.STARTING:
            info = self._info(worker)
            return info is not None and info.ready
        return worker.state is State.READY

    def hung(self, children: Iterable[Child], now: float) -> list[Child]:
        """Those whose loop has turned once, and now has not for too long; to be asked at each look."""
        slept_ourselves = now - self._looked_at > 3 * self._times.look
        self._looked_at = now
        if slept_ourselves:  # the whole machine stood still, it seems: let the children show themselves first
            self._judge_after = now + self._times.hung
        if now < self._judge_after:
            return []
        return [child for child in children if child.state is not State.STOPPING and not self._beats(child, now)]

    def all_well(self, workers: Collection[Child], now: float) -> bool:
        """Somebody has become ready, and no heart of those who have has stopped. One that was killed for that counts
        until it has ended; one between two processes does not: one bad worker never stops the service."""
        known = [worker for worker in workers if worker.ready_at < inf]
        return bool(known) and all(self._beats(worker, now) for worker in known)

    def _beats(self, child: Child, now: float) -> bool:
        longest = self._times.hung if child.is_worker else self._times.agent_hung
        return now - self._last_beat(child) <= longest

    def _last_beat(self, child: Child) -> float:
        """Infinity for one that has just started and has had none."""
        beat = (self._worker_beat_ns(child) if child.is_worker else self._table.agent_beat_ns()) / 1e9
        if child.ready_at < inf:
            return max(beat, child.ready_at)
        # The agent's place in the table still has the last beat of the one before it.
        return beat if beat and child.is_worker else inf

    def _worker_beat_ns(self, worker: Child) -> int:
        info = self._info(worker)
        return info.heartbeat_ns if info else 0

    def _info(self, child: Child) -> ProcessInfo | None:
        return self._table.process_info(process_index(child.worker, child.generation))
