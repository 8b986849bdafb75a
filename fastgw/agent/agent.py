"""The agent: one process per node that distributes partitions, watches the services, and serves the admin port.

It checks the topics, follows this node's membership in the cluster, writes the partition map for the workers, and
checks whether the services have consumers. No request passes through it. It may die and restart at any time: the map in
shared memory stays valid, and a new agent writes it only if it has changed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from setproctitle import setproctitle

from fastgw import _ctable, logs, ready_pipe, state_file, table
from fastgw._ctable import Table
from fastgw.admin.pages import Admin
from fastgw.admin.server import AdminServer
from fastgw.agent.consumer_lag import Consumers
from fastgw.agent.membership import Membership
from fastgw.agent.positions import NodePositions
from fastgw.config import inherited
from fastgw.errors import FastgwError
from fastgw.kafka import topic_checks
from fastgw.mesh import status
from fastgw.mesh.links import socket_path
from fastgw.open_streams import OpenStreams

log = structlog.get_logger("fastgw.agent")

BEAT_S = 1.0  # between two heartbeats, while nothing happens
ASK_LIMIT_S = 0.2  # for the workers to tell their streams; the admin port answers nobody else meanwhile
LOOK_FOR_DRAIN_S = 0.1  # how soon the agent notices a drain and leaves the node group
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
    """Run `fastgw agent`. The supervisor starts it with inherited descriptors.

    Runs until SIGTERM or until the supervisor has ended. SIGHUP reads the configuration again.

    Args:
        table_fd: the shared table.
        config_fd: the configuration as `config.to_json` wrote it.
        run_dir: directory of the supervisor's state, which the admin port shows. Empty: none.
        ready_fd: a pipe; gets one line, `ready` or `error <why>`, and is closed. -1: none.
        life_fd: a pipe that the supervisor keeps open as long as it lives. -1: none.
        admin_fds: listening sockets of the admin port, one for each address; often none.

    Returns:
        The exit code: 0 after a normal end, 2 if the agent cannot start here, 1 otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C and sends SIGTERM
    logs.configure("agent")
    try:
        agent = Agent(table.attach(table_fd), config_fd, admin_fds, Path(run_dir) if run_dir else None)
        setproctitle(f"fastgw: {agent.name} agent")
        agent.start()
    except FastgwError as error:
        ready_pipe.tell(ready_fd, f"error {' '.join(str(error).split())}\n")
        return error.exit_code
    ready_pipe.tell(ready_fd, "ready\n")
    return agent.run(life_fd)


def owners_of(partitions: frozenset[int], partition_count: int, workers: int) -> bytes:
    """The partition map: one byte per partition, its worker, or 0xFF if it belongs to another node.

    The i-th partition of this node goes to worker i mod `workers`, so every worker has one if there are enough.
    """
    owners = bytearray([_ctable.UNOWNED]) * partition_count
    for place, partition in enumerate(sorted(partitions)):
        owners[partition] = place % workers
    return bytes(owners)


class Agent:
    """Builds the parts of the agent and runs them."""

    def __init__(self, table: Table, config_fd: int, admin_fds: Sequence[int], run_dir: Path | None = None) -> None:
        self._table = table
        self._config_fd = config_fd
        self._config = inherited.read(config_fd)
        self.name = self._config.gateway.name
        self._run_dir = run_dir
        self._admin = Admin(
            table,
            self._config,
            time.monotonic_ns,
            lambda: state_file.read(run_dir) if run_dir else None,
            self._ask_streams,
        )
        self._servers = [AdminServer(socket.socket(fileno=fd), self._admin) for fd in admin_fds]
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stopping = False
        self._reload = False
        self._has_left = False  # whether it has left the node group because of a drain
        self._failure: BaseException | None = None
        self._membership = self._new_membership()
        self._consumers = self._new_consumers()

    def _ask_streams(self, asked: Sequence[tuple[int, int]]) -> Sequence[OpenStreams | None]:
        if self._run_dir is None:
            return [None for _ in asked]
        return status.ask([socket_path(self._run_dir, *one) for one in asked], ASK_LIMIT_S)

    def start(self) -> None:
        """Check the topics and start all parts.

        Raises:
            StartError: Kafka or its topics do not fit the configuration. Only raised before the first map is written: a
                restarted agent must not stop a running gateway while Kafka is down.
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
        """Run until a signal, the supervisor's end, or the failure of a part. Returns the exit code."""
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
            log.error("agent failed", error=repr(self._failure))
            return 1
        return 0

    def _idle_s(self) -> float:
        return LOOK_FOR_DRAIN_S if self._config.cluster.mode == "group" and not self._has_left else BEAT_S

    def _leave_if_draining(self) -> None:
        """Leave the node group as soon as the node drains: its workers still read the partitions while other nodes
        take them over, so no reply is lost.
        """
        if self._config.cluster.mode == "group" and not self._has_left and self._table.service_draining():
            self._has_left = True
            self._membership.stop(LEAVE_TIMEOUT_S)

    def _stop(self) -> None:
        # Leave the group first and stop the admin server last, so that /readyz gives its reasons as long as possible.
        self._membership.stop(LEAVE_TIMEOUT_S)
        self._consumers.stop(0)
        for server in self._servers:
            server.stop()

    def _read_again(self) -> None:
        try:
            fresh = inherited.read(self._config_fd)
        except FastgwError as error:
            log.error("configuration not applied", error=str(error))
            return
        kafka_differs = fresh.kafka != self._config.kafka
        self._config = self._admin.config = fresh
        if kafka_differs:
            self._membership.stop(LEAVE_TIMEOUT_S)
            self._membership = self._new_membership()
            self._membership.start()
        # The routes may name other services: clear the waits of the old ones.
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
        is_alone = self._config.cluster.mode == "single"
        positions = None if is_alone else NodePositions(self._config, self._table)
        return Membership(self._config, self._take_over, self._on_failure, positions=positions)

    def _take_over(self, partitions: frozenset[int], partition_count: int) -> None:
        """Write the map. Runs on the membership's thread; no other process writes the map."""
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
