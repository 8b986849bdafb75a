"""The supervisor's reports to systemd and in its state file: the stage of the service, the result of a reload."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from fastgw import state_file
from fastgw.state_file import State
from fastgw.supervisor.systemd import Notifier

log = structlog.get_logger("fastgw.supervisor")

STATUS_LENGTH_MAX = 1000  # systemctl shows it on one line


class Reports:
    """The reports of one supervisor; call `open` first."""

    def __init__(self, name: str, config_path: Path) -> None:
        self._notifier = Notifier()
        self._run_dir = Path()
        self._state = state_file.of_this_process(name, config_path, time.time())

    def __repr__(self) -> str:
        return f"<Reports {self._state.stage}>"

    def open(self, run_dir: Path) -> None:
        """Write the state file, from now on in this directory."""
        self._run_dir = run_dir
        self._publish(self._state)

    def starting(self, children: str) -> None:
        self._notifier.tell(f"STATUS=starting the {children}")

    def serving(self, addresses: Sequence[str], workers: int) -> None:
        if self._state.stage != state_file.SERVING:
            self._publish(msgspec.structs.replace(self._state, stage=state_file.SERVING))
        status = f"serving {' '.join(addresses)} with {workers} workers"
        last = self._state.reload
        if last is not None and last.error:
            status += f"; last reload {last.result}: {in_one_line(last.error)}"
        self._notifier.tell("READY=1", f"STATUS={status[:STATUS_LENGTH_MAX]}")

    def reloading(self) -> None:
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")
        self._publish(self._state.begun(time.time()))

    def reloaded(self, result: str, error: str) -> None:
        """A reload has ended; `serving` is called next."""
        self._publish(self._state.ended(time.time(), result, error))

    def alive(self) -> None:
        """Notify systemd's watchdog."""
        self._notifier.tell("WATCHDOG=1")

    def draining(self, at_most_s: float) -> None:
        self._notifier.tell("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={int(at_most_s * 1e6)}")
        self._publish(msgspec.structs.replace(self._state, stage=state_file.DRAINING))

    def _publish(self, state: State) -> None:
        self._state = state
        try:
            state_file.write(self._run_dir, state)
        except OSError as error:
            log.error("state file not written", run_dir=str(self._run_dir), error=str(error))


def in_one_line(text: str) -> str:
    """A message of several lines, such as one about a configuration file, as one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip(" ^"))
