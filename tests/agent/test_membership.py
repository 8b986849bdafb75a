"""Which partitions belong to which node, on real Kafka: nodes join, leave, die, and lose sight of Kafka."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from fastgw import config, table
from fastgw._ctable import UNKNOWN_POSITION, UNOWNED
from fastgw.agent.membership import Membership, fixed_share
from fastgw.agent.positions import NodePositions
from fastgw.config import Config
from fastgw.demo.broker import EmbeddedBroker
from tests.conftest import MakeTopics
from tests.waiting import eventually

pytestmark = pytest.mark.slow

SETTLED_S = 30.0  # a rebalance takes a second or two, a dead node's session six; the rest is for a busy machine


def settings(bootstrap: str, topic: str, cluster: str) -> Config:
    return config.loads(
        f"""
        [gateway]
        name = "{topic}"
        response_topic = "{topic}"
        [kafka]
        bootstrap = "{bootstrap}"
        [cluster]
        {cluster}
        [[route]]
        method = "GET"
        path = "/"
        topic = "requests"
        """,
        "test.toml",
    )


class Node:
    """One node's membership, and what it was told last."""

    def __init__(self, cfg: Config, look_every_s: float = 1.0) -> None:
        self.share: frozenset[int] | None = None
        self.partition_count = 0
        self.told = 0
        self.failures: list[BaseException] = []
        self.log = table.log_of(cfg.kafka.bootstrap, cfg.gateway.response_topic)
        _, self.table = table.create(node=1, workers=1, slots_per_process=8)
        positions = None if cfg.cluster.mode == "single" else NodePositions(cfg, self.table)
        self.membership = Membership(cfg, self._take, self.failures.append, look_every_s, positions)
        self.membership.start()

    def _take(self, share: frozenset[int], partition_count: int) -> None:
        self.table.write_map(bytes(0 if partition in share else UNOWNED for partition in range(partition_count)))
        self.share, self.partition_count = share, partition_count
        self.told += 1

    def handled(self, positions: dict[int, int]) -> None:
        """Its workers have come so far."""
        for partition, offset in positions.items():
            self.table.set_handled_to(partition, self.log, offset)

    def positions(self) -> dict[int, int]:
        """What its workers find in the table."""
        return {partition: self.table.handled_to(partition, self.log) for partition in range(self.partition_count)}

    def has(self, share: set[int]) -> Callable[[], bool]:
        return lambda: self.share == share


@pytest.fixture
def start() -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start_node(*args: object, **settings: object) -> Node:
        nodes.append(Node(*args, **settings))  # type: ignore[arg-type]
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.membership.stop()
        assert node.failures == []


def split_completely(nodes: list[Node], partition_count: int) -> Callable[[], bool]:
    """Whether every partition belongs to exactly one node and no node went away empty."""

    def ask() -> bool:
        shares = [node.share or frozenset() for node in nodes]
        return sorted(p for share in shares for p in share) == list(range(partition_count)) and all(shares)

    return ask


@pytest.mark.parametrize("partition_count", [1, 2, 7, 16])
@pytest.mark.parametrize("node_count", [1, 2, 3, 5])
def test_every_partition_belongs_to_exactly_one_static_node(partition_count: int, node_count: int) -> None:
    shares = [fixed_share(partition_count, index, node_count) for index in range(node_count)]
    assert sorted(partition for share in shares for partition in share) == list(range(partition_count))


def test_static_nodes_take_every_nth_partition() -> None:
    assert fixed_share(8, 1, 3) == {1, 4, 7}


@pytest.fixture
def replies_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"replies": 4}) as broker:
        yield broker


def test_a_share_is_told_once_and_not_again_while_nothing_changes(
    replies_broker: EmbeddedBroker, start: Callable[..., Node]
) -> None:
    node = start(settings(replies_broker.bootstrap, "replies", 'mode = "single"'), look_every_s=0.01)
    eventually(node.has({0, 1, 2, 3}))
    looked_at_s = node.membership._next_look_s
    eventually(lambda: node.membership._next_look_s > looked_at_s + 0.5)
    assert node.told == 1


def test_a_response_topic_that_does_not_exist_is_waited_for_and_not_created(
    embedded_bootstrap: str, start: Callable[..., Node]
) -> None:
    node = start(settings(embedded_bootstrap, "not-made-by-looking", 'mode = "single"'))
    eventually(lambda: node.membership._troubles.of(("topic",)))
    assert node.share is None


