"""What Kafka clients have to say, from whatever thread: one format, bounded, in every process of a gateway.

A broker that is away makes each client complain twenty times a second. Each kind of line (see `client_lines`) goes out
at once and then every ten seconds, with the count of those that were held back; when it stops, a last line says how
many there were since.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from fastgw.client_lines import DEBUG, EVENT, Line, of_error, of_log
from fastgw.throttle import PERIOD_NS, Throttle

log = structlog.get_logger("fastgw.kafka")

_SYSLOG = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class ClientLog:
    """Takes errors and log lines of Kafka clients. Any thread may call it.

    For confluent-kafka's clients an instance is both `logger` and, with `client_error`, `error_cb`.
    """

    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self._period_s = period_ns / 1e9
        self._guard = threading.Lock()
        self._throttle = Throttle(period_ns)  # guarded
        self._timer: threading.Timer | None = None  # guarded; runs while lines are held back
        atexit.register(self.sum_up)

    def __repr__(self) -> str:
        return f"<ClientLog {self._throttle!r}>"

    def log(self, level: int, _format: str, facility: str, _client: str, text: str) -> None:
        """As confluent-kafka calls its `logger`."""
        self.say(of_log(_SYSLOG.get(level, 6), facility, text))

    def client_error(self, error: Any) -> None:
        """As confluent-kafka calls its `error_cb`."""
        self.say(of_error(error.name(), error.str()))

    def say(self, line: Line, event: str = EVENT) -> None:
        """Writes a line, unless there was one of its kind a moment ago."""
        if line.method == DEBUG:  # somebody has asked for it, for all of it
            log.debug(event, code=line.code, detail=line.detail)
            return
        with self._guard:
            held_back = self._throttle.admit((line.method, event, *line.kind), time.monotonic_ns())
            if held_back < 0:
                self._come_back()
                return
        more = {"held_back": held_back} if held_back else {}
        getattr(log, line.method)(event, code=line.code, detail=line.detail, **more)

    def _come_back(self) -> None:
        if self._timer is None:
            timer = threading.Timer(self._period_s, self._look)
            timer.daemon = True
            with suppress(RuntimeError):  # no thread to be had now: the next line that is held back tries again
                timer.start()
                self._timer = timer

    def _look(self) -> None:
        with self._guard:
            self._timer = None
            ended = self._throttle.overdue(time.monotonic_ns())
            if self._throttle.holds():
                self._come_back()
        _tell(ended)

    def sum_up(self) -> None:
        """Tells now what was held back; for the end of a process."""
        with self._guard:
            ended = self._throttle.rest()
        _tell(ended)


def _tell(ended: list[tuple[tuple[str, ...], int]]) -> None:
    for (method, event, code, about), held_back in ended:
        getattr(log, method)(f"{event}: more lines like this", code=code, about=about, held_back=held_back)


CLIENT_LOG = ClientLog()
"""That of this process."""


def listening() -> dict[str, Callable[[Any], None] | ClientLog]:
    """The properties that have one of confluent-kafka's clients speak through the log of this process."""
    return {"logger": CLIENT_LOG, "error_cb": CLIENT_LOG.client_error}
