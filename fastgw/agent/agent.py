"""The agent: one process a node that knows how the service is doing and which partitions are whose.

It checks the topics, follows the membership of this node, writes the partition map for the workers, looks whether the
services are there, and serves the admin port. No request passes through it. It may die and come back at any time: the
map in shared memory stays valid meanwhile, and a new agent changes it only where it is wrong.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from setproctitle import setproctitle

from fastgw import _ctable, config, logs, state_file, table
from fastgw._ctable import Table
from fastgw.admin.pages import Admin
from fastgw.admin.server import AdminServer
from fastgw.agent.consumer_lag import Consumers
from fastgw.agent.membership import Membership
from fastgw.config import Config
from fastgw.errors import FastgwError
from fastgw.kafka import topic_checks

log = structlog.get_logger("fastgw.agent")

BEAT_S = 1.0  # between two signs of life, while nothing happens
LOOK_FOR_DRAIN_S = 0.1  # how soon the other nodes of a group hear that this one goes
TOLD_MAX = 3000  # characters of why it cannot start: the supervisor takes 4,096 bytes
LEAVE_TIMEOUT_S = 4.0  # for leaving the group; less than the supervisor waits for a stopping agent


def main(
    *,
    table_fd: int,
    config_fd: int,
    ready_fd: int,
    life_fd: int,
    admin_fds: Sequence[int] = (),
    run_dir: str = "",
) -> int:
    """The process: `fastgw agent`, started by the supervisor with everything it needs as inherited descriptors.

    Runs until SIGTERM or until the supervisor is gone; SIGHUP reads the configuration again.

    Args:
        table_fd: the shared table.
        config_fd: the configuration as `config.to_json` wrote it.
        run_dir: where the supervisor keeps its state, which the admin port shows. Empty: nowhere.
        ready_fd: a pipe; gets one line, `ready` or `error <why>`, and is closed. -1: nobody wants to know.
        life_fd: a pipe whose other end lives as long as the supervisor. -1: there is none.
        admin_fds: listening sockets of the admin port, one for each of its addresses; often none.

    Returns:
        The exit code: 0 at an ordered end, 2 when the surroundings are not fit to start in, 1 otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it passes on SIGTERM
    logs.configure("agent")
    try:
        agent = Agent(table.attach(table_fd), config_fd, admin_fds, Path(run_dir) if run_dir else None)
        setproctitle(f"fastgw: {agent.name} agent")
        agent.start()
    except FastgwError as error:
        tell(ready_fd, f"error {' '.join(str(error).split())}\n")
        return error.exit_code
    tell(ready_fd, "ready\n")
    return agent.run(life_fd)


def owners_of(partitions: frozenset[int], partition_count: int, workers: int) -> bytes:
    """The partition map: for each partition its worker, or 0xFF where it belongs to another node.

    The i-th partition of this node goes to worker i mod `workers`, so every worker has one as long as there are enough.
    """
    owners = bytearray([_ctable.UNOWNED]) * partition_count
    for place, partition in enumerate(sorted(partitions)):
        owners[partition] = place % workers
    return bytes(owners)


