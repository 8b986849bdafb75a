"""Logs the errors and log lines of Kafka clients in one format, with a limited rate, from any thread.

When a broker is down, each client logs twenty lines a second. The first line of each kind (see `client_lines`) is
logged at once. After that one line of this kind is logged every ten seconds, with the number of lines held back. When
the lines stop, a last line reports the rest.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from fastgw.client_lines import DEBUG, EVENT, SYSLOG_INFO, SYSLOG_LEVELS, Line, of_error, of_log
from fastgw.throttle import PERIOD_NS, Throttle

log = structlog.get_logger("fastgw.kafka")


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
        """Log a line; has the signature of confluent-kafka's `logger`."""
        self.say(of_log(SYSLOG_LEVELS.get(level, SYSLOG_INFO), facility, text))

    def client_error(self, error: Any) -> None:
        """Log an error; has the signature of confluent-kafka's `error_cb`."""
        self.say(of_error(error.name(), error.str()))

    def say(self, line: Line, event: str = EVENT) -> None:
        """Log a line, unless one of its kind was logged less than a period ago."""
        if line.method == DEBUG:  # an operator has switched it on, so log all of it
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
            with suppress(RuntimeError):  # no thread available: the next line that is held back tries again
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
        """Log the counts of lines held back. For the end of a process."""
        with self._guard:
            ended = self._throttle.rest()
        _tell(ended)


def _tell(ended: list[tuple[tuple[str, ...], int]]) -> None:
    for (method, event, code, about), held_back in ended:
        getattr(log, method)(f"{event}: more lines like this", code=code, about=about, held_back=held_back)


CLIENT_LOG = ClientLog()
"""The client log of this process."""


def listening() -> dict[str, Callable[[Any], None] | ClientLog]:
    """The properties that make a confluent-kafka client log through the log of this process."""
    return {"logger": CLIENT_LOG, "error_cb": CLIENT_LOG.client_error}
