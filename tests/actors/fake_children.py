"""Fake workers, agents, stores and checkers for the tests of the supervisor, and a program that runs one with them.

They keep the real contract (options, table record, readiness pipe, heartbeat, drain on SIGTERM, end with the
supervisor), need no Kafka, and do wrong what the file FAKE_DIR/<kind>-<slot> (of others FAKE_DIR/<kind>) tells them:

    dies      ends before it is ready          refuses   says "error no such topic" and ends
    silent    never becomes ready              hangs     is ready, then its heart stops
    stuck     its heart stops before it is ready
    shy       is ready, and says so in the table alone
    stubborn  ignores SIGTERM                  waits     its drain lasts until the file is gone

What happens to them they write to FAKE_DIR/events, a line each: "worker 0.1 started orders 4711". A connection is
answered with the worker's name.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from fastgw import _ctable, config, table
from fastgw.config import ACCEPT_BACKLOG
from fastgw.errors import FastgwError
from fastgw.supervisor.standby import await_role

HEARTBEAT_S = 0.05


def fake_dir() -> Path:
    return Path(os.environ["FAKE_DIR"])


def event(name: str, what: str) -> None:
    fd = os.open(fake_dir() / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{name} {what}\n".encode())
    os.close(fd)


class FakeChild:
    """What fake worker and fake agent have in common."""

    def __init__(self, options: argparse.Namespace, name: str, plan_file: str) -> None:
        self.options, self.name = options, name
        self._plan_file = fake_dir() / plan_file
        self.stopping = False
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writing)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

    @property
    def plan(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._plan_file.read_text()
        return ""

    def topic(self) -> str:
        data = os.pread(self.options.config_fd, 1 << 20, 0)
        return config.from_json(data).routes[0].topic

    def event(self, what: str) -> None:
        event(self.name, what)

    @property
    def becomes_ready(self) -> bool:
        return self.plan not in ("silent", "stuck")

    def start(self) -> None:
        self.event(f"started {self.topic()} {os.getpid()}")
        if self.plan == "dies":
            sys.exit(3)
        if self.plan == "refuses":
            os.write(self.options.ready_fd, b"error no such topic\n")
            sys.exit(2)

    def report(self) -> None:
        if self.becomes_ready and self.plan != "shy":
            os.write(self.options.ready_fd, b"ready\n")
            os.close(self.options.ready_fd)

    def turn(self, fds: list[int]) -> list[int]:
        """Wait for signals, the supervisor's end and `fds`; give those of `fds` that are readable."""
        readable, _, _ = select.select([self._reading, self.options.life_fd, *fds], [], [], HEARTBEAT_S)
        if self.options.life_fd in readable:
            self.event("orphaned")
            sys.exit(0)
        if self._reading in readable:
            for number in os.read(self._reading, 256):
                self.signalled(number)
        return [fd for fd in fds if fd in readable]

    def signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self.event(f"read {self.topic()}")
        elif self.plan != "stubborn":
            self.event("stopping")
            self.stopping = True


def fake_worker(options: argparse.Namespace) -> None:
    child = FakeChild(options, f"worker {options.slot}.{options.generation}", f"worker-{options.slot}")
    shared = table.attach(options.table_fd)
    process = table.process_index(options.slot, options.generation)
    shared.register(process, os.getpid(), options.slot, options.generation)
    slots = shared.open_range(process)
    shared.heartbeat(process, time.monotonic_ns(), 0, -1, 0)
    token = slots.publish(slots.claim(), 1, 0, 0, time.monotonic_ns() + 10**12, time.monotonic_ns())
    child.start()
    listening = [socket.socket(fileno=int(fd)) for fd in options.listen_fds.split(",") if child.becomes_ready]
    for one in listening:
        one.listen(ACCEPT_BACKLOG)  # the supervisor may have shut it meanwhile
    shared.set_ready(process, child.becomes_ready)
    if child.plan == "shy":
        child.event("in the table")
    child.report()
    while not child.stopping or child.plan == "waits":
        for one in child.turn([one.fileno() for one in listening]):
            answer(one, listening, child)
        if child.plan not in ("hangs", "stuck"):
            shared.heartbeat(process, time.monotonic_ns(), 1, -1, 0)
    slots.finish(token, _ctable.ANSWERED)
    slots.release(token)
    shared.unregister(process)
    child.event("drained")