def test_a_kafka_that_is_not_there_is_waited_for_and_stopping_does_not_hang(start: Callable[..., Node]) -> None:
    node = start(settings("127.0.0.1:1", "nowhere", 'mode = "single"'))
    eventually(lambda: node.membership._troubles.of(("topic",)))
    node.membership.stop()
    assert not node.membership._thread.is_alive()
    assert node.share is None


def test_a_client_setting_that_librdkafka_refuses_is_reported(embedded_bootstrap: str) -> None:
    cfg = settings(embedded_bootstrap, "refused", 'mode = "single"')
    cfg.kafka.client["socket.timeout.ms"] = "soon"
    node = Node(cfg)
    eventually(lambda: node.failures)
    assert "socket.timeout.ms" in str(node.failures[0])


def test_the_partitions_stay_when_the_broker_is_away_for_longer_than_the_session(
    replies_broker: EmbeddedBroker, start: Callable[..., Node]
) -> None:
    node = start(settings(replies_broker.bootstrap, "replies", 'mode = "group"\nsession_timeout = "2s"'))
    eventually(node.has({0, 1, 2, 3}), SETTLED_S)
    replies_broker.stop()
    eventually(lambda: node.membership._group_share is None, SETTLED_S, "the client gives the session up")
    assert node.share == {0, 1, 2, 3}
    assert node.told == 1


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ('mode = "single"', {0, 1, 2, 3, 4, 5}),
        ('mode = "static"\nnode_index = 1\nnode_count = 2', {1, 3, 5}),
        ('mode = "group"', {0, 1, 2, 3, 4, 5}),
    ],
)
@pytest.mark.real_kafka
def test_growth_of_the_topic_is_noticed(
    cluster: str,
    expected: set[int],
    kafka_bootstrap: str,
    kafka_admin: AdminClient,
    make_topics: MakeTopics,
    start: Callable[..., Node],
) -> None:
    topic = make_topics({"replies": 4})["replies"]
    node = start(settings(kafka_bootstrap, topic, cluster))
    eventually(node.has({p for p in expected if p < 4}), SETTLED_S)
    assert node.partition_count == 4

    kafka_admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
    eventually(lambda: node.share == expected and node.partition_count == 6, SETTLED_S)


@pytest.mark.real_kafka
def test_nodes_that_join_and_leave_share_all_partitions(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 8})["replies"]
    cfg = settings(kafka_bootstrap, topic, 'mode = "group"')
    first = start(cfg)
    eventually(first.has(set(range(8))), SETTLED_S)

    second = start(cfg)
    eventually(split_completely([first, second], 8), SETTLED_S)
    assert len(first.share or ()) == len(second.share or ()) == 4
    assert second.told == 1, "the emptiness before a new node's share must not be told"

    third = start(cfg)
    eventually(split_completely([first, second, third], 8), SETTLED_S)

    third.membership.stop()
    second.membership.stop()
    eventually(first.has(set(range(8))), SETTLED_S)
    assert second.share, "leaving changes nothing for the node that leaves"


@pytest.mark.real_kafka
def test_a_node_that_is_one_too_many_learns_that_it_has_nothing(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 1})["replies"]
    cfg = settings(kafka_bootstrap, topic, 'mode = "group"')
    nodes = [start(cfg), start(cfg)]
    eventually(lambda: all(node.share is not None for node in nodes), SETTLED_S)
    assert sorted(len(node.share or ()) for node in nodes) == [0, 1]


# A node in a process of its own, because a thread cannot be killed.
NODE_PROCESS = """
import sys, threading
from fastgw import logs
from tests.agent.test_membership import settings
from fastgw.agent.membership import Membership
logs.configure("node")
def told(share, count):
    print(*sorted(share), flush=True)
Membership(settings(sys.argv[1], sys.argv[2], 'mode = "group"'), told, print).start()
threading.Event().wait()
"""


@pytest.mark.real_kafka
def test_a_node_that_is_killed_leaves_its_partitions_to_the_others(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 4})["replies"]
    cfg = settings(kafka_bootstrap, topic, 'mode = "group"')
    first = start(cfg)
    eventually(first.has({0, 1, 2, 3}), SETTLED_S)
    command = [sys.executable, "-c", NODE_PROCESS, kafka_bootstrap, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        try:
            shares = lines_of(victim)
            other = {int(partition) for partition in shares.get(timeout=SETTLED_S).split()}
            assert len(other) == 2
            eventually(first.has({0, 1, 2, 3} - other), SETTLED_S)
        finally:
            victim.kill()
    eventually(first.has({0, 1, 2, 3}), SETTLED_S)


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str]:
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    return lines


