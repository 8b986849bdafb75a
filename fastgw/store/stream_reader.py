"""Reads the topic of streams: new records of this node's partitions, and older ones for those who are behind.

Two threads wait for Kafka, each with a consumer of its own; everything else happens on the store's loop. Each hands its
records over and waits until the loop has taken them, so no queue can grow between the two.

    live reader   follows the partition map; a partition that this node loses is read until its last follower ends
    scan reader   reads one stretch after the other, while anybody is behind

The live reader puts into the shared table how far it has read the partitions of this node. Its successor, after a death
of the store, goes on from there: followers ask for what they miss themselves, but records on another partition than
their home have no follower, and somebody has to send them home.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fastgw import table
from fastgw._ctable import PARTITIONS_MAX, UNKNOWN_POSITION, UNOWNED, Table
from fastgw.config import Config
from fastgw.dialects.plain import decode_reply
from fastgw.ids import ReplyTopic
from fastgw.kafka import client_log, cluster
from fastgw.kafka.properties import store_consumer_properties
from fastgw.messages import Reply
from fastgw.store.follows import Follows, Scan, Seen
from fastgw.store.split_replies import SplitReplies
from fastgw.store.topic import LOOK_TIMEOUT_S, NO_TOPIC_ID, look_up, next_messages
from fastgw.throttle import Troubles

log = structlog.get_logger("fastgw.store")

BATCH = 64  # records: small, because those who follow give credit between two batches
POLL_S = 0.05
LOOK_EVERY_S = 10.0
LOOK_AGAIN_S = 0.5  # after a look that failed
IDLE_S = 0.5  # how long the scan reader sleeps if nobody wakes it

OnLoop = Callable[[Callable[[], Any]], Any]
"""Runs a function on the loop, waits for it, and returns its result."""


class StreamReader:
    """Both threads, until `stop`."""

    def __init__(
        self,
        config: Config,
        shared: Table,
        on_loop: OnLoop,
        on_failure: Callable[[BaseException], None],
        on_topic: Callable[[], object],
    ) -> None:
        """
        Args:
            shared: says which partitions belong to this node, and how far they were read.
            on_failure: called when a thread ends with an error. Errors of Kafka do not end it.
            on_topic: called on the loop when `follows.topic` has changed.
        """
        self._config = config
        self._topic = config.streams.topic
        self._table = shared
        self._log = table.log_of(config.kafka.bootstrap, config.streams.topic)
        self._owned: frozenset[int] = frozenset()  # partitions of this node
        self._on_loop = on_loop
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._scan_wanted = threading.Event()
        self._is_stale = False  # the live reader must look which partitions are wanted; set by the loop
        self._troubles = Troubles()
        self.follows = Follows(
            self._look_again,
            self._scan_wanted.set,
            on_topic,
            config.store.max_replays,
            config.store.max_scan_bytes,
        )
        self.split = SplitReplies(config, shared, config.streams.topic, ReplyTopic.STREAMS)
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
            for run, name in ((self._read_live, "stream reader"), (self._read_again, "stream scans"))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop reading. The loop must run meanwhile, or have stopped to take anything."""
        self._stopping.set()
        self._scan_wanted.set()
        ends = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._on_failure(error)

    def _client_settings(self, client_id: str) -> dict[str, Any]:
        return {
            **store_consumer_properties(self._config, client_id),
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 16 << 10,  # of what is fetched ahead
            **client_log.listening(),
        }

    # New records.

    def _look_again(self) -> None:
        self._is_stale = True

    def _read_live(self) -> None:
        while not self._stopping.is_set():
            consumer = Consumer(self._client_settings("fastgw-store-streams"))
            try:
                self._follow_topic(consumer)
            finally:
                consumer.close()

    def _follow_topic(self, consumer: Consumer) -> None:
        """Read on until the offsets that are read do not exist any more."""
        reading: dict[int, int] = {}
        map_version, partitions, topic_id = -1, 0, NO_TOPIC_ID
        next_look_s = 0.0
        while not self._stopping.is_set():
            now_s = time.monotonic()
            if now_s >= next_look_s:
                topic_id, partitions = self._look(consumer) or (topic_id, partitions)
                next_look_s = now_s + (LOOK_EVERY_S if partitions else LOOK_AGAIN_S)
                map_version = -1
            if partitions and (self._is_stale or map_version != self._table.map_version()):
                map_version = self._table.map_version()
                if not self._assign_wanted(consumer, reading, topic_id, partitions):
                    next_look_s = now_s + LOOK_AGAIN_S
            if not reading:
                self._stopping.wait(POLL_S)
            elif not self._take_live(consumer, reading):
                return

    def _look(self, consumer: Consumer) -> tuple[bytes, int] | None:
        """Id and partitions of the topic; None: Kafka does not say."""
        try:
            topic_id, partitions = look_up(consumer, self._config, self._topic)
        except KafkaException as error:
            # Once, and not every second of an outage, in which the error may change.
            if self._troubles.begins(("streams",), "cannot be looked at"):
                log.warning("cannot look up the topic of streams", topic=self._topic, error=cluster.reason(error))
            self._on_loop(self.follows.lost)
            return None
        self._troubles.begins(("streams",), "")
        return topic_id, len(partitions)

    def _assign_wanted(self, consumer: Consumer, reading: dict[int, int], topic_id: bytes, partitions: int) -> bool:
        """Begin with the partitions that are wanted now, and end with the others. False: Kafka does not answer."""
        self._is_stale = False
        _, owners = self._table.read_map()
        owned = frozenset(one for one in range(partitions) if owners and owners[one % len(owners)] != UNOWNED)
        wanted = self._on_loop(lambda: self._owned_and_wanted(owned)) & frozenset(range(partitions))
        self._forget_positions(self._owned - owned)
        self._owned = owned
        dropped = reading.keys() - wanted
        gained = sorted(wanted - reading.keys())
        try:
            starts = {one: self._start_of(consumer, one) for one in gained}
        except KafkaException as error:
            log.warning("cannot look up the ends of streams", topic=self._topic, error=cluster.reason(error))
            self._is_stale = True
            return False
        if dropped:
            consumer.incremental_unassign([TopicPartition(self._topic, one) for one in dropped])
        if starts:
            consumer.incremental_assign([TopicPartition(self._topic, one, start) for one, start in starts.items()])
        for one in dropped:
            del reading[one]
        reading.update(starts)
        self._on_loop(lambda: self.follows.located(topic_id, partitions, starts, dropped))
        self._publish(starts)
        if gained or dropped:
            log.info("reads streams", topic=self._topic, partitions=len(reading))
        return True

    def _owned_and_wanted(self, owned: frozenset[int]) -> frozenset[int]:
        self.follows.owns(owned)
        self._is_stale = False  # the answer is here already
        return self.follows.wanted()

    def _start_of(self, consumer: Consumer, partition: int) -> int:
        """Where reading begins: where the last store of this node has stopped, otherwise at the end."""
        where = TopicPartition(self._topic, partition)
        first, end = map(int, consumer.get_watermark_offsets(where, timeout=LOOK_TIMEOUT_S))
        if partition not in self._owned or partition >= PARTITIONS_MAX:
            return end
        position = self._table.streams_read_to(partition, self._log)
        return end if position == UNKNOWN_POSITION or position > end else max(first, position)

    def _publish(self, next_offsets: Mapping[int, int]) -> None:
        for partition, offset in next_offsets.items():
            if partition in self._owned and partition < PARTITIONS_MAX:
                self._table.set_streams_read_to(partition, self._log, offset)

    def _forget_positions(self, lost: Iterable[int]) -> None:
        """The positions of these partitions are outdated when this node owns them again."""
        for partition in lost:
            if partition < PARTITIONS_MAX:
                self._table.set_streams_read_to(partition, self._log, UNKNOWN_POSITION)

    def _take_live(self, consumer: Consumer, reading: dict[int, int]) -> bool:
        """Take the next records. False: the log was cut, and reading begins anew."""
        messages = next_messages(consumer, BATCH, POLL_S)
        seen, next_offsets = [], {}
        replies = []
        for message in messages:
            error = message.error()
            partition = message.partition()
            if error is None:
                reply = decode_reply(message)
                replies.append(reply)
                seen.append(_seen(reply))
                next_offsets[partition] = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                next_offsets[partition] = message.offset()
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                log.error("streams are read anew: the topic does not have what was to be read", partition=partition)
                return False
            else:
                client_log.CLIENT_LOG.client_error(error)
        if not next_offsets:
            return True
        if left := self.split.send_home(replies):  # these streams fail: their items are missing
            log.error("items of streams did not reach their partition", records=len(left))
        reading.update(next_offsets)
        self._on_loop(lambda: self.follows.took(seen, next_offsets))
        self._publish(next_offsets)
        return True

    # Older records.

    def _read_again(self) -> None:
        consumer: Any = None
        at: Scan | None = None
        while not self._stopping.is_set():
            scan = self._on_loop(self.follows.next_scan)
            if scan is None:
                self._scan_wanted.wait(IDLE_S)
                self._scan_wanted.clear()
                continue
            if consumer is None:  # most stores never need one
                consumer = Consumer(self._client_settings("fastgw-store-scans"))
            if scan != at:
                consumer.assign([TopicPartition(self._topic, scan.partition, scan.offset)])
            at = self._take_again(consumer, scan)
        if consumer is not None:
            consumer.close()

    def _take_again(self, consumer: Consumer, scan: Scan) -> Scan | None:
        """Take the next records of a scan. Returns where the consumer stands; None: nowhere."""
        seen, next_offset = [], scan.offset
        for message in next_messages(consumer, BATCH, POLL_S):
            error = message.error()
            if error is None:
                seen.append(_seen(decode_reply(message)))
                next_offset = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                next_offset = max(next_offset, message.offset())
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self._tell_overtaken(consumer, scan)
                return None
            else:
                client_log.CLIENT_LOG.client_error(error)
        self._on_loop(lambda: self.follows.scanned(scan, seen, next_offset))
        return Scan(scan.partition, next_offset)

    def _tell_overtaken(self, consumer: Consumer, scan: Scan) -> None:
        where = TopicPartition(self._topic, scan.partition)
        try:
            first, _ = consumer.get_watermark_offsets(where, timeout=LOOK_TIMEOUT_S)
        except KafkaException as error:
            log.warning("cannot look up the start of streams", topic=self._topic, error=cluster.reason(error))
            self._stopping.wait(LOOK_AGAIN_S)
            return
        self._on_loop(lambda: self.follows.overtaken(scan.partition, max(first, scan.offset + 1)))


def _seen(reply: Reply) -> Seen:
    return Seen(reply.partition, reply.correlation_id, (reply.offset, reply.headers, reply.value))
