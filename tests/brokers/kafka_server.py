"""Starts, stops, kills and freezes Apache Kafka 4.x brokers (KRaft) on 127.0.0.1.

The jars come from Maven Central (pom.xml beside this file) once, into `.kafka/` of the repository or into
`$FASTGW_KAFKA_CACHE`. Each broker is a process with its own ports and data directory; every broker is also a
controller, which is enough for tests and keeps the number of processes down.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.places import REPOSITORY
from tests.ports import free_ports
from tests.waiting import eventually

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"

FETCH_TIMEOUT_S = 300  # 43 MB: 8 s on a good line
FORMAT_TIMEOUT_S = 60
START_TIMEOUT_S = 60  # 3 s on an idle machine; a loaded CI machine may take ten times that
STOP_TIMEOUT_S = 30

# Of the virtual machine. For brokers that live for minutes: they start with half the CPU time, and are slower later.
BRIEF = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
LASTING = ()  # for measuring, and for hours

LOG4J = """\
status = ERROR
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


class RealKafkaError(Exception):
    """Kafka could not be fetched or started; the message says what is missing, or ends with the broker's own log."""


def missing_tools() -> list[str]:
    """What this machine lacks for a Kafka from jars, in words; empty when nothing is missing."""
    missing = []
    if java_version() < 17:
        missing.append("Java 17 or later")
    if not jars_are_here() and shutil.which("mvn") is None:
        missing.append("Maven")
    return missing


def java_version() -> int:
    """Major version of the `java` on PATH; 0 when there is none."""
    if shutil.which("java") is None:
        return 0
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found.group(1)) if found else 0


def jar_directory() -> Path:
    """Where the jars of the pom's Kafka version are, or will be."""
    cache = Path(os.environ.get("FASTGW_KAFKA_CACHE") or REPOSITORY / ".kafka")
    return cache / f"lib-{kafka_version()}"


def kafka_version() -> str:
    """The Kafka version that pom.xml names."""
    found = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)<", (HERE / "pom.xml").read_text())
    assert found, "pom.xml no longer names kafka_2.13"
    return found.group(1)


def jars_are_here() -> bool:
    """True when the jars are complete: the mark is written last."""
    return (jar_directory() / ".complete").exists()


def fetch_jars() -> Path:
    """Return the directory with the jars, filling it first if need be. Safe to call from several processes.

    Raises:
        RealKafkaError: Maven failed; the message ends with its output.
    """
    jars = jar_directory()
    jars.mkdir(parents=True, exist_ok=True)
    with (jars / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars_are_here():
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
            _run_or_raise(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), *goal], FETCH_TIMEOUT_S, "fetching the jars")
            (jars / ".complete").touch()
    return jars


@dataclass
class Node:
    """One broker: fixed numbers and places, and the process while there is one."""

    number: int
    port: int
    controller_port: int
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def running(self) -> bool:
        """Whether the broker process is alive (a frozen one is)."""
        return self.process is not None and self.process.poll() is None


