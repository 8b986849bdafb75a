"""How far this process has handled the replies of each partition that it keeps, and what a successor may rely on.

A reply is handled when its request was answered, or when the reply was passed on or counted. A successor starts where
the last designated reader has stopped, so the position in the table must never be ahead of what is safe. A reply that
was passed on is not safe at once: it may be in a buffer of the mesh, or in the producer without an acknowledgement,
and be lost when this process is killed. Hence the delay:

    link ──(every MARK_EVERY_NS)──> a mark ──(SETTLED_NS later)──> the table
      └────(the process ends, and nothing that it has passed on is left in it)──^

Replies that lie between the position and the end are handled twice after a death, which does no harm: each of them
answers once, and the second time it is counted as late or duplicate. Nothing here happens for each reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from fastgw._ctable import Table

SETTLED_NS = 500_000_000  # by then a frame has left, and Kafka has acknowledged a record: both take milliseconds
MARK_EVERY_NS = 250_000_000


class HandledOffsets:
    """The positions that one process publishes.

    Attributes:
        kept: the partitions whose position this process publishes. Use `keep` and `drop`.
    """

    def __init__(self, table: Table, log: int, reached: Callable[[int], int]) -> None:
        """
        Args:
            log: names the log of the offsets (`table.log_of`).
            reached: the next offset of a partition that the link will hand over (`Link.reached`). What it has handed
                over is handled at once.
        """
        self.kept: set[int] = set()
        self.reached = reached
        self._table = table
        self._log = log
        self._marks: deque[tuple[int, dict[int, int]]] = deque()  # when, and what was reached then

    def __repr__(self) -> str:
        return f"<HandledOffsets { {partition: self.reached(partition) for partition in sorted(self.kept)} }>"

    def keep(self, partition: int) -> None:
        """From now on this process publishes the position of the partition."""
        self.kept.add(partition)

    def drop(self, partitions: Iterable[int]) -> None:
        """It no longer does, nor publishes what was reached before."""
        for partition in partitions:
            self.kept.discard(partition)
            for _, mark in self._marks:
                mark.pop(partition, None)

    def published(self, partition: int) -> int:
        """The position in the table; UNKNOWN_POSITION: there is none."""
        return self._table.handled_to(partition, self._log)

    def publish(self, partition: int, offset: int) -> None:
        """Put this position into the table."""
        if self.published(partition) != offset:
            self._table.set_handled_to(partition, self._log, offset)

    def settled(self, now_ns: int) -> Mapping[int, int]:
        """What was reached at least SETTLED_NS ago, by partition. Empty if it is not time for the next mark."""
        if self._marks and now_ns - self._marks[-1][0] < MARK_EVERY_NS:
            return {}
        self._marks.append((now_ns, {partition: self.reached(partition) for partition in self.kept}))
        settled: Mapping[int, int] = {}
        while now_ns - self._marks[0][0] >= SETTLED_NS:
            settled = self._marks.popleft()[1]
        return settled
