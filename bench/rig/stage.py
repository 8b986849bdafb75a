"""The stage on which gateways are measured: Apache Kafka, the topics, and the echo service behind them."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench.rig import native
from bench.rig.processes import BenchError, Running, cpu_us, wait_for
from tests.brokers.kafka_server import LASTING, RealKafka, RealKafkaError, kafka_version, missing_tools

TOPIC_TIMEOUT_S = 30.0
SERVICE_TIMEOUT_S = 30.0
PARTITIONS = 4  # of request and reply topics, for everybody
BROKER_HEAP_MB = 512

# Old records are of no use, and a long run must not fill the disk.
TOPIC_CONFIG = {"retention.bytes": str(256 << 20), "segment.bytes": str(64 << 20), "retention.ms": "600000"}


class Stage:
    """A broker, and whatever is put on it. A context manager: leaving it ends all of it.

    Raises (on entry):
        BenchError: this machine cannot start Kafka; the message says what is missing.
    """

    def __init__(self, properties: dict[str, str] | None = None) -> None:
        self._properties = properties or {}
        self._running: list[Running] = []
        self.folder = Path()

    def __enter__(self) -> Stage:
        if lacking := missing_tools():
            raise BenchError(f"Apache Kafka cannot start here: no {' and no '.join(lacking)}")
        self.folder = Path(tempfile.mkdtemp(prefix="fastgw-bench-"))
        try:
            kafka = RealKafka(heap_mb=BROKER_HEAP_MB, properties=self._properties, java_options=LASTING)
            self._kafka = kafka.start()
        except RealKafkaError as error:
            shutil.rmtree(self.folder)
            raise BenchError(str(error)) from error
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._running):
            running.end()
        self._kafka.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bootstrap(self) -> str:
        return self._kafka.bootstrap

    @property
    def kafka_version(self) -> str:
        return kafka_version()

    def broker_cpu_us(self) -> float:
        """CPU time that the broker has used so far."""
        return cpu_us(*self._kafka.pids)

    def topic(self, name: str, partitions: int = PARTITIONS, config: dict[str, str] | None = None) -> str:
        """Create a topic with a name of its own that begins with `name`; give that name."""
        return self.topic_named(f"{name}-{secrets.token_hex(3)}", partitions, config)

    def topic_named(self, name: str, partitions: int = PARTITIONS, config: dict[str, str] | None = None) -> str:
        """Create a topic with exactly this name and wait until each of its partitions has a leader."""
        new = NewTopic(name, partitions, 1, config=TOPIC_CONFIG | (config or {}))
        self._admin.create_topics([new])[name].result(TOPIC_TIMEOUT_S)
        wait_for(lambda: self._has_leaders(name, partitions), TOPIC_TIMEOUT_S, f"leaders for {name}")
        return name

    def _has_leaders(self, name: str, partitions: int) -> bool:
        known = self._admin.list_topics(timeout=TOPIC_TIMEOUT_S).topics
        leaders = [part.leader for part in known[name].partitions.values()] if name in known else []
        return len(leaders) == partitions and all(leader >= 0 for leader in leaders)

    def record_count(self, topic: str, partitions: int = PARTITIONS) -> int:
        """How many records were ever written to a topic."""
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}
        return sum(answer.result(TOPIC_TIMEOUT_S).offset for answer in self._admin.list_offsets(asked).values())

    def start(self, running: Running) -> Running:
        """Have a program ended together with the stage."""
        self._running.append(running)
        return running

    def end(self, running: Running) -> None:
        """End a program before the stage goes."""
        self._running.remove(running)
        running.end()

    def echo(self, topics: Sequence[str], *options: str) -> Running:
        """Start the echo service on `topics`; it reads from now on when this returns."""
        command = [str(native.program("echo")), self.bootstrap, *topics, *options]
        service = self.start(Running(command, self.folder / f"echo-{secrets.token_hex(3)}.log"))
        service.wait_until(lambda: "ready" in service.log.read_text(), SERVICE_TIMEOUT_S, "the echo service reads")
        return service
