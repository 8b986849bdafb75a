"""The store: takes what its reader brings, keeps it, and tells the workers that wait for it. It runs on one loop.

    located ──> positions            took ──> tables ──> watches of these requests
    watch   ──> what is known now, then every decision      sweep ──> time for the work is over

A worker that has registered a watch is told what is known at that moment, and later what is decided. A decision that
comes between the two cannot be missed, because both happen here, one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from math import inf

import structlog

from fastgw._ctable import Table
from fastgw.config import Config
from fastgw.config.units import NS_PER_MS
from fastgw.dialects import control
from fastgw.dialects.control import BadControl, Cancelled, Control, Layout
from fastgw.ids import ReplyTopic
from fastgw.kept_replies import KeyKnown, Known, State, Topics
from fastgw.mesh.store_frames import HoldingWatch, KeyWatch, Watch
from fastgw.messages import Reply, StoreGauge
from fastgw.store import keys
from fastgw.store.deferred import Deferred
from fastgw.store.entries import Entry, KeyKind
from fastgw.store.holdings import FINAL_MS, Holdings
from fastgw.store.keys import Keys
from fastgw.store.lane import CLOCK_SLACK_MS
from fastgw.store.layouts import Layouts
from fastgw.store.log_values import LogValues
from fastgw.store.requests import RecordKind, decided
from fastgw.store.server import Connection, Server
from fastgw.store.split_replies import SplitReplies
from fastgw.store.tables import Kept, Part, Source, Tables
from fastgw.store.topic_reader import Arrived, Batch, Located, Pulse
from fastgw.store.watches import Watches, Watching
from fastgw.throttle import Throttle
from fastgw.tokens import Secrets

SWEEP_S = 0.25
STUCK_S = 2.0
EXPIRED_AT_ONCE = 2000  # entries that one sweep deletes
SHRUNK_AT_ONCE = 2000  # entries at which one sweep looks while space is short
NO_TOPIC = Topics(bytes(16), 0, False)
UPGRADE = "requests whose replies are kept get 503 until this node is upgraded, too"

_ID = int(KeyKind.ID)

log = structlog.get_logger("fastgw.store")


class Store:
    """Implements `topic_reader.Taker` and `server.Answerer`.

    Attributes:
        topics: what the workers are told about the topic.
        split: sends replies home; it belongs to the reader's thread.
    """

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        tables: Tables,
        values: LogValues,
        table: Table,
        loop: asyncio.AbstractEventLoop,
        announce: Callable[[bytes, Collection[int]], None],
    ) -> None:
        """
        Args:
            values: reads values that the tables have left in the topic.
            table: for heartbeat and figures.
            announce: see `Announcement.write`.
        """
        self.config = config
        self.topics = NO_TOPIC
        self._secrets = secrets
        self._tables = tables
        self._values = values
        self.split = SplitReplies(config, table, config.later.topic, ReplyTopic.LATER)
        self._table = table
        self._loop = loop
        self._announce = announce
        self._server: Server | None = None
        self._watches = Watches()
        self._keys = Keys(tables, values, self._trouble_of, self._beat)
        self._holdings = Holdings(self._keys, self._first_reply, self._trouble_of, self._read_to)
        self._layouts = Layouts(tables)
        self._deferred = Deferred()
        self._room: dict[str, int] = {}  # route -> how many more deferred requests it may have
        self._full_routes: tuple[str, ...] = ()
        self._restored: set[int] = set()  # partitions that were read to their end once
        self._next_offsets: dict[int, int] = {}
        # Partition -> up to which time it was read: that of its last record, or of the last look that found no more.
        self._read_to_ms: dict[int, int] = {}
        self._stuck_since: dict[int, float] = {}  # partition -> since when it does not get on to its end (monotonic)
        self._is_lost = True  # Kafka does not answer
        self._lag = 0
        self._garbage = 0
        self._unknown = 0  # records of an unknown kind
        self._said = Throttle()

    def __repr__(self) -> str:
        return f"<Store {self.config.later.topic}: {self._tables!r}, {self._watches!r}, {self._keys!r}>"

    def start(self, server: Server) -> None:
        """Serve the workers that connect to `server`."""
        self._server = server
        self._sweep()

    def use(self, config: Config, secrets: Secrets) -> None:
        """Go on with another configuration that needs the same parts."""
        self.config, self._secrets = config, secrets
        self.split.use(config)

    # The topic.

    def located(self, located: Located) -> Mapping[int, int]:
        """See `Taker`."""
        self._is_lost = False
        known = {source.partition: offset for source, offset in self._tables.positions().items()
                 if source.topic == located.topic_id}  # fmt: skip
        self._forget_empty(located.topic_id)
        starts, forgotten = {}, set()
        for partition, (first, end) in located.bounds.items():
            start = known.get(partition, first)
            if start > end:
                log.error("kept replies are read again: the topic ends before what was read", partition=partition)
                self._tables.forget_partition(located.topic_id, partition)
                forgotten.add(partition)
                start = first
            starts[partition] = max(start, first)
        self._next_offsets = dict(starts)
        self._stuck_since = {}
        self._restored = set()
        self._layouts.locate(located.topic_id, located.bounds)
        self._keys.locate(located.topic_id, located.bounds.keys(), forgotten, self.config.later.lanes)
        self._tell_topics(self._topics(located.topic_id, len(located.bounds), is_ready=False))
        self._announce(located.topic_id, located.bounds.keys())
        log.info("reads kept replies", topic=self.config.later.topic, partitions=len(starts))
        return starts

    def _forget_empty(self, topic_id: bytes) -> None:
        """Forget the partitions of other topics whose entries have all expired: the tables have room for so many."""
        for source in self._tables.positions():
            if source.topic != topic_id and not self._tables.entries_from(source, 0, 1):
                self._tables.forget_partition(*source)

    def lost(self) -> None:
        """See `Taker`."""
        self._is_lost = True

    def felt(self, pulse: Pulse) -> None:
        """See `Taker`."""
        if self._is_lost:
            self._is_lost = False
            self._tell_again(set(pulse.ends))
        now = time.monotonic()
        self._lag = sum([max(0, end - self._next_offsets.get(partition, 0)) for partition, end in pulse.ends.items()])
        for partition, end in pulse.ends.items():
            if self._next_offsets.get(partition, 0) >= end:
                self._was_read_to(partition, pulse.asked_ms)
                self._stuck_since.pop(partition, None)
            else:
                self._stuck_since.setdefault(partition, now)

    def took(self, batch: Batch) -> None:
        """See `Taker`."""
        self._is_lost = False
        contents = [(arrived, self._content_of(arrived.reply)) for arrived in batch.records]
        self._keep(contents, batch.next_offsets)
        self._next_offsets.update(batch.next_offsets)
        for partition in batch.next_offsets:
            self._stuck_since.pop(partition, None)
        restored = batch.ends.keys() - self._restored
        for arrived, content in contents:
            if self._watches.of(arrived.reply.correlation_id):
                self._tell_all(arrived.reply.correlation_id)
            changed = self._keys.took(arrived, content) if content is not None else None
            if changed is not None:
                self._holdings.changed(changed)
        self._restored |= restored
        self._look_at_readiness()
        if restored:
            self._tell_again(restored)

    def _keep(self, contents: Sequence[tuple[Arrived, Control | Reply | None]], next_offsets: dict[int, int]) -> None:
        entries: dict[int, list[tuple[int, Entry]]] = {partition: [] for partition in next_offsets}
        newest_ms: dict[int, int] = {}
        for arrived, content in contents:
            reply, appended_ms = arrived
            entry = self._entry_of(content, arrived)
            if entry is not None:
                entries[reply.partition].append((reply.offset, entry))
            newest_ms[reply.partition] = max(appended_ms, newest_ms.get(reply.partition, 0))
        for partition, at_ms in newest_ms.items():
            self._was_read_to(partition, at_ms)
        topic_id = self.topics.later_id
        self._tables.append([
            Part(Source(topic_id, partition), found, next_offsets[partition]) for partition, found in entries.items()
        ])  # fmt: skip

    def _content_of(self, reply: Reply) -> Control | Reply | None:
        """The content of a control record, or the reply of a service; None: nothing in this record matters."""
        if not control.is_control(reply):
            return reply
        try:
            content = control.decode(reply, self._secrets, self.topics.later_id)
        except BadControl as bad:
            self._garbage += 1
            self._say_not_taken("garbage", str(bad), reply)
            return None
        if content is None:
            self._unknown += 1
            self._say_not_taken("unknown", "its kind is unknown: another node has a newer version", reply)
        return content

    def _say_not_taken(self, what: str, why: str, reply: Reply) -> None:
        held_back = self._said.admit((what,), time.monotonic_ns())
        if held_back >= 0:
            place = {"partition": reply.partition, "offset": reply.offset}
            log.warning("record not taken", why=why, **place, held_back=held_back)

    def _entry_of(self, content: Control | Reply | None, arrived: Arrived) -> Entry | None:
        """The entry to keep; None: nothing in this record matters later."""
        if isinstance(content, Layout):
            return self._layouts.took(content, arrived.reply.partition, arrived.appended_ms)
        return _entry_of(content, arrived.appended_ms)

    def _look_at_readiness(self) -> None:
        is_ready = 0 < self.topics.later_partitions == len(self._restored)
        told = self._topics(self.topics.later_id, self.topics.later_partitions, is_ready)
        if told.other_lanes != self.topics.other_lanes:
            log.error("another node has another later.lanes", lanes=self.config.later.lanes, other=told.other_lanes)
        if told.newer_layout != self.topics.newer_layout and told.newer_layout:
            layouts = {"layout": control.LAYOUT, "newer": told.newer_layout}
            log.error("another node writes a newer layout", **layouts, hint=UPGRADE)
        if told != self.topics:
            if is_ready and not self.topics.is_ready:
                log.info("kept replies read", entries=self._tables.sizes().entries)
            self._tell_topics(told)

    def _topics(self, topic_id: bytes, partitions: int, is_ready: bool) -> Topics:
        newer_layout = self._layouts.newest(since_ms=_now_ms() - self._keep_ms) if self._layouts else 0
        other_lanes = self._keys.other_lanes()
        return Topics(
            topic_id, partitions, is_ready, self._tables.is_full, other_lanes, newer_layout, self._full_routes
        )

    def _tell_topics(self, topics: Topics) -> None:
        self.topics = topics
        if self._server is not None:
            self._server.tell_topics()

    # Watches.

    def knows_secret(self, secret_id: bytes) -> bool:
        """See `Answerer`."""
        return secret_id in self._secrets.ids

    def watch(self, connection: Connection, watch: Watch) -> None:
        """See `Answerer`."""
        watching = self._watches.add(connection, watch)
        if watch.route:
            self._count_deferred(watch.route)
        self._tell(watching, is_news=False)

    def _count_deferred(self, route: str) -> None:
        self._deferred.add(route, _now_ms())
        self._room[route] = self._room.get(route, 1) - 1
        if self._room[route] <= 0:
            self._look_at_room()
            self._look_at_readiness()  # the workers should know before the next request

    def _look_at_room(self) -> None:
        self._room = {
            route.name: route.max_kept - self._deferred[route.name] - self._keys.kept(route.name)
            for route in self.config.routes
            if route.later
        }
        self._full_routes = tuple([name for name, room in self._room.items() if room <= 0])

    def watch_key(self, connection: Connection, watch: KeyWatch) -> None:
        """See `Answerer`."""
        self._keys.watch(connection, watch, _now_ms())

    def watch_holding(self, connection: Connection, watch: HoldingWatch) -> None:
        """See `Answerer`."""
        self._holdings.watch(connection, watch)

    def unwatch(self, connection: Connection, number: int) -> None:
        """See `Answerer`."""
        self._holdings.unwatch(connection, number)
        self._watches.remove(connection, number)
        self._keys.unwatch(connection, number)

    def gone(self, connection: Connection) -> None:
        """See `Answerer`."""
        self._watches.forget(connection)
        self._keys.gone(connection)
        self._holdings.gone(connection)

    def _tell_all(self, correlation_id: bytes) -> None:
        for watching in list(self._watches.of(correlation_id)):
            self._tell(watching, is_news=True)

    def _tell_again(self, partitions: Set[int]) -> None:
        """Tell those who wait for a request or a key of these partitions, because the store could not before."""
        for watching in [one for one in self._watches.all() if one.watch.partition in partitions]:
            self._tell(watching, is_news=False)
        self._keys.tell_again(partitions, _now_ms())
        self._holdings.tell_again(partitions)

    def _tell(self, watching: Watching, is_news: bool) -> None:
        """Tell a worker what is known about the request of a watch; if nothing is decided, only when it asks."""
        watch = watching.watch
        found = self._first_reply(watch.correlation_id, watch.partition, watch.until_ms)
        if found is not None:
            self._tell_decision(watching, *found)
        elif not is_news or self._is_over(watch):
            watching.listener.tell(State(watch.number, self._undecided(watch)))

    def _first_reply(self, correlation_id: bytes, home: int, until_ms: int) -> tuple[Known, Kept] | None:
        """See `requests.decided`."""
        source = Source(self.topics.later_id, home)
        return decided(self._tables.entries_with_key((KeyKind.ID, correlation_id), source, 0, 1), until_ms)

    def _tell_decision(self, watching: Watching, known: Known, record: Kept) -> None:
        number, source, entry = watching.watch.number, record.source, record.entry
        headers = [(name, value or b"") for name, value in entry.headers]
        if not entry.is_reference:
            watching.listener.tell(State(number, known, source.partition, record.offset, headers, entry.value or b""))
            return

        def told(value: bytes | None) -> None:
            if value is None:  # Kafka does not give it
                watching.listener.tell(State(number, Known.BEHIND))
            else:
                watching.listener.tell(State(number, known, source.partition, record.offset, headers, value))

        self._values.read(source.partition, record.offset, told)

    def _undecided(self, watch: Watch) -> Known:
        if watch.partition not in self._restored:
            return Known.RESTORING
        if self._is_lost or self._is_stuck(watch.partition):
            return Known.BEHIND
        return Known.EXPIRED if self._is_over(watch) else Known.OPEN

    def _trouble_of(self, partition: int) -> KeyKnown | None:
        """Why the store cannot say anything about the keys of this lane."""
        if self.topics.newer_layout:
            return KeyKnown.NEWER_LAYOUT
        if partition not in self._restored:
            return KeyKnown.RESTORING
        return KeyKnown.BEHIND if self._is_lost or self._is_stuck(partition) else None

    def _is_over(self, watch: Watch) -> bool:
        """Whether the topic was read so far that no record can decide the request any more."""
        if not watch.until_ms:
            return False
        return self._read_to_ms.get(watch.partition, 0) >= watch.until_ms + FINAL_MS

    def _is_stuck(self, partition: int) -> bool:
        """Whether there are records that the store does not get, because a transaction before them is open."""
        return time.monotonic() - self._stuck_since.get(partition, inf) > STUCK_S

    def _read_to(self, partition: int) -> int:
        return self._read_to_ms.get(partition, 0)

    def _was_read_to(self, partition: int, at_ms: int) -> None:
        self._read_to_ms[partition] = max(at_ms, self._read_to_ms.get(partition, 0))

    # Time.

    def _sweep(self) -> None:
        read_to_ms = min([self._read_to_ms.get(number, 0) for number in range(self.topics.later_partitions)], default=0)
        for correlation_id in self._watches.over(read_to_ms - FINAL_MS + 1):
            self._tell_all(correlation_id)
        # Also those of a topic that was made anew: its former id does not come back, or only to be read on.
        topic_ids = {source.topic for source in self._tables.positions()}
        self._tables.expire(_now_ms(), dict.fromkeys(topic_ids, self._keep_ms), EXPIRED_AT_ONCE)
        self._tables.shrink(SHRUNK_AT_ONCE)
        self._keys.forget()
        self._deferred.forget(_now_ms() - self.config.later.keep_ns // NS_PER_MS)
        self._look_at_room()
        self._look_at_readiness()
        self._show()
        self._loop.call_later(SWEEP_S, self._sweep)

    @property
    def _keep_ms(self) -> int:
        """How long the tables keep a record.

        Longer than any status URL is valid: `later.keep` counts from its request on. And longer than any key is
        answered, because a successor builds the lanes from the tables.
        """
        keep_ms = (self.config.later.keep_ns + self.config.longest_work_ns) // NS_PER_MS
        return max(keep_ms, self._keys.longest_ms and self._keys.longest_ms + CLOCK_SLACK_MS)

    def _show(self) -> None:
        sizes = self._tables.sizes()
        figures = {
            StoreGauge.READY: int(self.topics.is_ready),
            StoreGauge.BEHIND: int(self._is_lost),
            StoreGauge.ENTRIES: sizes.entries,
            StoreGauge.USED_BYTES: sizes.used_bytes,
            StoreGauge.MAX_BYTES: sizes.max_bytes,
            StoreGauge.WATCHES: len(self._watches) + self._keys.watch_count + len(self._holdings),
            StoreGauge.KEYS: len(self._keys),
            StoreGauge.LAG_RECORDS: self._lag,
            StoreGauge.SPLIT: self.split.count,
            StoreGauge.SPLIT_LOST: self.split.lost,
            StoreGauge.GARBAGE: self._garbage,
            StoreGauge.NEWER_LAYOUT: self.topics.newer_layout,
            StoreGauge.UNKNOWN: self._unknown,
        }
        for gauge, value in figures.items():
            self._table.set_store_gauge(gauge, value)
        self._beat()

    def _beat(self) -> None:
        self._table.store_beats(time.monotonic_ns())


def _now_ms() -> int:
    return int(time.time() * 1000)


def _entry_of(content: Control | Reply | None, appended_ms: int) -> Entry | None:
    """The entry to keep; None: nothing in this record matters."""
    if isinstance(content, Reply):
        names = ((_ID, content.correlation_id),)
        return Entry(RecordKind.REPLY, appended_ms, names, list(content.headers), content.value)
    if isinstance(content, Cancelled):
        return Entry(RecordKind.CANCELLED, appended_ms, ((_ID, content.correlation_id),), [], b"")
    return None if content is None else keys.entry_of(content, appended_ms)
