"""The timeouts of the supervisor."""

from __future__ import annotations

from typing import NamedTuple


class SupervisorTimes(NamedTuple):
    """Timeouts in seconds."""

    start: float = 30.0  # from exec to ready
    hung: float = 2.5  # without a heartbeat; with `look` it is noticed within 3 s
    agent_hung: float = 15.0  # more than it may wait for Kafka when it leaves a group and reads its configuration
    look: float = 0.25  # between two looks at the heartbeats
    drain_more: float = 2.0  # after the drain timeout, which the worker observes itself
    agent_stop: float = 5.0
    retry_first: float = 0.1
    retry_last: float = 10.0
    good_run: float = 10.0  # after it a successor starts without a pause
    queue: float = 0.5  # longest pause in which connections may wait for a worker without a process
    queue_more: float = 1.0  # longest start of its next process in which they may wait


TIMES = SupervisorTimes()