def answer(fd: int, listening: list[socket.socket], child: FakeChild) -> None:
    one = next(one for one in listening if one.fileno() == fd)
    one.setblocking(False)
    try:
        connection, _ = one.accept()
    except BlockingIOError:
        return  # a sibling on a shared socket was quicker
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The supervisor has not seen yet that we are ready, and has shut the socket; it will make it listen again. The
        # event loop of a real worker goes on as well.
        return
    with connection:
        connection.sendall(child.name.encode())


def fake_agent(options: argparse.Namespace) -> None:
    child = FakeChild(options, "agent", "agent")
    shared = table.attach(options.table_fd)
    child.start()
    child.report()
    while not child.stopping:
        child.turn([])
        if child.plan != "hangs":
            shared.agent_beats(time.monotonic_ns())
    child.event("drained")


class FakeStore(FakeChild):
    """Tells of its configuration the topics of all routes and the first word of each secret."""

    def topic(self) -> str:
        cfg = config.from_json(os.pread(self.options.config_fd, 1 << 20, 0))
        secrets = [secret.split()[0] for secret in cfg.gateway.secrets]
        return f"{','.join(route.topic for route in cfg.routes)} {','.join(secrets)}"


def fake_store(options: argparse.Namespace) -> None:
    child = FakeStore(options, "store", "store")
    shared = table.attach(options.table_fd)
    child.start()
    child.report()
    while not child.stopping:
        child.turn([])
        if child.becomes_ready and child.plan != "hangs":
            shared.store_beats(time.monotonic_ns())
    child.event("drained")


def fake_checker(options: argparse.Namespace) -> None:
    child = FakeChild(options, "checker", "checker")
    child.start()
    child.report()
    while child.plan == "silent":
        child.turn([])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("config", nargs="?")
    for name in ("--slot", "--generation", "--table-fd", "--config-fd", "--ready-fd", "--life-fd"):
        parser.add_argument(name, type=int)
    parser.add_argument("--listen-fds")
    parser.add_argument("--listen-of")
    parser.add_argument("--admin-fds")
    parser.add_argument("--run-dir")
    parser.add_argument("--standby-fd", type=int)
    parser.add_argument("--name")
    options = parser.parse_args()
    if options.kind == "standby":
        event("standby", f"waits {os.getpid()}")
        role = await_role(options.standby_fd)
        if role is None:
            return 0
        options = parser.parse_args(["worker", *role])
    if options.kind == "worker":
        fake_worker(options)
    elif options.kind == "agent":
        fake_agent(options)
    elif options.kind == "store":
        fake_store(options)
    elif options.kind == "checker":
        fake_checker(options)
    else:
        return supervise(Path(options.config))
    return 0


def _spare(kind: str) -> None:
    """Have SIGKILL do nothing to children of this kind, as if they waited for a frozen disk."""
    from fastgw.supervisor.children import Child

    send = Child.send

    def spare(child: Child, number: signal.Signals) -> None:
        if child.kind != kind or number != signal.SIGKILL:
            send(child, number)

    Child.send = spare  # type: ignore[method-assign]


def supervise(config_path: Path) -> int:
    from fastgw.supervisor import supervisor  # the children need none of it, and there are many of them
    from fastgw.supervisor.times import SupervisorTimes

    times = SupervisorTimes(
        start=10, hung=0.6, agent_hung=2.0, look=0.1, drain_more=0.5, retry_first=0.05, retry_last=0.2, good_run=2
    )
    if unkillable := os.environ.get("FAKE_UNKILLABLE"):
        _spare(unkillable)
    override = dict(part.split("=") for part in os.environ.get("FAKE_TIMES", "").split())
    times = times._replace(**{name: float(value) for name, value in override.items()})
    try:
        return supervisor.run(
            config_path, lambda kind: [sys.executable, "-m", "tests.actors.fake_children", kind], times=times
        )
    except FastgwError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
