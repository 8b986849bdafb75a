"""Liveness of the children from the shared table: which workers accept connections, which heartbeats are fresh.

A child reports only once through its pipe, when it is ready. The supervisor sees everything else in the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

from fastgw._ctable import ProcessInfo
from fastgw.messages import StoreGauge
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.times import SupervisorTimes
from fastgw.table import Table, process_index


class Liveness:
    """Judges children by the table. All times are monotonic seconds."""

    def __init__(self, table: Table, times: SupervisorTimes) -> None:
        self._table = table
        self._times = times
        self._looked_at = inf
        self._judge_after = 0.0

    def accepts(self, worker: Child) -> bool:
        """Whether a worker accepts connections. A starting worker is judged by the table: it sets the ready flag before
        it reports. /readyz shows the flag, so clients may connect before the report arrives."""
        if worker.state is State.STARTING:
            info = self._info(worker)
            return info is not None and info.ready
        return worker.state is State.READY

    def hung(self, children: Iterable[Child], now: float) -> list[Child]:
        """The children that had a heartbeat, but none for too long; to be called at each look."""
        slept_ourselves = now - self._looked_at > 3 * self._times.look
        self._looked_at = now
        if slept_ourselves:  # the whole machine seems to have stopped: give the children time first
            self._judge_after = now + self._times.hung
        if now < self._judge_after:
            return []
        return [child for child in children if child.state is not State.STOPPING and not self._beats(child, now)]

    def all_well(self, workers: Collection[Child], now: float) -> bool:
        """Whether a worker has become ready and all ready workers have fresh heartbeats. A killed process counts until
        it has ended. A worker without a process does not count, so that one bad worker never stops the service."""
        known = [worker for worker in workers if worker.ready_at < inf]
        return bool(known) and all(self._beats(worker, now) for worker in known)

    def _beats(self, child: Child, now: float) -> bool:
        longest = self._times.hung if child.is_worker else self._times.agent_hung
        return now - self._last_beat(child) <= longest

    def _last_beat(self, child: Child) -> float:
        """Infinity if the child has just started and had no heartbeat yet."""
        beat = self._beat_ns(child) / 1e9
        if child.ready_at < inf:
            return max(beat, child.ready_at)
        # The table may still have the last heartbeat of the previous agent or store.
        return beat if beat and child.is_worker else inf

    def store_serves(self, since: float) -> bool:
        """Whether a store that was started then (monotonic seconds) says that it can answer."""
        return self._table.store_beat_ns() > since * 1e9 and bool(self._table.store_gauge(StoreGauge.READY))

    def _beat_ns(self, child: Child) -> int:
        if child.is_worker:
            return self._worker_beat_ns(child)
        return self._table.store_beat_ns() if child.kind == "store" else self._table.agent_beat_ns()

    def _worker_beat_ns(self, worker: Child) -> int:
        info = self._info(worker)
        return info.heartbeat_ns if info else 0

    def _info(self, child: Child) -> ProcessInfo | None:
        return self._table.process_info(process_index(child.worker, child.generation))
