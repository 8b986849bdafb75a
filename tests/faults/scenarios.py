"""All scenarios, in the order of the table."""

from __future__ import annotations

from tests.faults import (
    broker_scenarios,
    drain_scenarios,
    front_scenarios,
    kept_topic_scenarios,
    key_scenarios,
    node_scenarios,
    overload_scenarios,
    protocol_scenarios,
    reply_scenarios,
    stream_scenarios,
    ticket_scenarios,
    unnoticed_scenarios,
    worker_scenarios,
)
from tests.faults.play import Scenario

SCENARIOS: list[Scenario] = [
    *worker_scenarios.SCENARIOS,
    *reply_scenarios.SCENARIOS,
    *broker_scenarios.SCENARIOS,
    *protocol_scenarios.SCENARIOS,
    *node_scenarios.SCENARIOS,
    *drain_scenarios.SCENARIOS,
    *overload_scenarios.SCENARIOS,
    *front_scenarios.SCENARIOS,
    *ticket_scenarios.SCENARIOS,
    *ticket_scenarios.WITH_BROKERS,
    *unnoticed_scenarios.SCENARIOS,
    *kept_topic_scenarios.SCENARIOS,
    *key_scenarios.SCENARIOS,
    *unnoticed_scenarios.KEY_SCENARIOS,
    *stream_scenarios.SCENARIOS,
    *stream_scenarios.WITH_BROKERS,
]
