"""In which order the modules of a run begin, when several processes share it.

`make test` runs two processes (pytest-xdist, `--dist loadfile`): a module's tests share fixtures (a gateway, a broker),
so they stay together, and the next free process takes the next module. Modules that take long begin first. What is left
at the end is short, and both processes end together.
"""

from __future__ import annotations

import pytest

# These wait for minutes: for sessions to time out, for brokers to come back, for compilers. By path, longest first.
LONG = (
    "tests/faults/test_broker_faults.py",
    "tests/faults/test_node_faults.py",
    "tests/faults/test_worker_faults.py",
    "tests/source/",
    "tests/clients/",
    "tests/docs/test_pages.py",
    "tests/kafka/",
    "tests/gateway/",
    "tests/agent/",
    "tests/service/",
    "tests/demo/",
    "tests/doctor/",
    "tests/supervisor/",
    "tests/fronts/",
)


def arrange(items: list[pytest.Item]) -> None:
    """Put the tests into the order in which their modules begin. Within a module nothing changes."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))
