"""Finds out which partitions of the response topic belong to this node (docs/architecture.md).

In the modes `single` and `static` the share is computed from the partition count, which is looked up regularly
because topics can grow. In the mode `group` the nodes share the partitions through a consumer group. The consumer here
is always paused and never reads a record; the workers read, by `assign`. The group only decides which node may use
which partition as a home partition, so a rebalance never affects a request in flight.

With several nodes, the positions of the partitions are committed with the group's offsets, and looked up when this node
gains partitions (`positions`).

Losing the connection to Kafka changes nothing: without Kafka no other node can take over partitions either, and the
workers go on as soon as Kafka is back. So only a decision of the group makes the share smaller, never its silence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from fastgw.agent.positions import NodePositions
from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.kafka import client_log
from fastgw.kafka.properties import client_properties
from fastgw.throttle import Troubles

log = structlog.get_logger("fastgw.membership")

OnChange = Callable[[frozenset[int], int], None]
"""(partitions of this node, partition count of the topic); called on the membership's thread."""

LOOK_EVERY_S = 10.0  # how soon it notices that the topic has grown
LOOK_AGAIN_S = 1.0  # after a look-up that failed
LOOK_TIMEOUT_S = 2.0  # also how long a stop may have to wait when Kafka does not answer
POLL_S = 0.2
HEARTBEAT_MS = 1000

# A node that joins or rejoins gets no partitions in the first rebalance, because the other nodes must give them up
# first. It gets its share in the next one, about a second later, or when the session of a dead member has timed out. So
# an empty share counts only after a session timeout plus this time.
SETTLE_S = 5.0


def fixed_share(partition_count: int, node_index: int, node_count: int) -> frozenset[int]:
    """The partitions of node `node_index` of `node_count`. Every partition belongs to exactly one node."""
    return frozenset(range(node_index, partition_count, node_count))


