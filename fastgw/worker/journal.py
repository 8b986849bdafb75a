"""What a worker says of requests that somebody should look at: an ending to act on, an error of the gateway's own.

A broken service or broker makes thousands of them, so each kind of each route has one line in a while, with the id of
one request to look for and the count of those that were held back.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from fastgw.throttle import PERIOD_NS, Throttle

log = structlog.get_logger("fastgw.requests")


class Journal:
    """Implements `exchange.Journal` with the worker's log."""

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._endings = Throttle(period_ns)
        self._errors = Throttle(period_ns)

    def ended(self, name: str, route: str, request_id: bytes, detail: str) -> None:
        """A request has ended in a way that somebody must act on. `name` is the ending's, as in the metrics."""
        held_back = self._endings.admit((name, route), time.monotonic_ns())
        if held_back >= 0:
            request = request_id.decode("ascii", "replace")
            log.warning(
                "request failed", ending=name, route=route, request_id=request, detail=detail, **_more(held_back)
            )

    def broke(self, what: str, route: str, request_id: bytes) -> None:
        """An error of the gateway's own, which is being handled: called in its `except`."""
        held_back = self._errors.admit((what, route), time.monotonic_ns())
        if held_back >= 0:
            request = request_id.decode("ascii", "replace")
            log.exception(what, route=route, request_id=request, **_more(held_back))

    def sum_up(self, now_ns: int) -> None:
        """Says how many were held back where no further line has said it. Call it often."""
        for (name, route), held_back in self._endings.overdue(now_ns):
            log.warning("more requests failed", ending=name, route=route, count=held_back)
        for (what, route), held_back in self._errors.overdue(now_ns):
            log.error("the same error again", what=what, route=route, count=held_back)


def _more(held_back: int) -> dict[str, Any]:
    return {"held_back": held_back} if held_back else {}
