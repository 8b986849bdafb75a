"""Converts librdkafka's errors and log lines to lines of our log: one format, and only real problems.

librdkafka reports most problems twice: first as a log line of the facility FAIL, then as an error for the program. Only
the error is logged. librdkafka also reports closed connections that are no problem. A broker closes a connection that
was not used for ten minutes (`connections.max.idle.ms`). A client without another connection then reports
`_ALL_BROKERS_DOWN`, although nothing is wrong: it connects again for its next request. In an outage that attempt fails
with a separate error (`_TRANSPORT`, `_RESOLVE`, ...), which names the broker. So FAIL and `_ALL_BROKERS_DOWN` are
logged only at level debug.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

EVENT = "kafka client"
FAILED = "FAIL"  # librdkafka's facility for connections that failed or ended
RETRYING = ": retrying"  # for example "Coordinator load in progress" of a new cluster; a final failure has its own line
DEBUG = "debug"
SYSLOG_INFO = 6
SYSLOG_LEVELS = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: SYSLOG_INFO, logging.DEBUG: 7}
"""By the level of `logging` with which confluent-kafka calls a logger."""

_METHODS = ("error", "error", "error", "error", "warning", "info", "info", DEBUG)  # by syslog level


class Line(NamedTuple):
    """One line of our log."""

    method: str  # the level: "debug", "info", "warning", "error"
    code: str  # name of the error, or of librdkafka's facility
    detail: str

    @property
    def kind(self) -> tuple[str, str]:
        """Code and broker: lines of the same kind are throttled together."""
        about, colon, _ = self.detail.partition(": ")
        return self.code, about if colon else ""


def of_error(name: str, text: str) -> Line:
    """An error of a client; `name` such as "_TRANSPORT"."""
    method = DEBUG if name == "_ALL_BROKERS_DOWN" and "are down" in text else "warning"
    return Line(method, name, _without_thread(text))


def of_log(level: int, facility: str, text: str) -> Line:
    """A log line of librdkafka; `level` as in syslog."""
    if facility == FAILED:
        method = DEBUG
    elif text.endswith(RETRYING):
        method = "info"
    else:
        method = _METHODS[level]
    return Line(method, facility, _without_thread(text))


def _without_thread(text: str) -> str:
    # "[thrd:127.0.0.1:9092/1]: 127.0.0.1:9092/1: Connect to ..."
    return text.partition("]: ")[2] if text.startswith("[thrd:") else text
