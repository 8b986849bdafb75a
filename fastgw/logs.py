"""Logging of all processes of a gateway: one event per line on stderr, as key=value text or JSON (FASTGW_LOG).

Modules take a logger with `structlog.get_logger("name")`; only a process's entry point calls `configure`.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger


def configure(process_name: str) -> None:
    """Set up logging for this process; call once, before anything logs.

    Environment: FASTGW_LOG = "json", "text", or "auto" (default: text on a terminal, JSON elsewhere);
    FASTGW_LOG_LEVEL = "debug", "info" (default), "warning", "error". Other values mean the default.
    """
    level = logging.getLevelNamesMapping().get(os.environ.get("FASTGW_LOG_LEVEL", "info").upper(), logging.INFO)
    steps = _steps(process_name)
    stderr: Any = _Forgiving(sys.stderr)
    structlog.configure(
        processors=[*steps, _renderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Each line is one write, because the processes of a gateway share one file.
        logger_factory=structlog.WriteLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (granian, confluent-kafka) use `logging`: the same format for their warnings and errors.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer()],
            foreign_pre_chain=[*steps, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


class _Forgiving:
    """A stream that ignores write errors, such as a full disk or a closed pipe.

    The line is lost then. An exception would leave a request without an answer, because lines are logged first.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _steps(process_name: str) -> list[Processor]:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process_name
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def _renderer() -> Processor:
    choice = os.environ.get("FASTGW_LOG", "auto")
    if choice == "json" or (choice != "text" and not sys.stderr.isatty()):
        return structlog.processors.JSONRenderer()
    return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "process", "event"], bool_as_flag=False)
