"""The formats of records in the topic of kept replies: which other nodes write a newer one than this node can read.

Nodes are upgraded one after the other. A node of the old version cannot judge what a newer one has written: a claim
that it does not see may have won. So it has to refuse requests whose replies are kept, as long as such records are
kept. All control records state their format, and each store announces its own when it starts (`announcement`).

The tables keep one such record for each minute and partition, because a successor of this store reads on behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fastgw.dialects import control
from fastgw.dialects.control import Layout
from fastgw.store.entries import Entry, Key, KeyKind
from fastgw.store.requests import RecordKind
from fastgw.store.tables import Source, Tables

KEPT_EVERY_MS: Final = 60_000
READ_AT_ONCE = 1000  # entries

_NEWER: Final[Key] = (int(KeyKind.LAYOUT), b"")  # of all records of newer formats
_NUMBER = "layout"  # header of an entry


class Layouts:
    """The newer formats that this store has met."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._met: dict[int, int] = {}  # format -> when a record of it was appended last
        self._kept_at: dict[int, int] = {}  # partition -> when the last record that the tables keep was appended

    def __repr__(self) -> str:
        return f"<Layouts newer={sorted(self._met)}>"

    def __len__(self) -> int:
        """The number of formats that were met, whenever that was."""
        return len(self._met)

    def locate(self, topic_id: bytes, partitions: Iterable[int]) -> None:
        """The topic was found: begin with what the tables know of it."""
        self._met, self._kept_at = {}, {}
        for partition in partitions:
            self._learn(Source(topic_id, partition))

    def _learn(self, source: Source) -> None:
        offset = 0
        while entries := self._tables.entries_with_key(_NEWER, source, offset, READ_AT_ONCE):
            for kept in entries:
                self._meet(int(kept.entry.headers[0][1] or b"0"), kept.entry.timestamp_ms)
                self._kept_at[source.partition] = kept.entry.timestamp_ms
            offset = entries[-1].offset + 1

    def _meet(self, layout: int, appended_ms: int) -> None:
        if layout > control.LAYOUT:  # otherwise an older version has kept it
            self._met[layout] = max(appended_ms, self._met.get(layout, 0))

    def took(self, layout: Layout, partition: int, appended_ms: int) -> Entry | None:
        """A record of this format was read. Returns what to keep of it; None: nothing."""
        if layout.layout <= control.LAYOUT:
            return None
        is_known = layout.layout in self._met and appended_ms < self._kept_at.get(partition, 0) + KEPT_EVERY_MS
        self._meet(layout.layout, appended_ms)
        if is_known:
            return None
        self._kept_at[partition] = appended_ms
        return Entry(RecordKind.LAYOUT, appended_ms, (_NEWER,), [(_NUMBER, b"%d" % layout.layout)], b"")

    def newest(self, since_ms: int) -> int:
        """The newest of the formats that were met since then; 0: there is none that this node cannot read."""
        return max([layout for layout, met_ms in self._met.items() if met_ms >= since_ms], default=0)
