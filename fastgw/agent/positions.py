"""How far this node has handled the response partitions, kept in Kafka for the node that has them next.

The workers publish their positions in the shared table. The agent commits those with the node's group, and looks them
up when the node gains partitions. Nobody else commits offsets: the workers' consumers belong to no group.

    worker ──> table ──(at first; once a second; when partitions are given up; on leaving)──> group offsets
    worker <── table <──(before the map gives the partition to a worker)───────────────────── group offsets

A commit carries the time at which it was made. One that is older than any request could have waited is worth nothing:
no living request lost a reply since then, and to read hours of replies would help nobody.

In the mode `static` no consumer subscribes, so the group has no members, and Kafka takes commits from every node. In
the mode `group` it refuses those of a node that is no member (any more). That node's positions are outdated anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fastgw import table
from fastgw._ctable import PARTITIONS_MAX, UNKNOWN_POSITION, UNOWNED, Table
from fastgw.config import Config
from fastgw.config.units import NS_PER_S
from fastgw.throttle import Troubles

log = structlog.get_logger("fastgw.membership")

COMMIT_EVERY_S = 1.0
REFRESH_EVERY_S = 5.0  # a position that has not changed is committed as often as this, so that it does not look old
ASK_TIMEOUT_S = 2.0  # of one question for positions
GIVE_UP_AFTER_S = 10.0  # a node that gains partitions does not wait longer for their positions
AGE_SLACK_S = 10.0  # for a group that settles, and for clocks that differ
FAILING_AFTER_S = 10.0  # commits fail while a group rebalances: this long is trouble

REFUSALS = (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED)
GRANT = "grant READ on the group and on the response topic; until then a node reads what it takes over from the end"


class NodePositions:
    """Commits and looks up the positions of one node. Runs on the membership's thread."""

    def __init__(
        self,
        config: Config,
        shared: Table,
        monotonic_s: Callable[[], float] = time.monotonic,
        time_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`monotonic_s` and `time_ms` are the clocks: monotonic seconds, and milliseconds since the epoch."""
        self._table = shared
        self._topic = config.gateway.response_topic
        self._log = table.log_of(config.kafka.bootstrap, self._topic)
        longest_ns = max(route.timeout_ns for route in config.routes) + config.cluster.session_timeout_ns
        self._age_max_ms = (longest_ns / NS_PER_S + AGE_SLACK_S) * 1000
        self._monotonic_s = monotonic_s
        self._time_ms = time_ms
        self._committed: dict[int, int] = {}  # partition -> the position that was given to Kafka last
        self._begun: set[int] = set()  # partitions of which a position was committed since this node gained them
        self._commit_at_s = self._refresh_at_s = 0.0
        self._asking_since_s: float | None = None
        self._failing_since_s: float | None = None
        self._troubles = Troubles()

    def __repr__(self) -> str:
        return f"<NodePositions of {self._topic}: {self._committed}>"

    def client_settings(self) -> dict[str, Any]:
        """Properties of the consumer that is passed to the methods here."""
        return {"on_commit": self._on_commit}

    # Taking over.

    def take_over(self, consumer: Consumer, share: Collection[int]) -> bool:
        """Put the positions of partitions that the map does not give to this node yet into the table.

        Returns:
            False: Kafka has not answered, call again.
        """
        gained = sorted(partition for partition in share if self._is_gained(partition))
        if not gained:
            return True
        now_s = self._monotonic_s()
        if self._asking_since_s is None:
            self._asking_since_s = now_s
        try:
            positions = self._look_up(consumer, gained)
        except KafkaException as failed:
            error = failed.args[0]
            if error.code() not in REFUSALS and self._monotonic_s() - self._asking_since_s < GIVE_UP_AFTER_S:
                return False
            positions = {}
            log.warning("positions of the last readers unknown", partitions=gained, error=str(error), hint=GRANT)
        self._asking_since_s = None
        self._begun.difference_update(gained)
        for partition in gained:
            self._table.set_handled_to(partition, self._log, positions.get(partition, UNKNOWN_POSITION))
        log.info("partitions taken over", positions=positions, unknown=len(gained) - len(positions))
        return True

    def _is_gained(self, partition: int) -> bool:
        return partition < PARTITIONS_MAX and self._table.map_owner(partition) == UNOWNED

    def _look_up(self, consumer: Consumer, partitions: Iterable[int]) -> dict[int, int]:
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        found = consumer.committed(asked, timeout=ASK_TIMEOUT_S)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return {one.partition: one.offset for one in found if one.offset >= 0 and self._is_fresh(one.metadata)}

    def _is_fresh(self, metadata: str | None) -> bool:
        try:
            committed_ms = int(metadata or "")
        except ValueError:
            return False  # somebody else has committed it
        return self._time_ms() - committed_ms <= self._age_max_ms

    # Committing.

    def commit(self, consumer: Consumer, partitions: Collection[int]) -> None:
        """Commit the positions of these partitions if it is time for that. Does not wait."""
        now_s = self._monotonic_s()
        if now_s < self._commit_at_s and not any(map(self._begins, partitions)):
            return
        self._commit_at_s = now_s + COMMIT_EVERY_S
        if now_s >= self._refresh_at_s:
            self._refresh_at_s = now_s + REFRESH_EVERY_S
            self._committed.clear()
        self._commit(consumer, partitions, is_last=False)

    def _begins(self, partition: int) -> bool:
        """Whether the partition has a first position, which is committed at once.

        A node that dies before that leaves none, and whoever takes the partition over has to start at the end.
        """
        if partition in self._begun or partition >= PARTITIONS_MAX:
            return False
        return self._table.handled_to(partition, self._log) != UNKNOWN_POSITION

    def commit_last(self, consumer: Consumer, partitions: Iterable[int]) -> None:
        """Commit the positions of partitions that this node gives up, and wait for it.

        It is left out while Kafka takes no commits, so that a node can end without Kafka.
        """
        self._committed.clear()
        if self._failing_since_s is None:
            self._commit(consumer, partitions, is_last=True)

    def _commit(self, consumer: Consumer, partitions: Iterable[int], is_last: bool) -> None:
        present = {p: self._table.handled_to(p, self._log) for p in partitions if p < PARTITIONS_MAX}
        changed = {p: at for p, at in present.items() if at != UNKNOWN_POSITION and self._committed.get(p) != at}
        if not changed:
            return
        now = str(self._time_ms())
        offsets = [TopicPartition(self._topic, p, at, now) for p, at in changed.items()]
        self._committed.update(changed)
        self._begun.update(changed)
        try:
            answers = consumer.commit(offsets=offsets, asynchronous=not is_last)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)
        else:
            if is_last:
                self._on_commit(None, answers)

    def _on_commit(self, error: KafkaError | None, partitions: Iterable[TopicPartition]) -> None:
        error = error or next((one.error for one in partitions if one.error is not None), None)
        if error is None:
            self._failing_since_s = None
            self._troubles.begins(("commit",), "")
            return
        self._committed.clear()  # so that all of them are committed again
        now_s = self._monotonic_s()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        is_trouble = error.code() in REFUSALS or now_s - self._failing_since_s >= FAILING_AFTER_S
        if is_trouble and self._troubles.begins(("commit",), error.name()):
            log.warning("positions cannot be committed", error=str(error), hint=GRANT)
