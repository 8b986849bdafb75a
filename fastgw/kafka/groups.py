"""Looks up the consumer group that a route names as `service_group`, and explains what may be wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupState, KafkaException

_MOVING = (ConsumerGroupState.PREPARING_REBALANCING, ConsumerGroupState.COMPLETING_REBALANCING)
_ALIKE = 0.7  # of difflib's ratio: "helo" and "hello" have 0.89
TOPICS_SHOWN = 3


class Group(NamedTuple):
    """A consumer group as it is now."""

    name: str
    exists: bool
    members: int
    is_moving: bool  # it is rebalancing: the assignment is not final
    reads: tuple[str, ...]  # for each member the topics of its partitions, each topic once per member

    def consumers(self, topic: str) -> int | None:
        """The number of members that have partitions of the topic; None while the group is rebalancing."""
        return None if self.is_moving else self.reads.count(topic)

    def trouble(self, topic: str, alike: Iterable[str] = ()) -> str:
        """Why the group does not consume the topic; empty: it does, or it is rebalancing."""
        if self.is_moving or topic in self.reads:
            return ""
        if not self.exists:
            meant = " or ".join(f'"{name}"' for name in alike)
            return "no such consumer group" + (f" (did you mean {meant}?)" if meant else "")
        if not self.members:
            return "the consumer group has no members"
        others = sorted(set(self.reads))
        shown = ", ".join(others[:TOPICS_SHOWN]) + (" and others" if len(others) > TOPICS_SHOWN else "")
        return f"no member of the consumer group has a partition of topic {topic}; they read {shown or 'nothing'}"


def look(admin: Any, name: str, timeout_s: float) -> Group:
    """Ask Kafka for one group.

    Raises:
        KafkaException: Kafka did not answer, or answered with an error.
    """
    (described,) = admin.describe_consumer_groups([name], request_timeout=timeout_s).values()
    found = described.result()
    reads = tuple(
        topic for member in found.members for topic in {part.topic for part in member.assignment.topic_partitions}
    )
    # Kafka reports an unknown group as DEAD.
    return Group(name, found.state != ConsumerGroupState.DEAD, len(found.members), found.state in _MOVING, reads)


def alike(admin: Any, name: str, timeout_s: float) -> list[str]:
    """Groups with similar names, the most similar first; empty if the user may not list groups."""
    try:
        listed = admin.list_consumer_groups(request_timeout=timeout_s).result()
    except KafkaException:
        return []
    return alike_among((group.group_id for group in listed.valid), name)


def alike_among(names: Iterable[str], name: str) -> list[str]:
    return difflib.get_close_matches(name, [other for other in names if other != name], cutoff=_ALIKE)
