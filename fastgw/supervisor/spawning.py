"""Starts each kind of child with its command, its options and the descriptors that it inherits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from fastgw.supervisor.children import Child, CommandFor, Start, by_exec
from fastgw.supervisor.resources import SupervisorResources, opened_anew
from fastgw.supervisor.standby import Standby
from fastgw.supervisor.times import SupervisorTimes

log = structlog.get_logger("fastgw.supervisor")

Fds = dict[str, list[int]]
"""An option of the child, and the descriptors whose numbers are its value."""


class Spawner:
    """Starts the children of one supervisor. A failed start is logged, and the result is None.

    Args:
        resources: what children inherit.
        environ: their environment.
        take_standby: takes the standby for a new worker; None if there is no standby.
    """

    def __init__(
        self,
        resources: SupervisorResources,
        command_for: CommandFor,
        environ: Mapping[str, str],
        times: SupervisorTimes,
        take_standby: Callable[[], Standby | None],
    ) -> None:
        self._resources = resources
        self._command_for = command_for
        self._environ = environ
        self._times = times
        self._take_standby = take_standby

    def agent(self, config_fd: int) -> Child | None:
        return self._spawn("agent", [], config_fd, {"--admin-fds": self._resources.admin.fds_of(0)})

    def store(self, config_fd: int) -> Child | None:
        return self._spawn("store", [], config_fd, {})

    def checker(self, config_fd: int) -> Child | None:
        return self._spawn("checker", [], config_fd, {})

    def worker(self, worker: int, generation: int, config_fd: int) -> Child | None:
        """The process `generation` of `worker`, from a standby if there is one."""
        listeners = self._resources.listeners
        place = ["--slot", str(worker), "--generation", str(generation)]
        place += ["--listen-of", ",".join(map(str, listeners.bind_numbers))]
        return self._spawn("worker", place, config_fd, {"--listen-fds": listeners.fds_of(worker)}, worker, generation)

    def standby(self, name: str) -> Standby | None:
        """A process that waits to become a worker of the gateway `name`."""
        try:
            return Standby([*self._command_for("standby"), "--name", name], self._environ)
        except OSError as error:
            log.error("child not started", child="standby", error=str(error))
            return None

    def _spawn(
        self,
        kind: str,
        arguments: list[str],
        config_fd: int,
        more_fds: Fds,
        worker: int = -1,
        generation: int = -1,
    ) -> Child | None:
        options = ["--run-dir", str(self._resources.run_dir), *arguments]
        try:
            own_config_fd = opened_anew(config_fd)
            try:
                fds, now = self._fds(own_config_fd, more_fds), time.monotonic()
                start = self._start_of(kind, options)
                child = Child(start, fds, now, now + self._times.start, worker, generation, kind)
            finally:
                os.close(own_config_fd)
        except OSError as error:  # for example, no free descriptors
            log.error("child not started", child=kind, worker=worker, error=str(error))
            return None
        log.debug("child started", child=child.name, pid=child.pid)
        return child

    def _fds(self, config_fd: int, more: Fds) -> Fds:
        """The descriptors of every child and `more`; options without descriptors are left out."""
        common = {
            "--table-fd": [self._resources.table_fd],
            "--config-fd": [config_fd],
            "--life-fd": [self._resources.life_fd],
        }
        return {option: numbers for option, numbers in {**common, **more}.items() if numbers}

    def _start_of(self, kind: str, options: list[str]) -> Start:
        standby = self._take_standby() if kind == "worker" else None
        if standby is not None:
            return partial(standby.take_over, options)
        return by_exec([*self._command_for(kind), *options], self._environ)
