"""The log of the service and its Kafka clients. Repeated lines of one kind are throttled, counted and summed up."""

from __future__ import annotations

import logging
import time

from fastgw import client_lines
from fastgw.throttle import PERIOD_NS, SharedThrottle

log = logging.getLogger("fastgw.service")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Warnings:
    """Throttled lines: one of each kind per period. Any thread may call it."""

    def __init__(self, logger: logging.Logger = log, period_ns: int = PERIOD_NS) -> None:
        self._logger = logger
        self._throttle = SharedThrottle(period_ns)

    def warn(self, event: str, detail: str, *about: str) -> None:
        """Logs a warning, unless its kind is throttled: lines of one event that are `about` the same."""
        self.say(logging.WARNING, event, detail, *about)

    def say(self, level: int, event: str, detail: str, *about: str) -> None:
        """The same with any level of `logging`."""
        held_back = self._throttle.admit((str(level), event, *about), time.monotonic_ns())
        if held_back >= 0:
            self._logger.log(level, "%s %s%s", event, detail, f" (and {held_back} more like it)" if held_back else "")

    def sum_up(self, at_end: bool = False) -> None:
        """Logs how many lines of ended repetitions were held back; `at_end` those of all."""
        ended = self._throttle.rest() if at_end else self._throttle.overdue(time.monotonic_ns())
        for (level, *kind), held_back in ended:
            what = " ".join(filter(None, kind))
            self._logger.log(int(level), "%s: %d more lines like this were held back", what, held_back)


class ClientLog(Warnings):
    """The log lines of librdkafka, which reports a lost broker twenty times a second (see `client_lines`).

    An instance is the `logger` of confluent-kafka's clients; they call it from their own threads.
    """

    def log(self, level: int, _format: str, facility: str, client: str, text: str) -> None:
        """Logs a line; has the signature of confluent-kafka's `logger`."""
        line = client_lines.of_log(client_lines.SYSLOG_LEVELS.get(level, client_lines.SYSLOG_INFO), facility, text)
        if line.method == client_lines.DEBUG:  # an author has switched it on, so log all of it
            self._logger.debug("kafka_client client=%s code=%s %s", client, line.code, line.detail)
        else:
            detail = f"client={client} code={line.code} {line.detail}"
            self.say(_LEVELS[line.method], "kafka_client", detail, *line.kind)


CLIENT_LOG = ClientLog(logging.getLogger("fastgw.service.librdkafka"))
"""The client log of this process; a service sums it up."""
