"""The brokers of the scenarios: one that nobody touches, and others that are killed, frozen, refuse or delay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from fastgw.demo.broker import MockCluster
from tests.brokers.kafka_server import RealKafka
from tests.faults.produce_answers import ProduceAnswers
from tests.faults.wire_proxy import WireProxy
from tests.ports import free_port

ASK_S = 5.0

REQUESTS_BROKER, REPLIES_BROKER = 1, 2  # of the mock: who leads the partitions of which topic


class Kafka(NamedTuple):
    """A Kafka for scenarios."""

    kind: str
    bootstrap: str  # for services and for the oracle
    for_gateways: str
    broker: Any  # what can be mistreated: RealKafka, MockCluster or WireProxy


# A broker that has vanished is missed within two seconds, and a follower that is frozen is no longer waited for.
QUICK = {
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "250",
    "replica.lag.time.max.ms": "2000",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
}

# Access rules, of which there are none at first. (A cluster of several would have to let its own brokers in by name.)
GUARDED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@contextmanager
def one(bootstrap: str) -> Iterator[Kafka]:
    """Somebody else's, or a broker of our own where there is none."""
    with ExitStack() as opened:
        bootstrap = bootstrap or opened.enter_context(RealKafka()).bootstrap
        yield Kafka("one", bootstrap, bootstrap, None)


@contextmanager
def cluster() -> Iterator[Kafka]:
    """Three brokers with three copies of everything."""
    with RealKafka(nodes=3, heap_mb=256, properties=QUICK) as brokers:
        yield Kafka("cluster", brokers.bootstrap, brokers.bootstrap, brokers)


@contextmanager
def mock() -> Iterator[Kafka]:
    """librdkafka's mock cluster in this process."""
    brokers = MockCluster(2)
    try:
        yield Kafka("mock", brokers.bootstrap, brokers.bootstrap, brokers)
    finally:
        brokers.close()


@contextmanager
def proxied() -> Iterator[Kafka]:
    """One broker that the gateways, and they alone, reach through a proxy."""
    listens = free_port()
    with (
        WireProxy(listens, ProduceAnswers()) as proxy,
        RealKafka(properties=GUARDED, side_door=(listens, proxy.port)) as broker,
    ):
        yield Kafka("proxied", broker.bootstrap, f"127.0.0.1:{proxy.port}", proxy)


class Kafkas:
    """Opens each kind when it is first asked for, and closes all of them."""

    def __init__(self, bootstrap: str = "") -> None:
        """`bootstrap` is a healthy Kafka, if there is one."""
        self._makers = {"one": lambda: one(bootstrap), "cluster": cluster, "mock": mock, "proxied": proxied}
        self._opened = ExitStack()
        self._known: dict[str, Kafka] = {}

    def get(self, kind: str) -> Kafka:
        if kind not in self._known:
            self._known[kind] = self._opened.enter_context(self._makers[kind]())
        return self._known[kind]

    def close(self) -> None:
        self._opened.close()


@cache
def admin_of(bootstrap: str) -> AdminClient:
    """One client for all questions about a Kafka."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def in_sync(kafka: Kafka, topic: str) -> bool:
    """Whether every partition has a leader and all its copies in sync."""
    admin = admin_of(kafka.bootstrap)
    try:
        partitions = admin.list_topics(topic, timeout=ASK_S).topics[topic].partitions.values()
    except KafkaException:
        return False
    return bool(partitions) and all(
        partition.leader >= 0 and len(partition.isrs) == len(partition.replicas) for partition in partitions
    )


def fewest_in_sync(kafka: Kafka, topic: str) -> int:
    """How many copies are in sync where it is the fewest; 0 while a partition has no leader."""
    partitions = admin_of(kafka.bootstrap).list_topics(topic, timeout=ASK_S).topics[topic].partitions.values()
    return min((len(partition.isrs) if partition.leader >= 0 else 0 for partition in partitions), default=0)


def leaders(kafka: Kafka, topic: str) -> dict[int, tuple[int, int]]:
    """Partition -> the broker that leads it, and the one that is preferred."""
    admin = admin_of(kafka.bootstrap)
    partitions = admin.list_topics(topic, timeout=ASK_S).topics[topic].partitions
    return {number: (partition.leader, partition.replicas[0]) for number, partition in partitions.items()}