@pytest.mark.real_kafka
def test_who_takes_partitions_over_has_the_positions_of_who_gave_them_up(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 4})["replies"]
    cfg = settings(kafka_bootstrap, topic, 'mode = "group"')
    first = start(cfg)
    eventually(first.has({0, 1, 2, 3}), SETTLED_S)
    assert set(first.positions().values()) == {UNKNOWN_POSITION}, "nobody had them before"
    first.handled({partition: 100 + partition for partition in range(4)})
    second = start(cfg)
    eventually(split_completely([first, second], 4), SETTLED_S)
    assert {p: at for p, at in second.positions().items() if at != UNKNOWN_POSITION} == {
        partition: 100 + partition for partition in second.share or ()
    }
    second.handled(dict.fromkeys(second.share or (), 200))
    first.handled(dict.fromkeys(first.share or (), 300))
    shares = second.share or frozenset(), first.share or frozenset()
    second.membership.stop()
    eventually(first.has({0, 1, 2, 3}), SETTLED_S)
    assert first.positions() == dict.fromkeys(shares[0], 200) | dict.fromkeys(shares[1], 300)


@pytest.mark.real_kafka
def test_a_static_node_that_comes_back_has_its_positions(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 4})["replies"]
    clusters = [f'mode = "static"\nnode_index = {index}\nnode_count = 2' for index in range(2)]
    nodes = [start(settings(kafka_bootstrap, topic, cluster)) for cluster in clusters]
    for index, node in enumerate(nodes):
        eventually(node.has({index, index + 2}))
        node.handled({index: 10 + index, index + 2: 12 + index})
    for node in nodes:
        node.membership.stop()
    assert committed(kafka_bootstrap, topic, 4) == [10, 11, 12, 13]
    successor = start(settings(kafka_bootstrap, topic, clusters[1]))
    eventually(successor.has({1, 3}))
    assert successor.positions() == {0: UNKNOWN_POSITION, 1: 11, 2: UNKNOWN_POSITION, 3: 13}


@pytest.mark.real_kafka
def test_positions_are_committed_while_a_node_lives(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 2})["replies"]
    node = start(settings(kafka_bootstrap, topic, 'mode = "group"'))
    eventually(node.has({0, 1}), SETTLED_S)
    node.handled({0: 5})
    eventually(lambda: committed(kafka_bootstrap, topic) == [5, -1001], SETTLED_S)
    node.handled({0: 6, 1: 7})
    eventually(lambda: committed(kafka_bootstrap, topic) == [6, 7], SETTLED_S)


@pytest.mark.real_kafka
def test_membership_reads_no_record_and_commits_no_position_of_its_own(
    kafka_bootstrap: str, make_topics: MakeTopics, start: Callable[..., Node]
) -> None:
    topic = make_topics({"replies": 2})["replies"]
    cfg = settings(kafka_bootstrap, topic, 'mode = "group"')
    node = start(cfg)
    seen = []
    polled = node.membership._turn

    class Spy:
        def __init__(self, consumer: Consumer) -> None:
            self.consumer = consumer

        def poll(self, timeout_s: float) -> None:
            message = self.consumer.poll(timeout_s)
            seen.append(message)

        def list_topics(self, *args: object, **settings: object) -> object:
            return self.consumer.list_topics(*args, **settings)

        def __getattr__(self, name: str) -> object:
            return getattr(self.consumer, name)

    node.membership._turn = lambda consumer: polled(Spy(consumer))  # type: ignore[method-assign, assignment, arg-type]
    eventually(node.has({0, 1}), SETTLED_S)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for partition in (0, 1):
        producer.produce(topic, b"a reply", partition=partition)
    assert producer.flush(SETTLED_S) == 0
    turns = len(seen)
    eventually(lambda: len(seen) >= turns + 5)
    assert [message for message in seen if message is not None] == []
    node.membership.stop()
    assert committed(kafka_bootstrap, topic) == [-1001, -1001]


def committed(bootstrap: str, topic: str, partition_count: int = 2) -> list[int]:
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": topic})
    try:
        asked = [TopicPartition(topic, partition) for partition in range(partition_count)]
        found = reader.committed(asked, timeout=SETTLED_S)
        return [one.offset for one in found]
    finally:
        reader.close()