class RealKafka:
    """A Kafka cluster of `nodes` brokers. A context manager; data directories go when it stops.

    Args:
        nodes: number of brokers; with three or more, topics default to 3 replicas and min.insync.replicas 2.
        port: of the first broker; 0 picks a free one. The others always get free ones.
        heap_mb: Java heap of each broker, MiB.
        properties: broker settings beyond ours, for example `{"broker.session.timeout.ms": "3000"}`.
        java_options: of the virtual machine, BRIEF or LASTING.
        side_door: (port, advertised port) of a second listener of a single broker, for clients that shall reach it
            through something that stands on the advertised port.
    """

    def __init__(
        self,
        nodes: int = 1,
        port: int = 0,
        heap_mb: int = 512,
        properties: dict[str, str] | None = None,
        java_options: Sequence[str] = BRIEF,
        side_door: tuple[int, int] | None = None,
    ) -> None:
        assert side_door is None or nodes == 1
        self._directory = Path(tempfile.mkdtemp(prefix="fastgw-kafka-"))
        self._heap_mb = heap_mb
        self._properties = properties or {}
        self._java_options = java_options
        self._side_door = side_door
        ports = free_ports(2 * nodes)
        if port:
            ports[0] = port
        self.nodes = [
            Node(number + 1, ports[number], ports[nodes + number], self._directory / f"node-{number + 1}")
            for number in range(nodes)
        ]

    def __repr__(self) -> str:
        alive = sum(node.running for node in self.nodes)
        return f"<RealKafka {self.bootstrap}: {alive} of {len(self.nodes)} brokers running>"

    def __enter__(self) -> RealKafka:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Addresses of all brokers, `host:port,host:port`."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the living brokers, in node order."""
        return [node.process.pid for node in self.nodes if node.process is not None and node.running]

    def start(self) -> RealKafka:
        """Start every broker and wait until a record has gone through.

        Raises:
            RealKafkaError: with the tail of the broker's log. Nothing is left running.
        """
        try:
            jars = fetch_jars()
            for node in self.nodes:
                self._format(node, jars)
            for node in self.nodes:
                self.start_node(node.number)
            self._wait_until_it_works()
        except BaseException:
            self.stop()
            raise
        return self

    def start_node(self, number: int) -> None:
        """Start broker `number` (from 1) on the data it has; returns at once."""
        node = self._node(number)
        assert not node.running, f"broker {number} is running already"
        log = (node.directory / "broker.log").open("ab")
        heap = [f"-Xmx{self._heap_mb}m", f"-Xms{self._heap_mb}m"]
        log4j = f"-Dlog4j2.configurationFile={node.directory / 'log4j2.properties'}"
        command = [
            *_dies_with_us(),
            "java",
            *heap,
            *self._java_options,
            log4j,
            "-cp",
            f"{jar_directory()}/*",
            "kafka.Kafka",
        ]
        with log:
            node.process = subprocess.Popen(
                [*command, str(node.directory / "server.properties")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops the broker in order
            )  # fmt: skip

    def stop(self) -> None:
        """End every broker in order, the hard way when one does not listen, and delete the data."""
        for node in self.nodes:
            self._signal(node, signal.SIGCONT)
            self._signal(node, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in self.nodes:
            if node.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    node.process.wait(max(0.0, deadline - time.monotonic()))
                self._signal(node, signal.SIGKILL)
                node.process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self, number: int = 1) -> None:
        """End broker `number` with SIGKILL, as a power cut would; `start_node` brings it back on its data."""
        node = self._node(number)
        self._signal(node, signal.SIGKILL)
        if node.process is not None:
            node.process.wait()

    def shut_down(self, number: int = 1) -> None:
        """End broker `number` in order: it hands its leaderships over first."""
        node = self._node(number)
        self._signal(node, signal.SIGTERM)
        if node.process is not None:
            node.process.wait(STOP_TIMEOUT_S)

    def freeze(self, number: int = 1) -> None:
        """SIGSTOP: the broker keeps its connections and answers nothing, until `thaw`."""
        self._signal(self._node(number), signal.SIGSTOP)

    def thaw(self, number: int = 1) -> None:
        """SIGCONT: the opposite of `freeze`."""
        self._signal(self._node(number), signal.SIGCONT)

    def log_tail(self, number: int = 1, lines: int = 30) -> str:
        """The last lines of broker `number`'s own log (warnings and errors only)."""
        log = self._node(number).directory / "broker.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"

    def _node(self, number: int) -> Node:
        return self.nodes[number - 1]

    @staticmethod
    def _signal(node: Node, number: int) -> None:
        if node.process is not None and node.process.poll() is None:
            node.process.send_signal(number)

    def _format(self, node: Node, jars: Path) -> None:
        """Make what Kafka's format command makes. What it writes for every broker alike is kept beside the jars."""
        data = node.directory / "data"
        data.mkdir(parents=True)
        (node.directory / "log4j2.properties").write_text(LOG4J)
        settings = node.directory / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in self._settings(node).items()))
        kept = jars / "bootstrap.checkpoint"  # the versions of features that the cluster begins with
        if kept.exists():
            shutil.copy(kept, data)
            (data / "meta.properties").write_text(
                f"version=1\ncluster.id={self._cluster_id()}\nnode.id={node.number}\ndirectory.id={_new_id()}\n"
            )
        else:
            self._run_format(node, jars, settings)
            written = Path(shutil.copy(data / kept.name, kept.with_name(f"{kept.name}.{os.getpid()}")))
            written.replace(kept)  # in one step: several processes may be at it

    def _run_format(self, node: Node, jars: Path, settings: Path) -> None:
        tool = [
            "java",
            *BRIEF,
            f"-Dlog4j2.configurationFile={node.directory / 'log4j2.properties'}",
            "-cp",
            f"{jars}/*",
        ]
        format_it = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", str(settings)]
        _run_or_raise([*tool, *format_it], FORMAT_TIMEOUT_S, "formatting the broker's storage")

    def _cluster_id(self) -> str:
        # Sixteen bytes that all brokers of one cluster share; the directory's name is unique and short enough.
        return base64.urlsafe_b64encode(self._directory.name.encode()[-16:].rjust(16, b"k")).decode().rstrip("=")

    def _settings(self, node: Node) -> dict[str, str]:
        copies = min(3, len(self.nodes))
        in_sync = max(1, copies - 1)
        listens, advertises = self._side_door or (0, 0)
        side_door = {
            "listeners": f"PLAINTEXT://{HOST}:{node.port},SIDE://{HOST}:{listens},CONTROLLER://{HOST}:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{node.port},SIDE://{HOST}:{advertises}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SIDE:PLAINTEXT",
        }
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": ",".join(f"{n.number}@{HOST}:{n.controller_port}" for n in self.nodes),
            "listeners": f"PLAINTEXT://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{node.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(node.directory / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(copies),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(in_sync),
            "share.coordinator.state.topic.replication.factor": str(copies),
            "share.coordinator.state.topic.min.isr": str(in_sync),
            "group.initial.rebalance.delay.ms": "0",
            **(side_door if self._side_door else {}),
            **self._properties,
        }

    def _wait_until_it_works(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        eventually(lambda: self._all_answer(admin), START_TIMEOUT_S, f"Kafka answers at {self.bootstrap}")
        # The first idempotent producer of a fresh broker is made to wait ("Coordinator load in progress"): let that
        # be ours, so that no test and no benchmark pays for it.
        topic = f"warm-up-{os.getpid()}"
        eventually(lambda: _created(admin, topic), START_TIMEOUT_S, f"{topic} is created")
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "log_level": 0})
        producer.produce(topic, b"warm-up")
        if producer.flush(START_TIMEOUT_S):
            raise RealKafkaError(f"no record went through in {START_TIMEOUT_S} s:\n{self.log_tail()}")
        admin.delete_topics([topic])[topic].result(START_TIMEOUT_S)

    def _all_answer(self, admin: AdminClient) -> bool:
        for node in self.nodes:
            if not node.running:
                raise RealKafkaError(f"broker {node.number} ended while starting:\n{self.log_tail(node.number)}")
        try:
            return len(admin.list_topics(timeout=1.0).brokers) == len(self.nodes)
        except KafkaException:
            return False


def _new_id() -> str:
    # As Kafka writes a UUID. One that begins with "-" would be taken for an option by some of its tools.
    while (made := base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")).startswith("-"):
        pass
    return made


def _created(admin: AdminClient, topic: str) -> bool:
    # A client that has just learned the brokers' names may lose a request with the connection that it learned them on.
    try:
        admin.create_topics([NewTopic(topic, 1, -1)])[topic].result(START_TIMEOUT_S)
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS)
    return True


def _dies_with_us() -> list[str]:
    # A test run that is killed with SIGKILL cannot clean up; the kernel then ends its broker.
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _run_or_raise(command: list[str], timeout_s: float, doing: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout_s, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RealKafkaError(f"{doing} failed: {error}") from error
    if done.returncode != 0:
        raise RealKafkaError(f"{doing} failed with exit code {done.returncode}:\n{done.stdout[-3000:]}")
