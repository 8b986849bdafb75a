"""In which order the modules of a run begin, when several processes share it.

`make test` runs three processes (pytest-xdist, `--dist loadfile`): a module's tests share fixtures (a gateway, a
broker), so they stay together, and the next free process takes the next module. Modules that take long begin first.
What is left at the end is short, and the processes end together.
"""

from __future__ import annotations

import pytest

# By path, longest first, as measured with `--durations=0`: what compiles, starts brokers and gateways, or waits for
# sessions to time out. A folder stands for what is not named before it.
LONG = (
    "tests/source/test_packaging.py",
    "tests/faults/test_broker_faults.py",
    "tests/docs/test_pages.py",
    "tests/supervisor/test_supervisor.py",
    "tests/gateway/test_streams.py",
    "tests/faults/test_worker_faults.py",
    "tests/faults/test_node_faults.py",
    "tests/gateway/test_gateway.py",
    "tests/source/",
    "tests/gateway/test_commands.py",
    "tests/gateway/test_kafka_faults.py",
    "tests/gateway/test_deleted_topics.py",
    "tests/kafka/test_links.py",
    "tests/clients/test_trip.py",
    "tests/demo/test_demo.py",
    "tests/table/test_table_races.py",
    "tests/gateway/test_listeners.py",
    "tests/gateway/test_client_log.py",
    "tests/cli/",
    "tests/doctor/",
    "tests/gateway/",
    "tests/kafka/",
    "tests/table/",
    "tests/agent/",
    "tests/service/",
    "tests/demo/",
    "tests/http/",
    "tests/config/",
    "tests/fronts/",
)


def arrange(items: list[pytest.Item]) -> None:
    """Put the tests into the order in which their modules begin. Within a module nothing changes."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))
