"""The reply path of a worker: the partitions that it reads, its home partition, and whether replies reach it.

The worker sends canaries to its home partition. While they come back, replies reach the worker. While they do not, the
gate refuses requests.

Other processes' replies on a partition are handled by its designated reader (`core.reply_router`). It publishes how far
it has come (`handled_offsets`), and whoever is designated after it starts there. So no reply is skipped when a reader
dies; some are read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from fastgw import errors
from fastgw._ctable import NOT_READING, UNKNOWN_POSITION, UNOWNED, Table
from fastgw.core import canary
from fastgw.core.canary import Canary
from fastgw.core.ownership import NO_HOME, Ownership
from fastgw.errors import Ending
from fastgw.ids import IdMaker, Partitioner
from fastgw.kafka.link import FROM_BEGINNING, FROM_END
from fastgw.messages import Record
from fastgw.table import process_index, processes_of
from fastgw.worker.handled_offsets import HandledOffsets

log = structlog.get_logger("fastgw.worker")

ROTATE_HOME_NS = 300_000_000_000  # a new home every 5 minutes, to balance the load of brokers and partitions
STOP_READING_AFTER_NS = 1_000_000_000  # after the announcement: siblings may have read the table just before it
# How long another node may need until it reads a partition that it takes over: a group settles in about one second
# (docs/architecture.md). What arrives later it reads as well, from the position that this node has committed; but the
# requests that wait here have their replies sooner if this process reads on.
HAND_OVER_NS = 4_000_000_000


class Reader(Protocol):
    """The part of the Kafka link that the reply path needs; see kafka.link.Link."""

    def assign(self, starts: Mapping[int, int]) -> None: ...
    def stop_reading(self, partitions: Sequence[int]) -> None: ...
    def send_untracked(self, record: Record) -> bool: ...


class Gate(Protocol):
    """The part of the exchange that lets requests in; see core.exchange.Exchange."""

    home: int

    def set_home(self, home: int, partition_count: int) -> None: ...
    def close_gate(self, ending: Ending, why: str) -> None: ...
    def open_gate(self) -> None: ...


class ReplyPath:
    """The partitions, the home and the canary of one worker process.

    A partition's life here:

        state       the map says   read            ids are made for it   published as read from
        ---------   ------------   -------------   -------------------   ----------------------
        assigned    ours           is being asked  no                    no
        positioned  ours           yes             yes                   its offset
        rewinding   ours           is being asked  yes                   its offset
        leaving     not ours       yes             no, but see home      its offset
        announced   not ours       yes             no                    no
        gone        not ours       no              no                    no

        from        to          when
        ---------   ----------  ---------------------------------------------------------------------------
        assigned    positioned  the link says from which offset it reads
        assigned    gone        the map gives it away before the link has said so
        positioned  rewinding   the reader that was designated is gone, and this process has read past its position
        rewinding   positioned  the link says that it reads again, from that position
        positioned  leaving     the map gives it away
        leaving     positioned  the map gives it back: siblings have noticed nothing
        leaving     announced   it is not the home, no request made for it waits, and its new owner reads it; an owner
                                on another node cannot be seen, so it gets HAND_OVER_NS
        announced   assigned    the map gives it back: it is read again, so that it is published again
        announced   gone        after STOP_READING_AFTER_NS, when siblings no longer rely on this process

    A partition is published by its `reads_from` in the table: siblings leave a reply to the process that publishes its
    partition. So a partition is published before ids are made for it, and unpublished some time before reading stops.
    The home is one of the positioned partitions. When all of them are given away at once, the home stays where it is
    until another partition is positioned (see `core.ownership`).

    A positioned partition is either kept or followed:

        kept        this process is the designated reader: it handles the replies of others, and publishes its position
        followed    another process is designated, such as the old generation in a reload: this process leaves the
                    replies of others to it, and publishes nothing

    Reading starts at the published position if there is one, and otherwise at the end. A partition that another process
    of this worker reads is followed, from its end on. When that process is gone, whether it was killed or has ended in
    order, the follower has left replies to it that it may not have handled: it reads again from the published position.
    """

    def __init__(
        self,
        table: Table,
        generation: int,
        ownership: Ownership,
        ids: IdMaker,
        link: Reader,
        gate: Gate,
        live_before: Callable[[int], int],
        on_up: Callable[[], None],
        reply_topic: str,
        is_designated_reader: Callable[[int, int], bool],
        handled: HandledOffsets,
    ) -> None:
        """
        Args:
            table: holds the partition map and the record of this process, which must be registered.
            ownership: the partitions of this worker; this class applies the map to it.
            ids: told for which partitions ids are made.
            live_before: the number of live requests claimed before a time (`SlotRange.live_before`).
            on_up: called whenever the reply path is found to work.
            is_designated_reader: whether this process handles the replies of others on a partition, from an offset on
                (`ReplyRouter`).
            handled: how far this process has come on each partition.
        """
        self._table = table
        self._process_index = process_index(ownership.worker, generation)
        self._ownership = ownership
        self._ids = ids
        self._link = link
        self._gate = gate
        self._live_before = live_before
        self._on_up = on_up
        self._reply_topic = reply_topic
        self._is_designated_reader = is_designated_reader
        self._handled = handled
        self._canary = Canary()
        self._home_since_ns = 0
        self._announced: dict[int, int] = {}  # partition -> since when it is unpublished
        self._asked: dict[int, int] = {}  # partition -> from where the link was asked to read it; it has not answered
        self._followed: set[int] = set()
        self._live_from: dict[int, int] = {}  # partition -> where its log ended when reading began
        self._is_listening = False
        self._is_draining = False

    def __repr__(self) -> str:
        return f"<ReplyPath {self._ownership!r}, {self._canary!r}, announced {sorted(self._announced)}>"

    @property
    def home(self) -> int:
        """The partition to which services should reply; NO_HOME: none."""
        return self._ownership.home

    @property
    def map_version(self) -> int:
        """The version of the partition map that was applied last."""
        return self._ownership.map_version

    @property
    def round_trip_ns(self) -> int:
        """The round trip of the last canary; 0: none has come back."""
        return self._canary.round_trip_ns

    def is_assigned(self, partition: int) -> bool:
        """Whether the map gives the partition to this worker."""
        return partition in self._ownership.assigned

    def is_old(self, partition: int, offset: int) -> bool:
        """Whether this record was in the log before this process began to read it: others may have handled it."""
        return offset < self._live_from.get(partition, 0)

    def fronts_listen(self) -> None:
        """The fronts listen: from now on the worker is ready whenever the reply path works."""
        self._is_listening = True
        self._path_changed()

    def drain(self) -> None:
        """The worker drains: stop sending canaries and opening or closing the gate. Reading goes on."""
        self._is_draining = True

    def tick(self, now_ns: int) -> None:
        """Do what is due: apply a new map, leave partitions, send a canary, change the home partition."""
        self._follow_map(now_ns)
        if self._followed:
            self._succeed()
        if self._ownership.leaving:
            self._leave_partitions(now_ns)
        self._publish_settled(now_ns)
        if not self._is_draining:
            self._send_canary(now_ns)
            if now_ns - self._home_since_ns > ROTATE_HOME_NS and len(self._ownership.usable()) > 1:
                self._ownership.rotate_home(now_ns)
                self._home_changed(now_ns)

    # Partitions.

    def positioned(self, starts: Mapping[int, int], ends: Mapping[int, int], now_ns: int) -> None:
        """The link now reads these partitions.

        Args:
            starts: partition -> the offset from which every record is read.
            ends: partition -> where its log ended when Kafka was asked.
        """
        for partition, start in starts.items():
            if partition not in self._ownership.assigned and partition not in self._ownership.positioned:
                continue  # given up before this call came
            self._live_from[partition] = ends[partition]
            # Published before the partition can become the home: siblings rely on it and leave replies to this process.
            # After a rewind the lower offset stays right: what lies between has been read.
            read_from = min(start, self._table.reads_from(self._process_index, partition))
            self._table.set_reads_from(self._process_index, partition, read_from)
            self._ownership.position(partition, now_ns)
            self._keep_or_follow(partition, start, self._asked.pop(partition, start))
        self._home_changed(now_ns)

    def _follow_map(self, now_ns: int) -> None:
        if self._table.map_version() == self._ownership.map_version:
            return
        version, owners = self._table.read_map()
        known_count = self._ownership.partition_count or len(owners)
        moves = self._ownership.apply(version, owners, now_ns)
        gained = [*(partition for partition in moves.gained if partition not in self._asked), *self._take_back()]
        log.info("partition map", version=version, gained=len(gained), lost=len(moves.lost))
        self._stop_reading(moves.given_up)
        self._handled.drop(moves.lost)
        self._begin_reading(gained, known_count)
        # Also one that comes back while it is leaving: its designated reader may have been another process meanwhile.
        self._followed = set(self._ownership.usable()) - self._handled.kept - self._asked.keys()
        self._home_changed(now_ns)

    def _take_back(self) -> frozenset[int]:
        """Announced partitions that the map has given back: they must be published again."""
        back = self._ownership.assigned & self._announced.keys()
        for partition in back:
            del self._announced[partition]
            if self._handled.published(partition) != UNKNOWN_POSITION:
                self._stop_reading([partition])  # to read it from that position
        return back

    def _begin_reading(self, gained: Sequence[int], known_count: int) -> None:
        if gained:
            self._ask({partition: self._start_of(partition, known_count) for partition in gained})

    def _start_of(self, partition: int, known_count: int) -> int:
        if any(self._table.reads_from(process, partition) != NOT_READING for process in self._elders()):
            return FROM_END
        published = self._handled.published(partition)
        if published != UNKNOWN_POSITION:
            return published
        # A new partition may already have replies, because services may have seen it first: read it from its beginning.
        return FROM_END if partition < known_count else FROM_BEGINNING

    def _elders(self) -> Iterable[int]:
        """The other process of this worker, if there is one."""
        return (process for process in processes_of(self._ownership.worker) if process != self._process_index)

    def _ask(self, starts: dict[int, int]) -> None:
        self._asked.update(starts)
        self._handled.drop(starts)
        self._followed -= starts.keys()
        self._link.assign(starts)

    def _stop_reading(self, partitions: Sequence[int]) -> None:
        if not partitions:
            return
        for partition in partitions:
            self._asked.pop(partition, None)
        self._link.stop_reading(partitions)

    # The designated reader.

    def _keep_or_follow(self, partition: int, start: int, asked: int) -> None:
        if partition not in self._ownership.assigned:
            return  # it is leaving
        published = self._handled.published(partition)
        if not self._is_designated_reader(partition, start):
            self._followed.add(partition)
        elif asked == FROM_END and UNKNOWN_POSITION < published < start:
            self._rewind(partition, published)  # the process that was designated has died since the link was asked
        else:
            self._handled.publish(partition, start)
            self._handled.keep(partition)

    def _succeed(self) -> None:
        """Keep the partitions that were followed and whose designated reader is gone."""
        for partition in [one for one in self._followed if self._is_designated_reader(one, self._handled.reached(one))]:
            published = self._handled.published(partition)
            self._followed.discard(partition)
            if UNKNOWN_POSITION < published < self._handled.reached(partition):
                self._rewind(partition, published)
            else:
                self._handled.keep(partition)

    def _rewind(self, partition: int, offset: int) -> None:
        log.info("reading again", partition=partition, offset=offset, read_to=self._handled.reached(partition))
        self._stop_reading([partition])
        self._ask({partition: offset})

    def _publish_settled(self, now_ns: int) -> None:
        for partition, offset in self._handled.settled(now_ns).items():
            if self._is_designated_reader(partition, offset):
                self._handled.publish(partition, offset)
            else:  # of two processes that began at the same offset, the one that began first need not be designated
                self._handled.drop([partition])
                self._followed.add(partition)

    def hand_over(self) -> None:
        """The process ends, and nothing that it has passed on is left in it: publish exactly where it has stopped."""
        for partition in self._handled.kept:
            reached = self._handled.reached(partition)
            if self._is_designated_reader(partition, reached):
                self._handled.publish(partition, reached)

    def _leave_partitions(self, now_ns: int) -> None:
        for partition, since_ns in list(self._ownership.leaving.items()):
            if partition == self._ownership.home or partition in self._asked:
                continue  # until another partition can be the home, or until the link has answered
            announced_ns = self._announced.get(partition)
            if announced_ns is None:
                if self._live_before(since_ns) == 0 and self._is_taken_over(partition, since_ns, now_ns):
                    self._table.set_reads_from(self._process_index, partition, NOT_READING)
                    self._announced[partition] = now_ns
            elif now_ns - announced_ns >= STOP_READING_AFTER_NS:
                self._stop_reading([partition])
                del self._announced[partition]
                self._ownership.left(partition)

    def _is_taken_over(self, partition: int, since_ns: int, now_ns: int) -> bool:
        """Whether the new owner reads the partition by now. For another node this is assumed after HAND_OVER_NS."""
        owner = self._table.map_owner(partition)
        if owner == UNOWNED:
            return now_ns - since_ns >= HAND_OVER_NS
        reads = (self._table.reads_from(process, partition) for process in processes_of(owner))
        return min(reads) != NOT_READING

    # Home and gate.

    def _home_changed(self, now_ns: int) -> None:
        """Make ids for the partitions that are usable now. A new home is tested with a canary at once."""
        ownership = self._ownership
        usable = ownership.usable()
        if ownership.home != NO_HOME:  # the home may be leaving
            self._ids.set_ownership(ownership.partition_count, usable or [ownership.home], ownership.home)
        if ownership.home != self._gate.home:
            self._gate.set_home(ownership.home, ownership.partition_count)
            self._home_since_ns = now_ns
            self._canary.restart()
            log.info("home partition", home=ownership.home, usable=len(usable))
        self._path_changed()

    def _path_changed(self) -> None:
        """Open or close the gate, and update the worker's readiness in the table."""
        if self._is_draining:
            return
        works = self._canary.alive and self._ownership.home != NO_HOME
        if works:
            self._gate.open_gate()
            self._on_up()
        else:
            self._gate.close_gate(errors.NOT_READY, "replies from Kafka do not reach this worker")
        self._table.set_ready(self._process_index, works and self._is_listening)

    # The canary.

    def canary_came(self, tag: int, now_ns: int) -> None:
        """A canary of this process has come back, with this tag in its id."""
        if self._canary.seen(tag, now_ns):
            self._path_changed()

    def _send_canary(self, now_ns: int) -> None:
        if self._ownership.home == NO_HOME:
            return
        if self._canary.is_silent(now_ns):
            log.error("reply path lost: canaries do not come back", home=self._ownership.home)
            self._ownership.rotate_home(now_ns)
            self._home_changed(now_ns)
        if self._ownership.home == NO_HOME or not self._canary.due(now_ns):
            return
        raw = self._ids.make(canary.SLOT, Partitioner.HEADER)
        self._canary.sent(self._ids.tag, now_ns)
        self._link.send_untracked(Record(self._reply_topic, b"", raw, [], self._ownership.home))
