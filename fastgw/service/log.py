"""The log of the service and its Kafka clients. Repeated lines of one kind are throttled."""

from __future__ import annotations

import logging
import time

from fastgw import client_lines
from fastgw.throttle import SharedThrottle

log = logging.getLogger("fastgw.service")
client_log = logging.getLogger("fastgw.service.librdkafka")


class Warnings:
    """Throttled warnings: one line of each event per period. Any thread may call it."""

    def __init__(self) -> None:
        self._throttle = SharedThrottle()

    def warn(self, event: str, detail: str) -> None:
        """Logs a warning, unless this event is throttled."""
        held_back = self._throttle.admit((event,), time.monotonic_ns())
        if held_back >= 0:
            log.warning("%s %s%s", event, detail, f" (and {held_back} more like it)" if held_back else "")

    def sum_up(self, at_end: bool = False) -> None:
        """Logs how many lines of ended repetitions were held back; `at_end` those of all."""
        ended = self._throttle.rest() if at_end else self._throttle.overdue(time.monotonic_ns())
        for (event,), held_back in ended:
            log.warning("%s: %d more lines like this were held back", event, held_back)


class ClientLogFilter(logging.Filter):
    """Throttles the lines of each kind and client: librdkafka reports a lost broker twenty times a second.

    Lines that are also reported as errors and lines that show no problem do not pass (see `client_lines`). Clients log
    from their own threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = SharedThrottle()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line may pass. confluent-kafka's lines have kind (such as FAIL), client and text as args."""
        if not isinstance(record.args, tuple) or not record.args:
            kind: tuple[object, ...] = (record.levelno, record.msg)
        elif record.levelno > logging.DEBUG and record.args[0] == client_lines.FAILED:
            return False
        else:
            kind = (record.levelno, *record.args[:2])
        return self._throttle.admit(tuple(map(str, kind)), time.monotonic_ns()) >= 0


client_log.addFilter(ClientLogFilter())
