"""Which real Kafka the tests get, decided once for a run.

In this order: `FASTGW_TEST_BOOTSTRAP`; Apache Kafka from jars where Java 17+ and Maven are; a container where a Docker
engine answers; none, with the reasons. The choice is made and the broker started before the first test's clock runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from tests.brokers.kafka_server import RealKafka, RealKafkaError, kafka_version, missing_tools

BOOTSTRAP_VARIABLE = "FASTGW_TEST_BOOTSTRAP"
REQUIRE_VARIABLE = "FASTGW_REQUIRE_KAFKA"


class KafkaForTests:
    """The real Kafka of this run, or why there is none.

    Attributes:
        bootstrap: address; empty when there is none.
        told: one line about it for people, either way.
        broken: True when a Kafka should have started and did not: a failure, never a reason to skip.
    """

    def __init__(self, bootstrap: str = "", told: str = "", broken: bool = False) -> None:
        """The arguments are those of one that another process of this run has started."""
        self.bootstrap = bootstrap
        self.told = told
        self.broken = broken
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Choose and start; never raises, see `broken`."""
        lacking = missing_tools()
        try:
            if given := os.environ.get(BOOTSTRAP_VARIABLE):
                self.bootstrap, self.told = given, f"{given}, from {BOOTSTRAP_VARIABLE}"
            elif not lacking:
                self._start_jars()
            elif engine := _docker_engine():
                self._start_container(engine)
            else:
                self.told = f"none: {BOOTSTRAP_VARIABLE} is not set, no {' and no '.join(lacking)}, no Docker engine"
        except RealKafkaError as error:
            self.broken, self.told = True, f"did not start: {error}"

    def stop(self) -> None:
        """Stop what `start` started."""
        self._stop()

    def _start_jars(self) -> None:
        kafka = RealKafka().start()
        self.bootstrap, self._stop = kafka.bootstrap, kafka.stop
        self.told = f"Apache Kafka {kafka_version()} from jars, at {kafka.bootstrap}"

    def _start_container(self, engine: str) -> None:
        # Here and not at the top: importing it takes half a second, and most machines never come here.
        from testcontainers.community.kafka import KafkaContainer

        container = KafkaContainer().with_kraft().with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        try:
            container.start()
        except Exception as error:  # whatever Docker, the network or the image can do
            container.stop()
            raise RealKafkaError(f"container on Docker {engine}: {error}") from error
        self.bootstrap, self._stop = container.get_bootstrap_server(), container.stop
        self.told = f"{container.image} in a container, at {self.bootstrap}"


def _docker_engine() -> str:
    # Version of the engine that answers, empty when none does.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import docker

    try:
        client = docker.from_env(timeout=5)
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except docker.errors.DockerException:
        return ""
