"""Brokers for tests: the real Kafka of the run, the embedded broker, and topics with names of their own.

A test that uses `kafka_bootstrap` (or `make_topics`) is marked `real_kafka` by that alone. Without a real Kafka these
tests are skipped and the end of the run lists them; with FASTGW_REQUIRE_KAFKA=1 they fail instead.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from fastgw.demo.broker import EmbeddedBroker
from tests import lanes
from tests.actors import alone
from tests.brokers.choice import REQUIRE_VARIABLE, KafkaForTests
from tests.surroundings import Surroundings
from tests.waiting import eventually

TOPIC_TIMEOUT_S = 30.0

KAFKA = pytest.StashKey[KafkaForTests]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Surroundings())
    if hasattr(config, "workerinput"):  # one of several processes of a run: the first of them has started the Kafka
        config.stash[KAFKA] = KafkaForTests(*config.workerinput["kafka"])
    elif config.getoption("numprocesses", None) and "not real_kafka" not in config.option.markexpr:
        _start_kafka(config)  # before the tests are known, which only the other processes collect


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Gives a process of the run what this one knows of Kafka."""
    kafka = node.config.stash.get(KAFKA, KafkaForTests())
    node.workerinput["kafka"] = (kafka.bootstrap, kafka.told, kafka.broken)


# Before -m and -k select, so that `-m "not real_kafka"` sees the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka_bootstrap" in getattr(item, "fixturenames", ()):
            item.add_marker("real_kafka")
    lanes.arrange(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the real Kafka here and not in a fixture: its start must not count against the first test's timeout."""
    wanted = any(item.get_closest_marker("real_kafka") for item in session.items)
    if wanted and not session.config.option.collectonly and KAFKA not in session.config.stash:
        _start_kafka(session.config)


def _start_kafka(config: pytest.Config) -> None:
    kafka = config.stash[KAFKA] = KafkaForTests()
    kafka.start()
    print(f"\nreal Kafka: {kafka.told}", flush=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    kafka = item.config.stash.get(KAFKA, None)
    if kafka is None or kafka.bootstrap or item.get_closest_marker("real_kafka") is None:
        return
    if kafka.broken or os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"needs a real Kafka: {kafka.told}", pytrace=False)
    pytest.skip(f"needs a real Kafka: {kafka.told}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test with the mark `alone` in a process of its own. True: it has run."""
    if pyfuncitem.get_closest_marker("alone") is None or alone.ALONE_VARIABLE in os.environ:
        return None
    kafka = pyfuncitem.config.stash.get(KAFKA, None)
    alone.run_test(pyfuncitem, kafka.bootstrap if kafka is not None else "")
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    kafka = config.stash.get(KAFKA, None)
    if kafka is None:
        return
    terminalreporter.section("real Kafka")
    terminalreporter.write_line(kafka.told)
    if not kafka.bootstrap:
        reports = terminalreporter.getreports("skipped") + terminalreporter.getreports("error")
        left_out = sorted({report.nodeid for report in reports if "needs a real Kafka" in str(report.longrepr)})
        terminalreporter.write_line(f"{len(left_out)} tests did not run for want of it:")
        for node_id in left_out:
            terminalreporter.write_line(f"  {node_id}")


def pytest_unconfigure(config: pytest.Config) -> None:
    kafka = config.stash.get(KAFKA, None)
    if kafka is not None:
        kafka.stop()


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """Address of a real Kafka."""
    return pytestconfig.stash[KAFKA].bootstrap


@pytest.fixture(scope="session")
def embedded_bootstrap() -> Iterator[str]:
    """Address of an embedded broker; topics come into being when first asked for, with 4 partitions."""
    with EmbeddedBroker() as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def kafka_admin(kafka_bootstrap: str) -> AdminClient:
    """An admin client of the real Kafka."""
    return AdminClient({"bootstrap.servers": kafka_bootstrap})


class MakeTopics(Protocol):
    """The type of the fixture `make_topics`."""

    def __call__(self, topics: Mapping[str, int], config: Mapping[str, str] | None = None) -> dict[str, str]:
        """Create topics on the real Kafka.

        Args:
            topics: short name -> number of partitions.
            config: topic settings, for all of them.

        Returns:
            Short name -> the unique name that it has on the broker. Every partition has a leader.
        """


@pytest.fixture
def make_topics(kafka_admin: AdminClient) -> Iterator[MakeTopics]:
    """A function that creates topics with unique names; they are deleted after the test."""
    yield from topic_maker(kafka_admin)


@pytest.fixture(scope="module")
def make_module_topics(kafka_admin: AdminClient) -> Iterator[MakeTopics]:
    """The same for what the tests of a module share; deleted after the last of them."""
    yield from topic_maker(kafka_admin)


def topic_maker(kafka_admin: AdminClient) -> Iterator[MakeTopics]:
    """The one function that both fixtures give; when it is resumed, it deletes what that function created."""
    created: list[str] = []

    def make(topics: Mapping[str, int], config: Mapping[str, str] | None = None) -> dict[str, str]:
        names = {short: f"{short}-{secrets.token_hex(4)}" for short in topics}
        new = [NewTopic(names[short], count, -1, config=dict(config or {})) for short, count in topics.items()]
        for future in kafka_admin.create_topics(new).values():
            future.result(TOPIC_TIMEOUT_S)
        created.extend(names.values())
        wanted = {names[short]: count for short, count in topics.items()}
        eventually(lambda: have_leaders(kafka_admin, wanted), TOPIC_TIMEOUT_S, f"leaders for {wanted}")
        return names

    yield make
    # Some tests delete a topic themselves.
    left = [name for name in created if name in kafka_admin.list_topics(timeout=TOPIC_TIMEOUT_S).topics]
    if left:
        for future in kafka_admin.delete_topics(left).values():
            future.result(TOPIC_TIMEOUT_S)


def have_leaders(admin: AdminClient, wanted: Mapping[str, int]) -> bool:
    """Whether the brokers know these topics with so many partitions, each with a leader."""
    known = admin.list_topics(timeout=TOPIC_TIMEOUT_S).topics
    for name, count in wanted.items():
        partitions = known[name].partitions.values() if name in known else []
        if len(partitions) != count or any(partition.leader < 0 for partition in partitions):
            return False
    return True