class Membership:
    """Reports the partitions of this node, first when they are known and then whenever they change.

    Everything happens on one thread, because the client serialises all calls on a consumer. The attributes set after
    `_stopping` belong to that thread.
    """

    def __init__(
        self,
        config: Config,
        on_change: OnChange,
        on_failure: Callable[[BaseException], None],
        look_every_s: float = LOOK_EVERY_S,
        positions: NodePositions | None = None,
    ) -> None:
        """
        Args:
            on_change: called when the share is first known, and after that only with changes.
            on_failure: called when the thread ends with an error. Errors of Kafka do not end it.
            positions: keeps the positions of the partitions in Kafka, and has those of gained partitions before
                `on_change` is called. None: nobody takes over from this node.
        """
        self._config = config
        self._on_change = on_change
        self._on_failure = on_failure
        self._look_every_s = look_every_s
        self._positions = positions
        self._topic = config.gateway.response_topic
        self._group_id = config.cluster.group_id or config.gateway.name
        self._settle_s = config.cluster.session_timeout_ns / 1e9 + SETTLE_S
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._stopping = threading.Event()

        self._partition_count = 0  # 0: not known yet
        self._next_look_s = 0.0
        self._troubles = Troubles()
        self._group_share: set[int] | None = None  # None: no assignment yet, or the session is lost
        self._empty_since_s = 0.0
        self._told: tuple[frozenset[int], int] | None = None

    def __repr__(self) -> str:
        partitions, count = self._told or ((), 0)
        return f"<Membership {self._config.cluster.mode}: {sorted(partitions)} of {count} of {self._topic}>"

    def start(self) -> None:
        """Start the thread. The first share is reported when Kafka has answered."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Leave the group, so that the other nodes take over in about a second. `on_change` is not called for it."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            consumer = Consumer(self._client_settings() | client_log.listening())
            if self._config.cluster.mode == "group":
                consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
            try:
                while not self._stopping.is_set():
                    self._turn(consumer)
                if self._positions is not None and self._config.cluster.mode == "static":
                    self._positions.commit_last(consumer, self._kept_share())
            finally:
                consumer.close()  # in a group, this calls _revoked
        except BaseException as error:
            self._on_failure(error)

    def _client_settings(self) -> dict[str, Any]:
        cluster = self._config.cluster
        session_ms = cluster.session_timeout_ns // NS_PER_MS
        kafka = self._config.kafka
        return {
            **client_properties(kafka.bootstrap, {"client.id": "fastgw-agent", **kafka.client}),
            "group.id": self._group_id,  # the client requires one in every mode
            "group.protocol": "classic",  # with KIP-848 a dead node stays a member for 45 s by default
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": min(HEARTBEAT_MS, session_ms // 3),
            "topic.metadata.refresh.interval.ms": int(self._look_every_s * 1000),
            "enable.auto.commit": False,
            "auto.offset.reset": "latest",
            **(self._positions.client_settings() if self._positions is not None else {}),
        }

    def _turn(self, consumer: Consumer) -> None:
        message = consumer.poll(POLL_S)  # calls _assigned, _revoked and _lost
        if message is not None and message.error() is not None:
            self._note(message.error())
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._look(consumer, now_s)
        self._tell_if_changed(consumer, now_s)
        if self._positions is not None:
            self._positions.commit(consumer, self._kept_share())

    def _note(self, error: KafkaError) -> None:
        if error.code() < 0 or self._config.cluster.mode != "group":  # librdkafka's own error, not the group's
            client_log.CLIENT_LOG.client_error(error)
            return
        # Such as a missing right to join the group. The error comes again every second or so; log it once.
        if self._troubles.begins(("group",), str(error)):
            log.warning("node group error", group=self._group_id, error=str(error))

    def _look(self, consumer: Consumer, now_s: float) -> None:
        try:
            topic = consumer.list_topics(self._topic, timeout=LOOK_TIMEOUT_S).topics[self._topic]
            if topic.error is not None:
                raise KafkaException(topic.error)
        except KafkaException as error:
            self._next_look_s = now_s + LOOK_AGAIN_S
            # Log it once, not every second of an outage, in which the error may change.
            if self._troubles.begins(("topic",), "cannot be looked at"):
                log.warning("cannot look up the response topic", topic=self._topic, error=str(error))
            return
        self._next_look_s = now_s + self._look_every_s
        self._troubles.begins(("topic",), "")
        self._partition_count = len(topic.partitions)

    def _tell_if_changed(self, consumer: Consumer, now_s: float) -> None:
        share = self._share(now_s)
        if share is None or self._partition_count == 0 or self._stopping.is_set():
            return
        if any(partition >= self._partition_count for partition in share):
            self._next_look_s = 0.0  # the topic has grown: look it up at once
            return
        news = (share, self._partition_count)
        if news == self._told or (self._positions is not None and not self._positions.take_over(consumer, share)):
            return
        self._told = news
        log.info("partitions of this node", topic=self._topic, partitions=sorted(share), of=self._partition_count)
        self._on_change(share, self._partition_count)

    def _kept_share(self) -> frozenset[int]:
        """The partitions that this node was told of and still has: their positions in the table are its own."""
        told = self._told[0] if self._told is not None else frozenset()
        if self._config.cluster.mode != "group":
            return told
        return told & (self._group_share or set())

    def _share(self, now_s: float) -> frozenset[int] | None:
        """The partitions of this node; None while they are not known."""
        cluster = self._config.cluster
        if cluster.mode == "single":
            return fixed_share(self._partition_count, 0, 1)
        if cluster.mode == "static":
            return fixed_share(self._partition_count, cluster.node_index, cluster.node_count)
        if self._group_share is None or (not self._group_share and now_s - self._empty_since_s < self._settle_s):
            return None
        return frozenset(self._group_share)

    def _assigned(self, consumer: Consumer, gained: list[TopicPartition]) -> None:
        # OFFSET_END, so that no committed offset is looked up; paused, so that nothing is fetched.
        paused = [TopicPartition(one.topic, one.partition, OFFSET_END) for one in gained]
        consumer.incremental_assign(paused)
        consumer.pause(paused)
        self._set_group_share((self._group_share or set()) | {one.partition for one in gained})

    def _revoked(self, consumer: Consumer, given_up: list[TopicPartition]) -> None:
        gone = {one.partition for one in given_up}
        if self._positions is not None:
            self._positions.commit_last(consumer, self._kept_share() & gone)
        consumer.incremental_unassign(given_up)
        self._set_group_share((self._group_share or set()) - gone)

    def _lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        # The session has timed out: Kafka could not be reached, or this process was stopped. The share stays as it is
        # until the next assignment.
        consumer.incremental_unassign(lost)
        self._group_share = None
        log.warning("group session lost, partitions kept until the node has rejoined", partitions=len(lost))

    def _set_group_share(self, share: set[int]) -> None:
        if not share and self._group_share != share:
            self._empty_since_s = time.monotonic()
        self._group_share = share
