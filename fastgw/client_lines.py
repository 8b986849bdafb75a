"""librdkafka's errors and log lines as lines of our own log: one format, and nothing that is no trouble.

librdkafka tells most troubles twice: as an error for the program and, before it, as a log line of the facility FAIL.
The error is taken. What it also tells is that connections were closed. A broker closes one that nobody has used for ten
minutes (`connections.max.idle.ms`), and a client that has no other then says `_ALL_BROKERS_DOWN`, although nothing is
wrong: it connects when it has something to ask. In an outage that attempt fails, and this is an error of its own
(`_TRANSPORT`, `_RESOLVE`, ...), which names the broker. So neither of the two is worth a line.
"""

from __future__ import annotations

from typing import NamedTuple

EVENT = "kafka client"
FAILED = "FAIL"  # librdkafka's facility for connections that could not be made, or have ended
RETRYING = ": retrying"  # such as a fresh cluster that has "Coordinator load in progress"; what fails says so itself
DEBUG = "debug"
_METHODS = ("error", "error", "error", "error", "warning", "info", "info", DEBUG)  # by syslog level


class Line(NamedTuple):
    """One line of our log."""

    method: str  # the level: "debug", "info", "warning", "error"
    code: str  # name of the error, or of librdkafka's facility
    detail: str

    @property
    def kind(self) -> tuple[str, str]:
        """What it has in common with lines that need not be told beside it: its code and its broker."""
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
