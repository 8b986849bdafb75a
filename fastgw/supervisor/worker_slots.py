"""What the supervisor knows of one worker slot: which processes stand in it, which generation comes next, and when.

Only decisions: nothing here starts or ends a process, and time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from fastgw import table
from fastgw.supervisor.children import Child, State

GENERATIONS = 256  # eight bits of the correlation id


class SupervisorTimes(NamedTuple):
    """How long the supervisor waits for what, in seconds."""

    start: float = 30.0  # from exec to ready
    hung: float = 2.5  # without a heartbeat; with the next line: noticed within 3 s
    agent_hung: float = 15.0  # longer than it may wait for Kafka when it leaves a group and reads its configuration
    look: float = 0.25  # between two looks at the heartbeats
    drain_more: float = 2.0  # after the drain timeout, which the worker keeps itself
    agent_stop: float = 5.0
    retry_first: float = 0.1
    retry_last: float = 10.0
    good_run: float = 10.0  # after it a death is an accident, not a pattern
    queue: float = 0.5  # a pause for which connections may wait in the queue of a slot without process ...
    queue_more: float = 1.0  # ... and for its next process to become ready


PATIENCE = SupervisorTimes()


@dataclass
class BackOff:
    """When a successor may start: at once after a good run, else after a pause that doubles with each short run."""

    patience: SupervisorTimes
    start_at: float = inf  # monotonic seconds; infinity: no successor is due
    _pause_s: float = 0.0

    def ended(self, now: float, ran_s: float) -> None:
        """A process has ended at `now` after `ran_s` seconds: `start_at` is when its successor may start."""
        if ran_s >= self.patience.good_run:
            self._pause_s = 0.0
            self.start_at = now
        else:
            self._pause_s = min(max(self.patience.retry_first, 2 * self._pause_s), self.patience.retry_last)
            self.start_at = now + self._pause_s

    def cancel(self) -> None:
        self.start_at = inf

    def due(self, now: float) -> bool:
        """Whether it is time to start the successor; says so once."""
        if now < self.start_at:
            return False
        self.cancel()
        return True


@dataclass
class Slot:
    """One worker slot: the process that serves in it, the one to come, and those on their way out."""

    number: int
    back_off: BackOff
    generation: int = -1  # of the process started last
    current: Child | None = None
    incoming: Child | None = None  # during a reload: the next generation, until it is ready
    outgoing: list[Child] = field(default_factory=list)  # told to drain

    def children(self) -> list[Child]:
        return [child for child in (self.current, self.incoming, *self.outgoing) if child is not None]

    def next_generation(self) -> int | None:
        """The next generation whose range in the table is free; None while both ranges of this slot are taken."""
        taken = {table.process_index(self.number, child.generation) for child in self.children()}
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


def deaf_slots(
    slots: Sequence[Slot],
    now: float,
    patience: SupervisorTimes,
    accepts: Callable[[Child], bool],
    deaf: Collection[int] = (),
) -> frozenset[int]:
    """The slots in which nobody accepts connections, and nobody will soon, while others do.

    One of `deaf`, those that were it until now, stays so until somebody serves there: nobody knows how long the next
    start takes. When nobody at all serves, waiting in a queue is the best that a connection can have.

    Args:
        accepts: whether this process accepts connections.
    """
    away = [slot for slot in slots if not any(accepts(child) for child in (slot.current, slot.incoming) if child)]
    if len(away) == len(slots):
        return frozenset()
    return frozenset(slot.number for slot in away if slot.number in deaf or _is_long_in_coming(slot, now, patience))


def _is_long_in_coming(slot: Slot, now: float, patience: SupervisorTimes) -> bool:
    coming = slot.current or slot.incoming
    if coming is None:
        return slot.back_off.start_at - now > patience.queue
    return coming.state is State.STARTING and now - coming.started_at > patience.queue_more
