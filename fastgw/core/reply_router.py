"""Decides which process deals with a reply: the one that waits for it, or the one that passes it on.

    id names        reply came in on                    this process             does
    -------------   ---------------------------------   ----------------------   --------------------------------------
    this process    any partition                       -                        MINE: answers
    a sibling       a partition that the sibling reads  -                        LEAVE: the sibling reads it as well
    a sibling       another partition                   is the designated one    FORWARD over the mesh
    a dead process  any partition                       is the designated one    ORPHAN: counted
    another node    the id's home partition             is the designated one    FOREIGN: its own reader has it, or died
    another node    another partition                   is the designated one    REROUTE to the home partition, once
    not this one    any partition                       is not the designated    LEAVE

The designated reader of a partition is one process of this node, see `_is_designated_reader`.
"""

from __future__ import annotations

from enum import IntEnum

from fastgw._ctable import NOT_READING, UNOWNED, Table
from fastgw.core.ownership import Ownership
from fastgw.ids import CorrelationId
from fastgw.table import process_index, processes_of


class Whose(IntEnum):
    """What to do with a reply (design section 5)."""

    MINE = 0
    FORWARD = 1  # a sibling process waits for it and does not read this partition: over the mesh
    LEAVE = 2  # another process reads the same record and will do what is right
    ORPHAN = 3  # the process that waited is dead
    REROUTE = 4  # another node's: to its home partition, if no node has sent it there already
    FOREIGN = 5  # another node's, which reads this partition itself or has died


MINE = Whose.MINE  # asked for with each reply, and an enumeration looks its members up slowly


class ReplyRouter:
    """Decides whose a reply is, from its id, where it came in, and what the other processes read."""

    def __init__(self, table: Table, worker: int, generation: int, ownership: Ownership) -> None:
        self._table = table
        self._node = table.node
        self._worker = worker
        self._generation = generation
        self._process_index = process_index(worker, generation)
        self._ownership = ownership

    def whose(self, cid: CorrelationId, partition: int, offset: int) -> Whose:
        """
        Args:
            cid: the parsed correlation id.
            partition, offset: where the reply came in.
        """
        if cid.node == self._node:
            if cid.worker == self._worker and cid.generation == self._generation:
                return MINE
            if not self._is_designated_reader(partition, offset):
                return Whose.LEAVE
            process = self._table.find(cid.worker, cid.generation)
            if process < 0:
                return Whose.ORPHAN
            if self._table.reads_from(process, partition) <= offset:
                return Whose.LEAVE
            return Whose.FORWARD
        if not self._is_designated_reader(partition, offset):
            return Whose.LEAVE
        if partition == cid.home or cid.home >= self._ownership.partition_count:
            return Whose.FOREIGN
        return Whose.REROUTE

    def _is_designated_reader(self, partition: int, offset: int) -> bool:
        """Whether this process is the one that deals with replies of others on this partition.

        During a reload or a move several processes read one partition. Each looks at the same shared records and comes
        to the same answer: the owner slot's process that has read the partition longest; whoever reads it, if none of
        the owner's does. In doubt two act, never none: a reply forwarded twice is answered once.
        """
        if partition in self._ownership.leaving:
            return self._owner_reader(partition, offset) < 0
        reader = self._owner_reader(partition, offset)
        return reader < 0 or reader == self._process_index

    def _owner_reader(self, partition: int, offset: int) -> int:
        owner = self._table.map_owner(partition)
        if owner == UNOWNED or owner >= self._table.workers:
            return -1
        first, second = processes_of(owner)
        from_first, from_second = self._table.reads_from(first, partition), self._table.reads_from(second, partition)
        reader, start = (first, from_first) if from_first <= from_second else (second, from_second)
        return reader if start != NOT_READING and start <= offset else -1
