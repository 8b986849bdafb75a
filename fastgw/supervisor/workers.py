"""What the supervisor knows of one worker: which processes stand in for it, which generation comes next, and when.

Only decisions: nothing here starts or ends a process, and time is an argument.
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
    """One worker: the process that serves as it, the one to come, and those on their way out."""

    number: int
    back_off: BackOff  # of the next process
    generation: int = -1  # of the process started last
    current: Child | None = None
    incoming: Child | None = None  # during a reload: the next generation, until it is ready
    outgoing: list[Child] = field(default_factory=list)  # told to drain

    def processes(self) -> list[Child]:
        return [child for child in (self.current, self.incoming, *self.outgoing) if child is not None]

    def next_generation(self) -> int | None:
        """The next generation whose range in the table is free; None while both ranges of this worker are taken."""
        taken = {table.process_index(self.number, child.generation) for child in self.processes()}
        for step in (1, 2):
            generation = (self.generation + step) % GENERATIONS
            if table.process_index(self.number, generation) not in taken:
                return generation
        return None

    def succeed(self) -> Child | None:
        """The incoming process becomes the current one; the one that was it goes out and is returned."""
        before, self.current, self.incoming = self.current, self.incoming, None
        if before is not None:
            self.outgoing.append(before)
        return before


def back_off_of(times: SupervisorTimes) -> BackOff:
    """The pauses before a process is started again."""
    return BackOff(times.retry_first, times.retry_last)


def run_ended(back_off: BackOff, now: float, ran_s: float, times: SupervisorTimes) -> None:
    """A process has ended: its successor is due at once after a good run, else after the next pause."""
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
    """The workers that accept no connections, and will not soon, while others do.

    One of `before`, those of the last look, stays among them until it accepts again: nobody knows how long the next
    start takes. When no worker at all accepts, waiting in a queue is the best that a connection can have.

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
