"""Decides what this process does with a reply: answer the request, pass the reply on, or leave it to another process.

    id names        reply arrived on                    this process             does
    -------------   ---------------------------------   ----------------------   --------------------------------------
    this process    any partition                       -                        MINE: answers
    a sibling       a partition that the sibling reads  -                        LEAVE: the sibling reads it, too
    a sibling       another partition                   is designated            FORWARD over the mesh
    a dead process  any partition                       is designated            ORPHAN: counted
    another node    the id's home partition             is designated            FOREIGN: that node reads it, or died
    another node    another partition                   is designated            REROUTE to the home partition, once
    not this one    any partition                       is not designated        LEAVE

Each partition has one designated reader on this node, see `is_designated_reader`.
"""

from __future__ import annotations

from enum import IntEnum

from fastgw._ctable import NOT_READING, UNOWNED, Table
from fastgw.core.ownership import Ownership
from fastgw.ids import CorrelationId
from fastgw.table import process_index, processes_of


class Whose(IntEnum):
    """What to do with a reply (docs/architecture.md)."""

    MINE = 0
    FORWARD = 1  # send it over the mesh: a sibling process waits for it and does not read this partition
    LEAVE = 2  # do nothing: another process reads the same record and handles it
    ORPHAN = 3  # count it: the process that waited for it is dead
    REROUTE = 4  # it belongs to another node: send it to its home partition, unless it was sent there already
    FOREIGN = 5  # count it: it belongs to another node, which reads this partition itself or has died


MINE = Whose.MINE  # needed for each reply, and an enumeration looks its members up slowly


class ReplyRouter:
    """Decides from a reply's id, its partition and offset, and the partitions that other processes read."""

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
            partition, offset: where the reply arrived.
        """
        if cid.node == self._node:
            if cid.worker == self._worker and cid.generation == self._generation:
                return MINE
            if not self.is_designated_reader(partition, offset):
                return Whose.LEAVE
            process = self._table.find(cid.worker, cid.generation)
            if process < 0:
                return Whose.ORPHAN
            if self._table.reads_from(process, partition) <= offset:
                return Whose.LEAVE
            return Whose.FORWARD
        if not self.is_designated_reader(partition, offset):
            return Whose.LEAVE
        if partition == cid.home or cid.home >= self._ownership.partition_count:
            return Whose.FOREIGN
        return Whose.REROUTE

    def is_designated_reader(self, partition: int, offset: int) -> bool:
        """Whether this process handles the replies on this partition that belong to other processes.

        During a reload or a move several processes read the same partition. Each of them reads the same shared records
        and comes to the same result. The map gives the partition to a worker slot; of this slot's processes, the one
        that has read the partition longest is designated. If none of them reads it, every reader is designated. When
        processes see different records, two may act, but never none: a reply that is forwarded twice is answered once.
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
