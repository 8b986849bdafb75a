"""The service's log and that of its Kafka clients: neither can flood, as each kind of line comes once in a while."""

from __future__ import annotations

import logging
import time

from fastgw import client_lines
from fastgw.throttle import SharedThrottle

log = logging.getLogger("fastgw.service")
client_log = logging.getLogger("fastgw.service.librdkafka")


class Warnings:
    """Warnings that would repeat: one of each event in a while. Any thread may call it."""

    def __init__(self) -> None:
        self._throttle = SharedThrottle()

    def warn(self, event: str, detail: str) -> None:
        """Logs a warning, if one of this event may pass."""
        held_back = self._throttle.admit((event,), time.monotonic_ns())
        if held_back >= 0:
            log.warning("%s %s%s", event, detail, f" (and {held_back} more like it)" if held_back else "")

    def sum_up(self, at_end: bool = False) -> None:
        """Says what was held back and has stopped; `at_end`, or may go on."""
        ended = self._throttle.rest() if at_end else self._throttle.overdue(time.monotonic_ns())
        for (event,), held_back in ended:
            log.warning("%s: %d more lines like this were held back", event, held_back)


class ClientLogFilter(logging.Filter):
    """Lets each client say each kind of thing once in a while: a lost broker is reported twenty times a second.

    What comes as an error as well, and what is no trouble, does not pass (see `client_lines`). Clients log from threads
    of their own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = SharedThrottle()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line may pass; confluent-kafka's lines have the kind (such as FAIL), client and text as args."""
        if not isinstance(record.args, tuple) or not record.args:
            kind: tuple[object, ...] = (record.levelno, record.msg)
        elif record.levelno > logging.DEBUG and record.args[0] == client_lines.FAILED:
            return False
        else:
            kind = (record.levelno, *record.args[:2])
        return self._throttle.admit(tuple(map(str, kind)), time.monotonic_ns()) >= 0


client_log.addFilter(ClientLogFilter())
