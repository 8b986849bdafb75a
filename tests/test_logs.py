"""Log lines as somebody reads them who has only stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import logging, structlog
from fastgw import logs
logs.configure("worker 1.0")
log = structlog.get_logger("fastgw.test")
log.debug("detail")
log.info("ready", addresses=["127.0.0.1:1"], note="two words")
logging.getLogger("granian").info("chatter")
logging.getLogger("granian").warning("slow %s", "client")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("reply not handled")
"""


def lines(**environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_away_from_a_terminal_each_event_is_one_json_object_libraries_included() -> None:
    ready, slow, failure = map(json.loads, lines(FASTGW_LOG="auto"))
    assert ready.pop("timestamp").endswith("Z")
    assert ready == {
        "event": "ready",
        "level": "info",
        "process": "worker 1.0",
        "addresses": ["127.0.0.1:1"],
        "note": "two words",
    }
    assert (slow["event"], slow["level"], slow["logger"]) == ("slow client", "warning", "granian")
    assert "ZeroDivisionError" in failure["exception"]


def test_as_text_each_event_is_one_line_of_key_and_value() -> None:
    ready, slow, failure = lines(FASTGW_LOG="text")
    assert 'level=info process="worker 1.0" event=ready' in ready
    assert 'note="two words"' in ready
    assert 'event="slow client"' in slow
    assert "ZeroDivisionError" in failure


def test_the_level_can_be_set_and_a_wrong_one_counts_as_info() -> None:
    assert '"detail"' in lines(FASTGW_LOG_LEVEL="debug")[0]
    assert len(lines(FASTGW_LOG_LEVEL="error")) == 1
    assert len(lines(FASTGW_LOG_LEVEL="loud")) == 3


def test_a_disk_that_is_full_costs_the_line_and_not_who_writes_it() -> None:
    """The gateway's log is told of a request before its client is: an error there would be a lost answer."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM + "print('went on')"], stdout=subprocess.PIPE, stderr=full, text=True
        )
    assert done.stdout == "went on\n"
