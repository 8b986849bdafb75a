"""The state of the store process, from its figures in the shared table."""

from __future__ import annotations

from typing import NamedTuple

from fastgw._ctable import Table
from fastgw.messages import StoreGauge

HEARTBEAT_FRESH_NS = 5_000_000_000


class StoreState(NamedTuple):
    """What the store has reported last."""

    heartbeat_age_ns: int  # -1: it never had one
    is_ready: bool  # it has read its topic to the end
    is_behind: bool  # it gets no new records
    entries: int
    used_bytes: int
    max_bytes: int
    watches: int
    lag_records: int
    split: int
    split_lost: int
    garbage: int
    keys: int
    follows: int
    behind: int  # of the follows
    stream_partitions: int
    newer_layout: int  # the format of records that another node writes and this one cannot read; 0: none
    unknown: int  # records of an unknown kind
    stream_replays: int
    stream_split: int
    stream_split_lost: int
    stream_garbage: int

    @property
    def trouble(self) -> str:
        """Why it cannot answer now; empty if it can."""
        if self.heartbeat_age_ns < 0:
            return "it has not started yet"
        if self.heartbeat_age_ns > HEARTBEAT_FRESH_NS:
            return f"no heartbeat for {self.heartbeat_age_ns / 1e9:.1f} s"
        if not self.is_ready:
            return f"it still reads its topic, {self.lag_records} records are left"
        return "it gets no new records from Kafka" if self.is_behind else ""

    @property
    def warning(self) -> str:
        """Why requests that need it get 503; empty if they are served. Readiness depends on `trouble` alone."""
        newer = f"another node writes records of layout {self.newer_layout}, which this version cannot read: upgrade it"
        return self.trouble or (newer if self.newer_layout else "")


def store_state(table: Table, now_ns: int) -> StoreState:
    """The store's state; `now_ns` is monotonic."""
    beat_ns = table.store_beat_ns()
    return StoreState(
        max(0, now_ns - beat_ns) if beat_ns else -1,
        bool(table.store_gauge(StoreGauge.READY)),
        bool(table.store_gauge(StoreGauge.BEHIND)),
        table.store_gauge(StoreGauge.ENTRIES),
        table.store_gauge(StoreGauge.USED_BYTES),
        table.store_gauge(StoreGauge.MAX_BYTES),
        table.store_gauge(StoreGauge.WATCHES),
        table.store_gauge(StoreGauge.LAG_RECORDS),
        table.store_gauge(StoreGauge.SPLIT),
        table.store_gauge(StoreGauge.SPLIT_LOST),
        table.store_gauge(StoreGauge.GARBAGE),
        table.store_gauge(StoreGauge.KEYS),
        table.store_gauge(StoreGauge.FOLLOWS),
        table.store_gauge(StoreGauge.FOLLOWS_BEHIND),
        table.store_gauge(StoreGauge.STREAM_PARTITIONS),
        table.store_gauge(StoreGauge.NEWER_LAYOUT),
        table.store_gauge(StoreGauge.UNKNOWN),
        table.store_gauge(StoreGauge.STREAM_REPLAYS),
        table.store_gauge(StoreGauge.STREAM_SPLIT),
        table.store_gauge(StoreGauge.STREAM_SPLIT_LOST),
        table.store_gauge(StoreGauge.STREAM_GARBAGE),
    )