class Agent:
    """The parts of the agent, joined."""

    def __init__(self, table: Table, config_fd: int, admin_fds: Sequence[int], run_dir: Path | None = None) -> None:
        self._table = table
        self._config_fd = config_fd
        self._config = read_config(config_fd)
        self.name = self._config.gateway.name
        self._admin = Admin(
            table, self._config, time.monotonic_ns, lambda: state_file.read(run_dir) if run_dir else None
        )
        self._servers = [AdminServer(socket.socket(fileno=fd), self._admin) for fd in admin_fds]
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stopping = False
        self._reload = False
        self._has_left = False  # the group, before the end
        self._failure: BaseException | None = None
        self._membership = self._new_membership()
        self._consumers = self._new_consumers()

    def start(self) -> None:
        """
        Raises:
            StartError: Kafka or its topics are not as the configuration needs them. Only before the first map: a
                service that runs is not stopped by an agent that comes back while Kafka is away.
        """
        if self._table.map_version() == 0:
            for warning in topic_checks.check(self._config):
                log.warning("topic check", finding=str(warning))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for server in self._servers:
            server.start()
        self._membership.start()
        self._consumers.start()

    def run(self, life_fd: int) -> int:
        """Waits for a signal, for the supervisor's end, or for a part that fails; returns the exit code."""
        wake_fd = self._wake_read.fileno()
        watched = [wake_fd, life_fd] if life_fd >= 0 else [wake_fd]
        supervisor_lives = True
        while supervisor_lives and not self._stopping and self._failure is None:
            self._table.agent_beats(time.monotonic_ns())
            readable, _, _ = select.select(watched, [], [], self._idle_s())
            self._leave_if_draining()
            if wake_fd in readable:
                self._wake_read.recv(4096)
            if life_fd in readable:
                supervisor_lives = os.read(life_fd, 4096) != b""
            if self._reload:
                self._reload = False
                self._read_again()
        self._stop()
        if self._failure is not None:
            log.error("agent fails", error=repr(self._failure))
            return 1
        return 0

    def _idle_s(self) -> float:
        return LOOK_FOR_DRAIN_S if self._config.cluster.mode == "group" and not self._has_left else BEAT_S

    def _leave_if_draining(self) -> None:
        """A node of a group hands its partitions over while its workers still read them, so that no reply falls
        between two readers."""
        if self._config.cluster.mode == "group" and not self._has_left and self._table.service_draining():
            self._has_left = True
            self._membership.stop(LEAVE_TIMEOUT_S)

    def _stop(self) -> None:
        # The group hears first, the probes last: /readyz goes on saying why until there is nothing left to ask.
        self._membership.stop(LEAVE_TIMEOUT_S)
        self._consumers.stop(0)
        for server in self._servers:
            server.stop()

    def _read_again(self) -> None:
        try:
            fresh = read_config(self._config_fd)
        except FastgwError as error:
            log.error("configuration not taken over", error=str(error))
            return
        kafka_differs = fresh.kafka != self._config.kafka
        self._config = self._admin.config = fresh
        if kafka_differs:
            self._membership.stop(LEAVE_TIMEOUT_S)
            self._membership = self._new_membership()
            self._membership.start()
        # The routes may name other services: what was told of the old ones is forgotten.
        self._consumers.stop()
        self._table.write_waits({}, 0)
        self._consumers = self._new_consumers()
        self._consumers.start()

    def _new_consumers(self) -> Consumers:
        def tell(waits_ns: dict[int, int]) -> None:
            self._table.write_waits(waits_ns, time.monotonic_ns())

        consumers = Consumers(self._config, tell, self._on_failure)
        self._admin.services = lambda: consumers.states
        return consumers

    def _new_membership(self) -> Membership:
        return Membership(self._config, self._take_over, self._on_failure)

    def _take_over(self, partitions: frozenset[int], partition_count: int) -> None:
        """Writes the map, on the membership's thread; this process is the map's only writer."""
        if partition_count > _ctable.PARTITIONS_MAX:
            log.error(
                "response topic has too many partitions, map kept",
                partitions=partition_count,
                most=_ctable.PARTITIONS_MAX,
            )
            return
        owners = owners_of(partitions, partition_count, self._table.workers)
        version, present = self._table.read_map()
        if version == 0 or present != owners:
            self._table.write_map(owners)

    def _on_signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stopping = True

    def _on_failure(self, error: BaseException) -> None:
        self._failure = error
        self._wake_write.send(b"!")


def read_config(config_fd: int) -> Config:
    """What the supervisor hands over to a child.

    Raises:
        ConfigError: it is of another version.
    """
    return config.from_json(_read_all(config_fd))


def _read_all(fd: int) -> bytes:
    # A file is read without moving its offset, which is shared with every other process that inherited it.
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return os.pread(fd, status.st_size, 0)
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def tell(ready_fd: int, line: str) -> None:
    """Say the one line that the supervisor waits for."""
    if ready_fd < 0:
        return
    if len(line) > TOLD_MAX:
        line = f"{line[:TOLD_MAX]} ... and more; `fastgw check --live` tells all of it\n"
    with os.fdopen(ready_fd, "w") as pipe:
        pipe.write(line)
