"""Handles each reply record: answer its request, pass the reply on, or count it.

link ──replies──> whose? ──> MINE ──> own canary | exchange.resolve
                    │                        ↑
                    ├──> FORWARD ──> mesh ───┘ of the process that waits
                    ├──> REROUTE ──> Kafka: to the home partition of another node, once
                    └──> LEAVE, ORPHAN, FOREIGN: nothing to do; see `core.reply_router`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from fastgw import ids
from fastgw._ctable import Table
from fastgw.core import canary
from fastgw.core.duplicate_nodes import DuplicateNodes
from fastgw.core.reply_router import MINE, Whose
from fastgw.dialects import plain
from fastgw.ids import CorrelationId
from fastgw.messages import Record, Reply, ReplyDisposition
from fastgw.throttle import Throttle

log = structlog.get_logger("fastgw.worker")

FORGED = ReplyDisposition.FORGED  # needed for each reply, and an enumeration looks its members up slowly


class Decide(Protocol):
    """See ReplyRouter.whose."""

    def __call__(self, cid: CorrelationId, partition: int, offset: int) -> Whose: ...


class Canaries(Protocol):
    """The part of the reply path that hears canaries."""

    def canary_came(self, tag: int, now_ns: int) -> None: ...
    def is_assigned(self, partition: int) -> bool: ...
    def is_old(self, partition: int, offset: int) -> bool: ...


class Replies:
    """The replies that come to one worker process, from Kafka and from its siblings."""

    def __init__(
        self,
        table: Table,
        process_index: int,
        address: tuple[int, int, int],
        reply_topic: str,
        whose: Decide,
        resolve: Callable[[CorrelationId, Reply, int], ReplyDisposition],
        canaries: Canaries,
        forward: Callable[[int, int, Reply], bool],
        send: Callable[[Record], bool],
        other_topics: Mapping[int, str] | None = None,
    ) -> None:
        """
        Args:
            table, process_index: where replies are counted.
            address: node, worker, generation of this process.
            whose: decides what to do with a reply.
            resolve: answers the request that waits for a reply (`Exchange.resolve`).
            canaries: takes the canaries of this process; knows which partitions and records are its own.
            forward: (worker, generation, reply): hands a reply to a sibling; False: it was dropped.
            send: sends an untracked record to Kafka; False: it was refused.
            other_topics: the topics, by `ids.ReplyTopic`, to which a reply is sent on if its id names one of them.
        """
        self._table = table
        self._process_index = process_index
        self._address = address
        self._reply_topic = reply_topic
        self._whose = whose
        self._resolve = resolve
        self._canaries = canaries
        self._forward = forward
        self._send = send
        self._other_topics = other_topics or {}
        self._poison = Throttle()  # limits the lines about replies that could not be handled
        self._duplicates = DuplicateNodes()

    def take(self, replies: Sequence[Reply], now_ns: int, is_forwarded: bool = False) -> None:
        """Handle a batch of replies. A reply that cannot be handled does not affect the others.

        Args:
            now_ns: monotonic.
            is_forwarded: a sibling sent them, because they belong to this process.
        """
        take = self._take_forwarded if is_forwarded else self._take_one
        for reply in replies:
            try:
                take(reply, now_ns)
            except MemoryError:
                raise  # ends the worker
            except Exception:
                held_back = self._poison.admit(("reply",), now_ns)
                if held_back >= 0:
                    where = {"partition": reply.partition, "offset": reply.offset}
                    log.exception("reply not handled", **where, held_back=held_back)
                self._count(ReplyDisposition.MALFORMED)

    def dropped(self, replies: int) -> None:
        """Count replies that `forward` had accepted and that were lost when the link to the sibling broke."""
        for _ in range(replies):
            self._count(ReplyDisposition.DROPPED)

    def _take_one(self, reply: Reply, now_ns: int) -> None:
        cid = ids.parse(reply.correlation_id)
        if cid is None:
            self._count(ReplyDisposition.MALFORMED)
            return
        whose = self._whose(cid, reply.partition, reply.offset)
        if whose is MINE:
            self._take_mine(cid, reply, now_ns)
        elif whose is Whose.FOREIGN and cid.slot == canary.SLOT and self._is_ours_now(reply.partition, reply.offset):
            self._hear_duplicate(cid.node, reply.partition, now_ns)
        elif whose is not Whose.LEAVE:
            self._table.count_disposition(self._process_index, self._pass_on(whose, cid, reply))

    def _take_forwarded(self, reply: Reply, now_ns: int) -> None:
        cid = ids.parse(reply.correlation_id)
        if cid is not None and (cid.node, cid.worker, cid.generation) == self._address:
            self._take_mine(cid, reply, now_ns)
        else:
            self._count(ReplyDisposition.ORPHAN)

    def _take_mine(self, cid: CorrelationId, reply: Reply, now_ns: int) -> None:
        if cid.slot == canary.SLOT:
            self._canaries.canary_came(cid.tag, now_ns)
            return
        disposition = self._resolve(cid, reply, now_ns)
        if disposition is FORGED and self._may_be_read_again(reply):
            disposition = ReplyDisposition.LATE
        elif disposition is ReplyDisposition.ELSEWHERE:
            disposition = self._send_home(cid, reply)
        self._table.count_disposition(self._process_index, disposition)

    def _may_be_read_again(self, reply: Reply) -> bool:
        """Whether an id that no request had lately may be one of a reply that was handled before.

        The slot knows its last two occupants. When a partition is taken over, replies are read again that were handled
        seconds ago, and a busy slot has had more occupants since.
        """
        return plain.is_read_again(reply) or self._canaries.is_old(reply.partition, reply.offset)

    def _is_ours_now(self, partition: int, offset: int) -> bool:
        """Whether this record was written after this process took the partition over, and it has not given it away."""
        return self._canaries.is_assigned(partition) and not self._canaries.is_old(partition, offset)

    def _pass_on(self, whose: Whose, cid: CorrelationId, reply: Reply) -> ReplyDisposition:
        if cid.topic in self._other_topics:  # also if the process that has asked is dead, or of another node
            return self._send_home(cid, reply)
        if whose is Whose.FORWARD:
            if self._canaries.is_old(reply.partition, reply.offset):
                reply = reply._replace(headers=plain.sent_on(reply, is_read_again=True))
            sent = self._forward(cid.worker, cid.generation, reply)
            return ReplyDisposition.MISROUTED if sent else ReplyDisposition.DROPPED
        if whose is Whose.REROUTE and not plain.has_hopped(reply):
            headers = plain.sent_on(reply, self._canaries.is_old(reply.partition, reply.offset))
            sent = self._send(Record(self._reply_topic, reply.value, reply.correlation_id, headers, cid.home))
            return ReplyDisposition.REROUTED if sent else ReplyDisposition.DROPPED
        return ReplyDisposition.ORPHAN if whose is Whose.ORPHAN else ReplyDisposition.FOREIGN

    def _send_home(self, cid: CorrelationId, reply: Reply) -> ReplyDisposition:
        """Send a reply to the topic that its id names, once: its service always replies to the response topic."""
        topic = self._other_topics.get(cid.topic)
        if topic is None or plain.has_hopped(reply):
            return ReplyDisposition.ORPHAN
        sent = self._send(Record(topic, reply.value, reply.correlation_id, plain.sent_on(reply), cid.home))
        return ReplyDisposition.ELSEWHERE if sent else ReplyDisposition.DROPPED

    def _hear_duplicate(self, node: int, partition: int, now_ns: int) -> None:
        self._count(ReplyDisposition.RIVAL)
        if self._duplicates.heard(node, now_ns):
            log.error(
                "another node claims partitions of this node",
                rival=f"{node:06x}",
                partition=partition,
                hint="are two gateways started with the same response topic and the same [cluster] node_index? "
                "or has that node lost its group?",
            )

    def _count(self, disposition: ReplyDisposition) -> None:
        self._table.count_disposition(self._process_index, disposition)
