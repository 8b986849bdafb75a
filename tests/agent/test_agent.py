"""The agent as the supervisor has it: a process with inherited descriptors that may die and come back at any time."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastgw import _ctable, config, errors, ready_pipe, table
from fastgw._ctable import UNOWNED, Table
from fastgw.agent.agent import Agent, owners_of
from fastgw.config import Config
from fastgw.demo.broker import EmbeddedBroker
from fastgw.supervisor.children import SAID_BYTES_MAX
from tests.conftest import MakeTopics
from tests.places import REPOSITORY
from tests.waiting import eventually

pytestmark = pytest.mark.slow

END_S = 15.0
SETTLED_S = 30.0


def settings(bootstrap: str, replies: str = "replies", requests: str = "requests", more: str = "") -> Config:
    return config.loads(
        f"""
        [gateway]
        name = "{replies}"
        response_topic = "{replies}"
        workers = 3
        [kafka]
        bootstrap = "{bootstrap}"
        {more}
        [[route]]
        name = "create"
        method = "POST"
        path = "/"
        topic = "{requests}"
        """
    )


class Supervisor:
    """What an agent needs of its supervisor: the table, the configuration, the sockets, and pipes."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.table_fd, self.table = table.create(0xABCDEF, cfg.gateway.workers, 64)
        self.config_fd = os.memfd_create("config")
        self.write_config(config.to_json(cfg))
        self.admin = socket.create_server(("127.0.0.1", 0))
        self.life_read, self.life_write = os.pipe()
        self.agents: list[subprocess.Popen[str]] = []

    def write_config(self, data: bytes) -> None:
        os.ftruncate(self.config_fd, 0)
        os.pwrite(self.config_fd, data, 0)

    def start(self) -> tuple[subprocess.Popen[str], str]:
        """A new agent, and the line that it says."""
        ready_read, ready_write = os.pipe()
        fds = {
            "--table-fd": self.table_fd,
            "--config-fd": self.config_fd,
            "--ready-fd": ready_write,
            "--life-fd": self.life_read,
            "--admin-fds": self.admin.fileno(),
        }
        options = [part for name, fd in fds.items() for part in (name, str(fd))]
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", "agent", *options, "--run-dir", "unused"],
            pass_fds=list(fds.values()),
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "FASTGW_LOG": "text"},
        )
        self.agents.append(process)
        os.close(ready_write)
        with os.fdopen(ready_read) as pipe:
            return process, pipe.read()

    def get(self, target: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin.getsockname()[1], timeout=END_S)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def has_map(self, owners: list[int]) -> Callable[[], bool]:
        return lambda: self.table.read_map()[1] == bytes(owners)

    def die(self) -> None:
        if self.life_write >= 0:
            os.close(self.life_write)
            self.life_write = -1

    def close(self) -> None:
        self.die()
        for process in self.agents:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        self.admin.close()
        for fd in (self.table_fd, self.config_fd, self.life_read):
            os.close(fd)


@pytest.fixture
def supervise() -> Iterator[Callable[[Config], Supervisor]]:
    supervisors: list[Supervisor] = []

    def make(cfg: Config) -> Supervisor:
        supervisors.append(Supervisor(cfg))
        return supervisors[-1]

    yield make
    for supervisor in supervisors:
        supervisor.close()


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker({"replies": 4, "requests": 2}) as broker:
        yield broker.bootstrap


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Reads the agent's log up to a line with this text."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"the agent ended without saying {text!r}:\n{''.join(seen)}")


# --- the map ---------------------------------------------------------------------------------------------------------


def test_the_partitions_of_this_node_go_round_the_workers() -> None:
    assert owners_of(frozenset({1, 3, 4, 6}), 8, 3) == bytes([UNOWNED, 0, UNOWNED, 1, 2, UNOWNED, 0, UNOWNED])


def test_a_node_without_partitions_has_a_map_of_others() -> None:
    assert owners_of(frozenset(), 2, 3) == bytes([UNOWNED, UNOWNED])


