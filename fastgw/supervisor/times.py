"""How long the supervisor waits for what."""

from __future__ import annotations

from typing import NamedTuple


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
    queue: float = 0.5  # a pause for which connections may wait in the queue of a worker without process ...
    queue_more: float = 1.0  # ... and for its next process to become ready


TIMES = SupervisorTimes()
