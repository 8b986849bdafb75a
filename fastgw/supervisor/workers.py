"""The supervisor's view of one worker: its processes, its next generation, and when that starts.

This module only decides: it starts and ends no processes, and time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fastgw import table
from fastgw.back_off import BackOff
from fastgw.supervisor.children import Child, State
from fastgw.supervisor.times import SupervisorTimes

GENERATIONS = 256  # eight bits of the correlation id


@dataclass
class Worker:
    """One worker: its serving process, the next process, and the draining ones."""

    number: int
    back_off: BackOff  # of the next process
    generation: int = -1  # of its latest process
    current: Child | None = None
    incoming: Child | None = None  # during a reload: the next generation, until it is ready
    outgoing: list[Child] = field(default_factory=list)  # told to drain

    def processes(self) -> list[Child]:
        return [child for child in (self.current, self.incoming, *self.outgoing) if child is not None]

    def next_generation(self) -> int | None:
        """The next generation with a free range in the table; None while both ranges of this worker are in use."""
        taken = {table.process_index(self.number, child.generation) for child in self.processes()}
        for step in (1, 2):
            generation = (self.generation + step) % GENERATIONS
            if table.process_index(self.number, generation) not in taken:
                return generation
        return None

    def succeed(self) -> Child | None:
        """Make the incoming process the current one; returns the previous one, which is now outgoing."""
        before, self.current, self.incoming = self.current, self.incoming, None
        if before is not None:
            self.outgoing.append(before)
        return before


def back_off_of(times: SupervisorTimes) -> BackOff:
    """The pauses before a process is started again."""
    return BackOff(times.retry_first, times.retry_last)


def run_ended(back_off: BackOff, now: float, ran_s: float, times: SupervisorTimes) -> None:
    """A process has ended: after a good run its successor is due at once, else after the next pause."""
    if ran_s >= times.good_run:
        back_off.succeeded(now)
    else:
        back_off.failed(now)


def not_accepting(
    workers: Sequence[Worker],
    now: float,
    times: SupervisorTimes,
    accepts: Callable[[Child], bool],
    before: Collection[int] = (),
) -> frozenset[int]:
    """The workers that do not accept connections now or soon, while other workers do.

    Workers in `before`, the result of the last look, stay in the result until they accept again, because the duration
    of their next start is unknown. If no worker accepts, the result is empty: then connections had better wait.

    Args:
        accepts: whether this process accepts connections.
    """
    away = [worker for worker in workers if not any(map(accepts, _serving(worker)))]
    if len(away) == len(workers):
        return frozenset()
    return frozenset(
        worker.number for worker in away if worker.number in before or _is_long_in_coming(worker, now, times)
    )


def _serving(worker: Worker) -> list[Child]:
    return [child for child in (worker.current, worker.incoming) if child is not None]


def _is_long_in_coming(worker: Worker, now: float, times: SupervisorTimes) -> bool:
    coming = worker.current or worker.incoming
    if coming is None:
        return worker.back_off.due_at - now > times.queue
    return coming.state is State.STARTING and now - coming.started_at > times.queue_more
