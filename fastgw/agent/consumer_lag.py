"""Checks whether a route's service has consumers, and whether its backlog leaves a request enough time.

Without this check, a request to a service that is down would be recorded, wait, and end with 504. If the service is a
minute behind, the same happens, and the service does the work in vain. If the route names the service's consumer group,
such requests are refused at once (503, nothing is recorded). The agent checks once a second for the whole node; the
workers read the result in the shared table.

    nobody      no member of the group has a partition of the topic. A rebalancing group keeps its last state.
    backlog     the records that are not committed, divided by the records committed per second

A backlog counts only if it is certain. Most services commit every few seconds, so between two commits they seem further
behind than they are. So the smallest backlog in a window counts, and the window is longer than the time between two
commits. A backlog of less than two check periods counts as none.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from fastgw._ctable import NO_CONSUMER
from fastgw.admin.metrics import ServiceState
from fastgw.config import Config
from fastgw.kafka import client_log, groups
from fastgw.kafka.properties import client_properties
from fastgw.throttle import Troubles

log = structlog.get_logger("fastgw.consumers")

Tell = Callable[[dict[int, int]], None]
"""Route number -> how long a request would wait for its service, in ns, or NO_CONSUMER. Called on a thread."""

PERIOD_S = 1.0
ASK_TIMEOUT_S = 3.0
PERIOD_NS = int(PERIOD_S * 1e9)
WINDOW_NS = 12_000_000_000  # more than twice the five seconds after which most clients commit
FOR_EVER_NS = 1 << 62  # a backlog of which nothing was committed in a whole window


class Look(NamedTuple):
    """The result of one check of a group and a topic."""

    consumers: int | None  # members that have partitions of the topic; None while the group is rebalancing
    progress: GroupProgress | None  # None if nothing was ever committed
    trouble: str  # why the group does not consume the topic, as a text for people


class GroupProgress(NamedTuple):
    """The progress of a group in a topic."""

    committed: int  # the sum of its committed offsets
    behind: int  # the number of records after these offsets


class Backlog:
    """The state of one group and one topic. Time is an argument."""

    def __init__(self) -> None:
        self._consumers = -1  # not known
        self._seen: deque[tuple[int, GroupProgress]] = deque()

    def __repr__(self) -> str:
        return f"<Backlog {self._consumers} consumers, wait {self.wait_ns() / 1e9:.1f} s>"

    def observe(self, now_ns: int, consumers: int | None, progress: GroupProgress | None) -> None:
        """Take in the result of a check.

        Args:
            now_ns: monotonic.
            consumers: members that have partitions of the topic; None while the group is rebalancing.
            progress: None if nothing was ever committed.
        """
        if consumers is not None:
            self._consumers = consumers
        if progress is None:
            self._seen.clear()
            return
        self._seen.append((now_ns, progress))
        while now_ns - self._seen[0][0] > WINDOW_NS:
            self._seen.popleft()

    def wait_ns(self) -> int:
        """How long a record would wait until the service takes it; NO_CONSUMER: the service has no consumer."""
        if self._consumers == 0:
            return NO_CONSUMER
        if len(self._seen) < 2:
            return 0
        (first_ns, first), (last_ns, last) = self._seen[0], self._seen[-1]
        watched_ns = last_ns - first_ns
        behind = min(progress.behind for _, progress in self._seen)
        if watched_ns < WINDOW_NS - 2 * PERIOD_NS or behind == 0:
            return 0
        done = last.committed - first.committed
        return max(0, behind * watched_ns // done - 2 * PERIOD_NS) if done > 0 else FOR_EVER_NS


class Consumers:
    """Checks the services of all routes that name a group, on a thread of its own.

    If Kafka does not answer, no request is refused.

    Attributes:
        states: the results of the last check; any thread may read them. Empty before the first check.
    """

    def __init__(self, config: Config, tell: Tell, on_failure: Callable[[BaseException], None]) -> None:
        """
        Args:
            on_failure: called when the thread ends with an error. Errors of Kafka do not end it.
        """
        self._settings = client_properties(config.kafka.bootstrap, config.kafka.client)
        self._tell = tell
        self._on_failure = on_failure
        self._routes: dict[tuple[str, str], list[int]] = {}
        for route in config.routes:
            if route.service_group:
                self._routes.setdefault((route.service_group, route.topic), []).append(route.number)
        self._backlogs = {pair: Backlog() for pair in self._routes}
        self._waits: dict[tuple[str, str], int] = dict.fromkeys(self._routes, 0)
        self._troubles = Troubles()  # Kafka's errors during a check
        self._absences = dict.fromkeys(self._routes, "")  # why there is no consumer
        self.states: tuple[ServiceState, ...] = ()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumers", daemon=True)

    def start(self) -> None:
        """Start the thread, if any route names a group."""
        if self._routes:
            self._thread.start()

    def stop(self, timeout_s: float = 2 * ASK_TIMEOUT_S) -> None:
        """Stop the thread. A request to Kafka that is in progress may take until its timeout."""
        self._stopping.set()
        if self._routes:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            admin = AdminClient(self._settings | client_log.listening())
            while not self._stopping.wait(PERIOD_S):
                admin.poll(0)  # calls the client's log and error callbacks; its answers need no poll
                self._look(admin)
        except BaseException as error:
            self._on_failure(error)

    def _look(self, admin: AdminClient) -> None:
        for pair, backlog in self._backlogs.items():
            try:
                seen = _ask(admin, *pair, self._absences[pair])
                backlog.observe(time.monotonic_ns(), seen.consumers, seen.progress)
            except KafkaException as error:
                self._note(pair, error.args[0].str())
                self._waits[pair] = 0
            else:
                self._note(pair, "")
                if seen.consumers is not None:
                    self._absences[pair] = seen.trouble
                self._say(pair, backlog.wait_ns())
        if self._stopping.is_set():
            return  # Kafka was slow: a successor may already have reported other routes
        self.states = tuple(self._state(pair) for pair in self._routes)
        self._tell({number: self._waits[pair] for pair, numbers in self._routes.items() for number in numbers})

    def _state(self, pair: tuple[str, str]) -> ServiceState:
        trouble, wait_ns = self._troubles.of(pair), self._waits[pair]
        if trouble:
            return ServiceState(*pair, tuple(self._routes[pair]), "unknown", f"Kafka does not say: {trouble}")
        if wait_ns == NO_CONSUMER:
            return ServiceState(*pair, tuple(self._routes[pair]), "nobody", self._absences[pair])
        if wait_ns > 0:
            told = "it commits none of its records" if wait_ns == FOR_EVER_NS else f"about {wait_ns / 1e9:.0f} s behind"
            return ServiceState(*pair, tuple(self._routes[pair]), "backlog", told)
        return ServiceState(*pair, tuple(self._routes[pair]), "there", "")

    def _note(self, pair: tuple[str, str], trouble: str) -> None:
        if self._troubles.begins(pair, trouble):
            group, topic = pair
            log.warning("cannot check a service, its requests are admitted", group=group, topic=topic, detail=trouble)

    def _say(self, pair: tuple[str, str], wait_ns: int) -> None:
        before_ns, self._waits[pair] = self._waits[pair], wait_ns
        group, topic = pair
        if wait_ns == NO_CONSUMER != before_ns:
            log.warning("the service has no consumer", group=group, topic=topic, why=self._absences[pair])
        elif wait_ns > 0 >= before_ns:
            log.warning("the service has a backlog", group=group, topic=topic, about_s=round(wait_ns / 1e9))
        elif wait_ns == 0 != before_ns:
            log.info("the service is available again", group=group, topic=topic)


def _ask(admin: AdminClient, group: str, topic: str, known_trouble: str = "") -> Look:
    """Check a group and a topic.

    Args:
        known_trouble: the trouble that the last check found, so that groups with similar names are looked up only once.

    Raises:
        KafkaException: Kafka did not answer, or answered with an error.
    """
    seen = groups.look(admin, group, ASK_TIMEOUT_S)
    known = admin.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic]
    trouble = seen.trouble(topic)
    if trouble and not seen.exists:
        looked_before = known_trouble.startswith(trouble)
        trouble = known_trouble if looked_before else seen.trouble(topic, groups.alike(admin, group, ASK_TIMEOUT_S))
    return Look(seen.consumers(topic), _progress(admin, group, topic, list(known.partitions)), trouble)


def _progress(admin: AdminClient, group: str, topic: str, numbers: Sequence[int]) -> GroupProgress | None:
    asked = [TopicPartition(topic, number) for number in numbers]
    if not asked:
        return None
    (offsets,) = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, asked)], request_timeout=ASK_TIMEOUT_S
    ).values()
    committed = {part.partition: part.offset for part in offsets.result().topic_partitions if part.offset >= 0}
    if not committed:
        return None
    latest = {TopicPartition(topic, number): OffsetSpec.latest() for number in committed}
    ends = admin.list_offsets(latest, request_timeout=ASK_TIMEOUT_S)
    behind = sum(max(0, future.result().offset - committed[part.partition]) for part, future in ends.items())
    return GroupProgress(sum(committed.values()), behind)
