"""Two nodes that take themselves for the same one: their canaries come in on partitions of ours."""

from __future__ import annotations

HEARD_AT_LEAST = 3  # canaries: one or two may still be under way when a partition has just changed hands
HEARD_WITHIN_NS = 10_000_000_000
SAID_EVERY_NS = 60_000_000_000
NODES_MAX = 8  # that are remembered: nodes have random names, and anybody may write one into a record


class DuplicateNodes:
    """Nodes whose canaries come in on partitions of ours: two gateways that were started as the same node, say.

    Nobody's request is lost by that, but the partitions of the node that is missing instead are read by nobody.
    """

    def __init__(self) -> None:
        self._heard: dict[int, list[int]] = {}  # node -> when its last few were heard
        self._said_ns: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<DuplicateNodes {[f'{node:06x}' for node in self._said_ns]}>"

    def heard(self, node: int, now_ns: int) -> bool:
        """One was heard; True when it is time to say so: it goes on, and was not said a moment ago."""
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