def take_over(shared: Table, partitions: set[int], partition_count: int) -> int:
    """Lets an agent hear of these partitions; the version of the map after it."""
    config_fd = os.memfd_create("config")
    try:
        os.write(config_fd, config.to_json(settings("localhost:1")))
        Agent(shared, config_fd, ())._take_over(frozenset(partitions), partition_count)
        return shared.map_version()
    finally:
        os.close(config_fd)


@pytest.fixture
def shared() -> Table:
    fd, created = table.create(1, 2, 64)
    os.close(fd)
    return created


def test_a_map_is_written_only_when_it_differs(shared: Table) -> None:
    assert take_over(shared, {0, 1}, 2) == 1
    assert take_over(shared, {0, 1}, 2) == 1
    assert take_over(shared, {0, 1}, 3) == 2
    assert take_over(shared, {0}, 3) == 3


def test_a_topic_with_more_partitions_than_an_id_can_name_leaves_the_map_alone(shared: Table) -> None:
    take_over(shared, {0, 1}, 2)
    assert take_over(shared, {0, 1}, _ctable.PARTITIONS_MAX + 1) == 1
    assert shared.read_map()[1] == bytes([0, 1])


# --- the process -----------------------------------------------------------------------------------------------------


def test_an_agent_writes_the_map_serves_the_admin_port_and_ends_in_order(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    supervisor = supervise(settings(bootstrap))
    process, said = supervisor.start()
    assert said == "ready\n"
    eventually(supervisor.has_map([0, 1, 2, 0]))
    assert supervisor.get("/livez")[0] == 200
    status, body = supervisor.get("/readyz")
    assert status == 503
    assert b"worker 2: no process" in body
    title = Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == f"fastgw: {supervisor.cfg.gateway.name} agent"
    process.send_signal(signal.SIGINT)
    assert supervisor.get("/livez")[0] == 200, "Ctrl-C is for the supervisor"
    process.terminate()
    assert process.wait(END_S) == 0


def test_an_agent_ends_with_its_supervisor(supervise: Callable[[Config], Supervisor], bootstrap: str) -> None:
    supervisor = supervise(settings(bootstrap))
    process, said = supervisor.start()
    assert said == "ready\n"
    supervisor.die()
    assert process.wait(END_S) == 0


def test_the_first_agent_says_what_is_wrong_with_the_topics(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    process, said = supervise(settings(bootstrap, requests="missing")).start()
    assert said.startswith("error topic missing: ")
    assert said.count("\n") == 1
    assert process.wait(END_S) == 2


def test_an_agent_that_was_killed_comes_back_without_touching_the_map(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    supervisor = supervise(settings(bootstrap))
    process, _ = supervisor.start()
    eventually(supervisor.has_map([0, 1, 2, 0]))
    process.kill()
    process.wait()
    process, said = supervisor.start()
    assert said == "ready\n"
    wait_for_line(process, "partitions of this node")
    assert supervisor.get("/livez")[0] == 200
    assert supervisor.table.map_version() == 1


def test_an_agent_corrects_a_map_that_is_wrong(supervise: Callable[[Config], Supervisor], bootstrap: str) -> None:
    supervisor = supervise(settings(bootstrap))
    supervisor.table.write_map(bytes([2, 2]))
    assert supervisor.start()[1] == "ready\n"
    eventually(supervisor.has_map([0, 1, 2, 0]))


def test_an_agent_that_comes_back_while_kafka_is_away_keeps_the_map_and_answers(
    supervise: Callable[[Config], Supervisor],
) -> None:
    supervisor = supervise(settings("127.0.0.1:1"))
    supervisor.table.write_map(bytes([0, 1, 2, 0]))
    process, said = supervisor.start()
    assert said == "ready\n"
    wait_for_line(process, "cannot look up the response topic")
    assert supervisor.get("/livez")[0] == 200
    assert supervisor.table.map_version() == 1
    process.terminate()
    assert process.wait(END_S) == 0


def test_an_agent_whose_membership_fails_ends_so_that_another_can_try(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    supervisor = supervise(settings(bootstrap, more='client = { "socket.timeout.ms" = "soon" }'))
    supervisor.table.write_map(bytes([0]))  # a first agent would find this mistake before it is ready
    process, _ = supervisor.start()
    assert process.wait(END_S) == 1


def test_a_reload_brings_the_new_configuration_and_a_broken_one_changes_nothing(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    cfg = settings(bootstrap)
    supervisor = supervise(cfg)
    process, _ = supervisor.start()
    supervisor.table.count(0, 0, errors.ANSWERED.number)
    assert b'route="create"' in supervisor.get("/metrics")[1]

    data = config.to_json(cfg).replace(b'"create"', b'"make"')
    supervisor.write_config(data)
    process.send_signal(signal.SIGHUP)
    eventually(lambda: b'route="make"' in supervisor.get("/metrics")[1])

    supervisor.write_config(data[:100])
    process.send_signal(signal.SIGHUP)
    wait_for_line(process, "configuration not applied")
    assert b'route="make"' in supervisor.get("/metrics")[1]


def test_a_reload_with_another_kafka_follows_that_one(
    supervise: Callable[[Config], Supervisor], bootstrap: str
) -> None:
    with EmbeddedBroker({"replies": 3, "requests": 2}) as other:
        supervisor = supervise(settings(other.bootstrap))
        process, _ = supervisor.start()
        eventually(supervisor.has_map([0, 1, 2]))
        supervisor.write_config(config.to_json(settings(bootstrap)))
        process.send_signal(signal.SIGHUP)
        eventually(supervisor.has_map([0, 1, 2, 0]))


@pytest.mark.real_kafka
def test_an_agent_of_a_group_comes_back_without_touching_the_map(
    supervise: Callable[[Config], Supervisor], kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    names = make_topics({"replies": 4, "requests": 1})
    cfg = settings(kafka_bootstrap, names["replies"], names["requests"], '[cluster]\nmode = "group"')
    supervisor = supervise(cfg)
    process, _ = supervisor.start()
    eventually(supervisor.has_map([0, 1, 2, 0]), SETTLED_S)
    process.kill()
    process.wait()
    process, _ = supervisor.start()
    wait_for_line(process, "partitions of this node")
    assert supervisor.table.map_version() == 1
    process.terminate()
    assert process.wait(END_S) == 0
    assert supervisor.table.map_version() == 1


@pytest.mark.real_kafka
def test_nodes_of_a_group_have_maps_that_fit_together(
    supervise: Callable[[Config], Supervisor], kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    names = make_topics({"replies": 8, "requests": 1})
    cfg = settings(kafka_bootstrap, names["replies"], names["requests"], '[cluster]\nmode = "group"')
    first, second = supervise(cfg), supervise(cfg)
    first.start()
    eventually(lambda: UNOWNED not in first.table.read_map()[1] and first.table.map_version(), SETTLED_S)
    process, _ = second.start()

    def fit() -> bool:
        maps = first.table.read_map()[1], second.table.read_map()[1]
        return len(maps[1]) == 8 and all((a == UNOWNED) != (b == UNOWNED) for a, b in zip(*maps, strict=True))

    eventually(fit, SETTLED_S)
    process.terminate()
    assert process.wait(END_S) == 0
    eventually(lambda: UNOWNED not in first.table.read_map()[1], SETTLED_S)


def test_what_keeps_it_from_starting_is_told_in_as_much_as_the_supervisor_takes():
    reading, writing = os.pipe()
    ready_pipe.tell(writing, "error " + "a topic is missing; " * 1000 + "\n")
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    assert len(told) < SAID_BYTES_MAX
    assert told.endswith(b"`fastgw check --live` shows everything\n")
