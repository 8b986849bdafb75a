"""The positions of a node in Kafka: what is committed and when, what a node that takes over believes, and for how long
it waits. Kafka itself: test_membership.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from structlog.testing import capture_logs

from fastgw import config, table
from fastgw._ctable import UNKNOWN_POSITION, UNOWNED
from fastgw.agent.positions import COMMIT_EVERY_S, FAILING_AFTER_S, GIVE_UP_AFTER_S, REFRESH_EVERY_S, NodePositions

NOW_MS = 1_800_000_000_000
TIMEOUT_S, SESSION_S, SLACK_S = 30, 6, 10

CONFIG = config.loads(
    f"""
    [gateway]
    name = "shop"
    [kafka]
    bootstrap = "127.0.0.1:9"
    [cluster]
    mode = "group"
    session_timeout = "{SESSION_S}s"
    [[route]]
    method = "GET"
    path = "/"
    topic = "requests"
    [[route]]
    method = "POST"
    path = "/"
    topic = "requests"
    timeout = "{TIMEOUT_S}s"
    """
)
LOG = table.log_of("127.0.0.1:9", "shop.replies")


class FakeConsumer:
    """The two calls that are made of it: what they were given, and what they give or raise."""

    def __init__(self) -> None:
        self.offsets: dict[int, tuple[int, str | None]] = {}  # partition -> offset, metadata
        self.error: KafkaError | None = None
        self.commits: list[tuple[dict[int, int], bool]] = []  # positions, and whether the caller waits
        self.times: set[str] = set()

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert timeout <= GIVE_UP_AFTER_S
        if self.error is not None:
            raise KafkaException(self.error)
        known = [(one.topic, one.partition, *self.offsets.get(one.partition, (-1001, None))) for one in partitions]
        return [TopicPartition(*(part for part in one if part is not None)) for one in known]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        self.commits.append(({one.partition: one.offset for one in offsets}, not asynchronous))
        self.times |= {one.metadata for one in offsets}
        if self.error is not None:
            raise KafkaException(self.error)
        return None if asynchronous else offsets


class Node:
    """The positions of a node, its table, its consumer, and both clocks."""

    def __init__(self) -> None:
        _, self.table = table.create(node=1, workers=2, slots_per_process=8)
        self.consumer = FakeConsumer()
        self.now_s, self.now_ms = 100.0, NOW_MS
        self.positions = NodePositions(CONFIG, self.table, lambda: self.now_s, lambda: self.now_ms)

    def take_over(self, *share: int) -> bool:
        return self.positions.take_over(self.consumer, share)  # type: ignore[arg-type]

    def handled(self, **positions: int) -> None:
        for name, position in positions.items():
            self.table.set_handled_to(int(name.removeprefix("p")), LOG, position)

    def commit(self, *partitions: int, after_s: float = COMMIT_EVERY_S) -> None:
        self.now_s += after_s
        self.positions.commit(self.consumer, partitions)  # type: ignore[arg-type]

    def told(self, error: KafkaError | None) -> None:
        """The answer to a commit comes."""
        self.positions.client_settings()["on_commit"](error, [])

    def table_says(self, *partitions: int) -> list[int]:
        return [self.table.handled_to(partition, LOG) for partition in partitions]


@pytest.fixture
def node() -> Node:
    return Node()


# ---- taking over


def test_positions_of_gained_partitions_come_into_the_table(node: Node) -> None:
    node.handled(p1=999)  # from a time at which the node had it before
    node.consumer.offsets = {0: (70, str(NOW_MS - 3000))}
    assert node.take_over(0, 1)
    assert node.table_says(0, 1) == [70, UNKNOWN_POSITION]


def test_partitions_that_the_node_has_keep_the_positions_of_its_workers(node: Node) -> None:
    node.table.write_map(bytes([0, 1, UNOWNED]))
    node.handled(p0=75)
    node.consumer.offsets = dict.fromkeys((0, 1, 2), (70, str(NOW_MS)))
    assert node.take_over(0, 2)
    assert node.table_says(0, 1, 2) == [75, UNKNOWN_POSITION, 70]
    node.table.write_map(bytes([0, 1, 0]))
    node.consumer.error = KafkaError(KafkaError._TIMED_OUT)
    assert node.take_over(0, 2), "there is nothing to ask for"


@pytest.mark.parametrize(
    ("metadata", "is_believed"),
    [
        (str(NOW_MS - (TIMEOUT_S + SESSION_S + SLACK_S) * 1000), True),
        (str(NOW_MS - (TIMEOUT_S + SESSION_S + SLACK_S) * 1000 - 1), False),
        (str(NOW_MS + 60_000), True),  # by the clock of another node
        ("", False),
        (None, False),
        ("an hour ago", False),
    ],
)
def test_a_position_is_believed_while_it_can_matter_to_a_living_request(
    node: Node, metadata: str | None, is_believed: bool
) -> None:
    node.consumer.offsets = {0: (70, metadata)}
    assert node.take_over(0)
    assert node.table_says(0) == [70 if is_believed else UNKNOWN_POSITION]


def test_kafka_is_asked_again_until_it_answers(node: Node) -> None:
    node.consumer.error = KafkaError(KafkaError._TIMED_OUT)
    assert not node.take_over(0)
    node.now_s += GIVE_UP_AFTER_S - 0.1
    assert not node.take_over(0)
    node.consumer.error, node.consumer.offsets = None, {0: (70, str(NOW_MS))}
    assert node.take_over(0)
    assert node.table_says(0) == [70]


def test_a_node_does_not_wait_for_ever_and_reads_from_the_end(node: Node) -> None:
    node.handled(p0=999)
    node.consumer.error = KafkaError(KafkaError._TIMED_OUT)
    assert not node.take_over(0)
    node.now_s += GIVE_UP_AFTER_S
    with capture_logs() as lines:
        assert node.take_over(0)
    assert node.table_says(0) == [UNKNOWN_POSITION]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "positions of the last readers unknown"
    ]
    assert not node.take_over(0), "the next time it waits anew"


def test_a_right_that_is_missing_is_not_waited_for(node: Node) -> None:
    node.consumer.error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with capture_logs() as lines:
        assert node.take_over(0)
    assert "grant READ on the group" in lines[0]["hint"]


def test_partitions_that_no_table_has_are_left_out(node: Node) -> None:
    assert node.take_over(5000)


# ---- committing


def test_positions_are_committed_once_a_second_and_with_the_time(node: Node) -> None:
    node.handled(p0=5, p1=7)
    node.commit(0, 1, 2)
    node.commit(0, 1, 2, after_s=COMMIT_EVERY_S - 0.1)
    assert node.consumer.commits == [({0: 5, 1: 7}, False)]
    assert node.consumer.times == {str(NOW_MS)}


def test_the_first_position_of_a_partition_is_committed_at_once(node: Node) -> None:
    node.handled(p0=5)
    node.commit(0, 1)
    node.handled(p0=6, p1=7)
    node.commit(0, 1, after_s=0.1)
    node.handled(p0=8, p1=9)
    node.commit(0, 1, after_s=0.1)
    assert node.consumer.commits == [({0: 5}, False), ({0: 6, 1: 7}, False)]


def test_a_position_that_was_taken_over_is_committed_at_once_as_a_new_one(node: Node) -> None:
    node.handled(p0=5)
    node.commit(0)
    node.consumer.offsets = {0: (70, str(NOW_MS))}
    assert node.take_over(0)
    node.commit(0, after_s=0.1)
    node.commit(0, after_s=0.1)
    assert node.consumer.commits == [({0: 5}, False), ({0: 70}, False)]


def test_what_has_not_changed_is_committed_now_and_then_so_that_it_is_not_old(node: Node) -> None:
    node.handled(p0=5, p1=7)
    node.commit(0, 1)
    node.handled(p1=8)
    node.commit(0, 1)
    node.commit(0, 1)
    node.now_s += REFRESH_EVERY_S
    node.commit(0, 1)
    assert [positions for positions, _ in node.consumer.commits] == [{0: 5, 1: 7}, {1: 8}, {0: 5, 1: 8}]


def test_what_is_given_up_is_committed_at_once_and_waited_for(node: Node) -> None:
    node.handled(p0=5, p1=7)
    node.commit(0, 1)
    node.positions.commit_last(node.consumer, [1])  # type: ignore[arg-type]
    assert node.consumer.commits == [({0: 5, 1: 7}, False), ({1: 7}, True)]


def test_a_commit_that_failed_is_made_again_and_none_is_waited_for_meanwhile(node: Node) -> None:
    node.handled(p0=5)
    node.commit(0)
    node.told(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))
    node.positions.commit_last(node.consumer, [0])  # type: ignore[arg-type]
    node.commit(0)
    node.told(None)
    node.positions.commit_last(node.consumer, [0])  # type: ignore[arg-type]
    assert node.consumer.commits == [({0: 5}, False), ({0: 5}, False), ({0: 5}, True)]


def test_commits_that_fail_for_long_are_told_once_and_those_of_a_rebalance_are_not(node: Node) -> None:
    node.handled(p0=5)
    node.consumer.error = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
    with capture_logs() as lines:
        node.commit(0)
        node.commit(0, after_s=FAILING_AFTER_S - 0.1)
        assert lines == []
        node.commit(0)
        node.commit(0)
    assert [line["event"] for line in lines] == ["positions cannot be committed"]


def test_a_missing_right_to_commit_is_told_at_once(node: Node) -> None:
    node.handled(p0=5)
    node.consumer.error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with capture_logs() as lines:
        node.commit(0)
    assert "grant READ on the group" in lines[0]["hint"]


def test_its_state_can_be_seen(node: Node) -> None:
    node.handled(p0=5)
    node.commit(0)
    assert repr(node.positions) == "<NodePositions of shop.replies: {0: 5}>"
