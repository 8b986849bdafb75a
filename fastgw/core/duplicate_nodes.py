"""Detects a second node with the same identity: its canaries arrive on partitions of this node."""

from __future__ import annotations

HEARD_AT_LEAST = 3  # canaries: one or two may still be in flight when a partition has just changed its owner
HEARD_WITHIN_NS = 10_000_000_000
SAID_EVERY_NS = 60_000_000_000
NODES_MAX = 8  # nodes that are remembered; bounded, because any Kafka client can write random node ids into records


class DuplicateNodes:
    """Other nodes whose canaries arrive on partitions of this node, such as two gateways started as the same node.

    This loses no request of either node. But the other node's own partitions are then read by no process.
    """

    def __init__(self) -> None:
        self._heard: dict[int, list[int]] = {}  # node -> when its last few canaries arrived
        self._said_ns: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<DuplicateNodes {[f'{node:06x}' for node in self._said_ns]}>"

    def heard(self, node: int, now_ns: int) -> bool:
        """A canary of `node` arrived. True: several came recently, and the last report is long enough ago."""
        times = [at_ns for at_ns in self._heard.pop(node, ()) if now_ns - at_ns < HEARD_WITHIN_NS]
        self._heard[node] = [*times, now_ns][-HEARD_AT_LEAST:]
        if len(self._heard) > NODES_MAX:
            forgotten = next(iter(self._heard))
            del self._heard[forgotten]
            self._said_ns.pop(forgotten, None)
        said_ns = self._said_ns.get(node)
        if len(self._heard[node]) < HEARD_AT_LEAST or (said_ns is not None and now_ns - said_ns < SAID_EVERY_NS):
            return False
        self._said_ns[node] = now_ns
        return True
