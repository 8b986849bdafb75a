"""Which worker gets which records of the topic of streams: from now on, or from an offset on, as fast as it takes them.

    live reader ──records──> took ──> follower with credit ──> ITEMS
                              │  └──> no credit: a short queue
                              │                     │ full: the follower is *behind*
    scan reader ──records──> scanned ──> followers that are behind, until they have reached the live reader

A follower gives credit for a number of bytes, and more when its client has taken them. So one operation serves clients
that keep up, clients that are slow, and workers that register again after a restart of the store: the log is the
buffer. Records of one follower are always delivered in the order of the log, each once.

A client that comes back may need much of the log to be read for it. So a replay has two limits: how many of them are
served at the same time, and how much of other records is read for one of them.

Everything here runs on the store's loop and has no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from fastgw.followed import LIVE, OVERTAKEN, REPLAY_CAP, SCAN_CAP, TOO_LARGE, FollowedRecord, StreamTopic, size_of
from fastgw.mesh import store_frames
from fastgw.mesh.framing import FrameError
from fastgw.mesh.store_frames import Credit, Follow, FollowEnd, Following, Items, Unfollow

QUEUE_BYTES = 2 << 20  # of one follower: what one look at Kafka may bring beyond its credit
QUEUES_BYTES = 64 << 20  # of all followers
SCANS_IN_ROW = 64
FRAME_BYTES = 1 << 20  # records that travel in one frame, unless a single one is larger


class Listener(Protocol):
    """A connection of a worker."""

    def send(self, frame: bytes) -> None: ...


class Seen(NamedTuple):
    """A record of the topic as a reader brings it."""

    partition: int
    correlation_id: bytes
    record: FollowedRecord


class Scan(NamedTuple):
    """What to read again."""

    partition: int
    offset: int


class Follower:
    """One follow of one worker.

    Attributes:
        position: the next offset that it needs; LIVE until its partition is read. While it is not behind, only the
            first one: a scan may have overtaken the live reader.
        scan_left: a replay: so many more bytes of records of others may be read for it.
    """

    def __init__(self, listener: Listener, follow: Follow, max_scan_bytes: int) -> None:
        self.listener = listener
        self.number = follow.number
        self.correlation_id = follow.correlation_id
        self.partition = follow.partition
        self.position = follow.position
        self.credit = follow.credit
        self.is_replay = follow.is_replay
        self.scan_left = max_scan_bytes
        self.queue: deque[FollowedRecord] = deque()  # beyond its credit
        self.queued_bytes = 0
        self.unsent: list[FollowedRecord] = []  # leave together
        self.unsent_bytes = 0
        self.is_behind = False
        self.is_stuck = False  # during one batch of a scan: there was no room for a record

    def __repr__(self) -> str:
        state = "behind" if self.is_behind else "live"
        return f"<Follower {self.correlation_id!r} {state} at {self.position}, credit {self.credit}>"


class Follows:
    """All follows of all connections.

    Attributes:
        topic: what the workers are told about the topic.
        queued_bytes: what is queued for all followers.
        replays: how often a follower has begun to read from the log again.
    """

    def __init__(
        self,
        on_wanted: Callable[[], object],
        on_scan: Callable[[], object],
        on_topic: Callable[[], object],
        max_replays: int,
        max_scan_bytes: int,
    ) -> None:
        """
        Args:
            on_wanted: `wanted` has changed.
            on_scan: `next_scan` may have something.
            on_topic: `topic` has changed.
            max_replays, max_scan_bytes: see `config.schema.Store`.
        """
        self.topic = StreamTopic(bytes(16), 0, [])
        self.queued_bytes = 0
        self.replays = 0
        self._on_wanted = on_wanted
        self._on_scan = on_scan
        self._on_topic = on_topic
        self._max_replays = max_replays
        self._max_scan_bytes = max_scan_bytes
        self._replaying: set[Follower] = set()
        self._by_id: dict[bytes, list[Follower]] = {}
        self._numbers: dict[Listener, dict[int, Follower]] = {}
        self._next: dict[int, int] = {}  # partition -> the next offset that the live reader brings
        self._owned: frozenset[int] = frozenset()
        self._behind: dict[int, dict[Follower, None]] = {}  # by partition
        self._to_flush: dict[Follower, None] = {}
        self._scan_at = Scan(-1, 0)  # where the last scan has ended
        self._scans_in_row = 0  # that went on where the one before had ended

    def __repr__(self) -> str:
        return f"<Follows {len(self)}, {self.behind} behind, {self.queued_bytes} bytes queued>"

    def __len__(self) -> int:
        return sum(map(len, self._numbers.values()))

    @property
    def behind(self) -> int:
        """How many followers are read to from the log again."""
        return sum(map(len, self._behind.values()))

    # Workers.

    def follow(self, listener: Listener, follow: Follow) -> None:
        """Begin a follow. A number that is in use is replaced."""
        self.unfollow(listener, Unfollow(follow.number))
        follower = Follower(listener, follow, self._max_scan_bytes)
        self._numbers.setdefault(listener, {})[follow.number] = follower
        self._by_id.setdefault(follow.correlation_id, []).append(follower)
        if follow.partition in self._next:
            self._begin(follower)
        else:
            self._on_wanted()

    def credit(self, listener: Listener, credit: Credit) -> None:
        """A follower can take more."""
        follower = self._numbers.get(listener, {}).get(credit.number)
        if follower is None:
            return
        follower.credit += credit.credit
        while follower.queue and follower.credit > 0:
            record = follower.queue.popleft()
            size = size_of(record[2])
            follower.queued_bytes -= size
            self.queued_bytes -= size
            self._send(follower, record)
        self.flush()
        if follower.is_behind and follower.credit > 0:
            self._on_scan()

    def unfollow(self, listener: Listener, unfollow: Unfollow) -> None:
        """End a follow; an unknown number is none."""
        follower = self._numbers.get(listener, {}).pop(unfollow.number, None)
        if follower is not None:
            self._forget(follower)

    def gone(self, listener: Listener) -> None:
        """The connection has ended, and its follows with it."""
        for follower in self._numbers.pop(listener, {}).values():
            self._forget(follower)

    def _forget(self, follower: Follower) -> None:
        others = self._by_id[follower.correlation_id]
        others.remove(follower)
        if not others:
            del self._by_id[follower.correlation_id]
        self._behind.get(follower.partition, {}).pop(follower, None)
        self._to_flush.pop(follower, None)
        self._replaying.discard(follower)
        self.queued_bytes -= follower.queued_bytes
        if follower.partition not in self._owned:
            self._on_wanted()

    def _end(self, follower: Follower, why: str) -> None:
        self.flush()
        follower.listener.send(store_frames.encode(FollowEnd(follower.number, why)))
        self.unfollow(follower.listener, Unfollow(follower.number))

    # The live reader.

    def owns(self, partitions: Iterable[int]) -> None:
        """These partitions belong to this node now."""
        owned = frozenset(partitions)
        if owned != self._owned:
            self._owned = owned
            self._on_wanted()

    def wanted(self) -> frozenset[int]:
        """The partitions whose new records are needed: those of this node, and those that have followers."""
        return self._owned | {one.partition for each in self._numbers.values() for one in each.values()}

    def located(self, topic_id: bytes, partitions: int, starts: Mapping[int, int], dropped: Iterable[int]) -> None:
        """The live reader has changed what it reads.

        Args:
            topic_id, partitions: of the topic.
            starts: partitions that it reads from now on, and the first offset of each.
            dropped: partitions that it does not read any more.
        """
        for partition in dropped:
            self._next.pop(partition, None)
        for partition, start in starts.items():
            before = self._next.get(partition)
            self._next[partition] = start
            for follower in self._followers_of(partition):
                if before is None:
                    self._begin(follower)
                elif before < start and not follower.is_behind:  # what lies between was not brought
                    self._fall_behind(follower, max(before, follower.position))
        homes = sorted(self._owned & self._next.keys())
        told = StreamTopic(topic_id, partitions, homes)
        if told != self.topic:
            self.topic = told
            self._on_topic()

    def lost(self) -> None:
        """The topic is not there, or Kafka does not answer: no new streams."""
        if self.topic.homes:
            self.topic = StreamTopic(self.topic.topic_id, self.topic.partitions, [])
            self._on_topic()

    def took(self, seen: Sequence[Seen], next_offsets: Mapping[int, int]) -> None:
        """The next records, those of one partition in order, and where the live reader goes on.

        A record on another partition than its home does not count: it is sent home (`split_replies`), and counts there.
        """
        by_id = self._by_id
        for partition, correlation_id, record in seen:
            for follower in by_id.get(correlation_id, ()):
                if follower.partition == partition and not follower.is_behind and record[0] >= follower.position:
                    self._deliver(follower, record)
        self._next.update(next_offsets)
        self.flush()

    def _followers_of(self, partition: int) -> list[Follower]:
        return [one for each in self._numbers.values() for one in each.values() if one.partition == partition]

    def _begin(self, follower: Follower) -> None:
        """The partition of the follower is read by now."""
        following = self._next[follower.partition]
        if follower.position == LIVE:
            follower.position = following
        if follower.position < following:
            if follower.is_replay:
                if len(self._replaying) >= self._max_replays:
                    self._end(follower, REPLAY_CAP)
                    return
                self._replaying.add(follower)
            self._fall_behind(follower, follower.position)
        follower.listener.send(store_frames.encode(Following(follower.number, follower.position)))

    def _deliver(self, follower: Follower, record: FollowedRecord) -> None:
        """A new record for a follower that is not behind."""
        if follower.credit > 0 and not follower.queue:
            self._send(follower, record)
        elif not self._put_by(follower, record):
            self._fall_behind(follower, record[0])

    def _put_by(self, follower: Follower, record: FollowedRecord) -> bool:
        """Queue a record. False: there is no room."""
        size = size_of(record[2])
        if follower.queued_bytes + size > QUEUE_BYTES or self.queued_bytes + size > QUEUES_BYTES:
            return False
        follower.queue.append(record)
        follower.queued_bytes += size
        self.queued_bytes += size
        return True

    def _fall_behind(self, follower: Follower, offset: int) -> None:
        follower.is_behind = True
        self.replays += 1
        follower.position = offset
        self._behind.setdefault(follower.partition, {})[follower] = None
        self._on_scan()

    # The scan reader.

    def next_scan(self) -> Scan | None:
        """What to read again now; None: nobody is behind who can take more.

        One stretch goes on for a while, whoever else falls behind meanwhile: a follower at an earlier position would
        otherwise interrupt it, and where clients come back all the time, nobody would reach the live reader. Then the
        next position has its turn, in this partition or another, so that a long way does not keep the others waiting.
        """
        candidates = {
            Scan(partition, one.position)
            for partition, followers in self._behind.items()
            for one in followers
            if one.credit > 0 and not one.queue
        }
        if not candidates:
            return None
        if self._scan_at in candidates and self._scans_in_row < SCANS_IN_ROW:
            self._scans_in_row += 1
            return self._scan_at
        later = [scan for scan in candidates if scan > self._scan_at]
        self._scan_at = min(later or candidates)
        self._scans_in_row = 1
        return self._scan_at

    def scanned(self, scan: Scan, seen: Sequence[Seen], next_offset: int) -> None:
        """Records that were read again, from `scan.offset` up to `next_offset`."""
        self._scan_at = Scan(scan.partition, next_offset)
        # Not those that need earlier records.
        reached = {one: None for one in self._behind.get(scan.partition, ()) if one.position >= scan.offset}
        for _, correlation_id, record in seen:
            for follower in self._by_id.get(correlation_id, ()):
                if follower in reached and not follower.is_stuck:
                    self._deliver_again(follower, record)
        read_bytes = sum([size_of(record[2]) for _, _, record in seen])
        for follower in reached:
            self._advance(follower, next_offset, read_bytes)
        self.flush()

    def _deliver_again(self, follower: Follower, record: FollowedRecord) -> None:
        if record[0] < follower.position:
            return
        if follower.credit > 0 and not follower.queue:
            self._send(follower, record)
        elif not self._put_by(follower, record):
            follower.is_stuck = True
            follower.position = record[0]
            return
        follower.scan_left += size_of(record[2])  # it is one of its own

    def _advance(self, follower: Follower, next_offset: int, read_bytes: int) -> None:
        if follower.is_stuck:
            follower.is_stuck = False
            return
        follower.position = max(follower.position, next_offset)
        if follower.position >= self._next.get(follower.partition, follower.position + 1):
            follower.is_behind = False
            self._behind[follower.partition].pop(follower, None)
            self._replaying.discard(follower)
        elif follower in self._replaying:
            follower.scan_left -= read_bytes
            if follower.scan_left < 0:
                self._end(follower, SCAN_CAP)

    def overtaken(self, partition: int, first: int) -> None:
        """The log of this partition begins at `first` by now: what was before it is lost."""
        for follower in list(self._behind.get(partition, ())):
            if follower.position < first:
                self._end(follower, OVERTAKEN)

    # The way out.

    def _send(self, follower: Follower, record: FollowedRecord) -> None:
        size = size_of(record[2])
        follower.credit -= size
        if follower.unsent and follower.unsent_bytes + size > FRAME_BYTES:
            self._flush(follower)
        follower.unsent.append(record)
        follower.unsent_bytes += size
        self._to_flush[follower] = None

    def flush(self) -> None:
        """Send what has gathered."""
        while self._to_flush:
            self._flush(self._to_flush.popitem()[0])

    def _flush(self, follower: Follower) -> None:
        records, follower.unsent, follower.unsent_bytes = follower.unsent, [], 0
        if not records:
            return
        try:
            follower.listener.send(store_frames.encode(Items(follower.number, records)))
        except FrameError:  # a single record that no frame can carry
            self._end(follower, TOO_LARGE)
