"""Logs endings that need an operator, and internal errors of the gateway.

A broken service or broker causes thousands of them. So each kind of each route is logged once per period, with the id
of one request and the number of lines that were held back.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from fastgw.throttle import PERIOD_NS, Throttle

log = structlog.get_logger("fastgw.requests")


class Journal:
    """Implements `exchange.Journal` on the worker's log."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._endings = Throttle(period_ns)
        self._errors = Throttle(period_ns)

    def ended(self, name: str, route: str, request_id: bytes, detail: str) -> None:
        """Log an ending that needs an operator. `name` is the ending's name, as in the metrics."""
        held_back = self._endings.admit((name, route), time.monotonic_ns())
        if held_back >= 0:
            request = request_id.decode("ascii", "replace")
            log.warning(
                "request failed", ending=name, route=route, request_id=request, detail=detail, **_more(held_back)
            )

    def broke(self, what: str, route: str, request_id: bytes) -> None:
        """Log an internal error of the gateway. Called in the `except` block that handles it."""
        held_back = self._errors.admit((what, route), time.monotonic_ns())
        if held_back >= 0:
            request = request_id.decode("ascii", "replace")
            log.exception(what, route=route, request_id=request, **_more(held_back))

    def sum_up(self, now_ns: int) -> None:
        """Log the number of lines held back that no later line has reported. Call it often."""
        for (name, route), held_back in self._endings.overdue(now_ns):
            log.warning("more requests failed", ending=name, route=route, count=held_back)
        for (what, route), held_back in self._errors.overdue(now_ns):
            log.error("the same error again", what=what, route=route, count=held_back)


def _more(held_back: int) -> dict[str, Any]:
    return {"held_back": held_back} if held_back else {}
