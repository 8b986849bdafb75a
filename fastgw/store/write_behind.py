"""Tables that collect what is appended, and write several batches in one transaction.

A transaction costs as much as several records, and batches are small while requests wait for them. What is not written
yet is never missed: whatever reads entries, positions or sizes writes first. A store that is killed before has written
less, and its successor reads the rest from Kafka again. Only the log decides, so it tells the workers the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from fastgw.errors import StoreDamaged, StoreError
from fastgw.store.entries import Key
from fastgw.store.tables import PLACES_MAX, Kept, Part, Sizes, Source, Tables

WRITE_AFTER_S = 0.01
COLLECTED_MAX = 1000  # entries

log = structlog.get_logger("fastgw.store")


class WriteBehind(Tables):
    """See `Tables`. An error of a write that nobody waits for goes to the loop's exception handler."""

    def __init__(self, path: Path, max_bytes: int, loop: asyncio.AbstractEventLoop, **more: Any) -> None:
        """`loop` runs the writes that nothing else has caused."""
        super().__init__(path, max_bytes, **more)
        self._loop = loop
        self._collected: list[Part] = []
        self._count = 0  # of their entries

    def append(self, parts: Sequence[Part]) -> None:
        if not self._collected:
            self._loop.call_later(WRITE_AFTER_S, self.write)
        self._collected += parts
        self._count += sum([len(part.entries) for part in parts])
        if self._count >= COLLECTED_MAX:
            self.write()

    def write(self) -> None:
        """Write what was collected.

        Raises:
            StoreError: the process ends, and its successor builds the tables again, or reads on.
        """
        if not self._collected:
            return
        try:
            super().append(self._collected)
        except StoreDamaged:
            raise
        except StoreError as error:
            # What was not written stays: no later batch, nor its position, may be written without it.
            log.error("kept replies not written", error=str(error))
            raise
        self._collected, self._count = [], 0

    def get(self, kind: int, name: bytes, at_most: int = PLACES_MAX) -> list[Kept]:
        self.write()
        return super().get(kind, name, at_most)

    def entries_from(self, source: Source, offset: int, at_most: int = 1000) -> list[Kept]:
        self.write()
        return super().entries_from(source, offset, at_most)

    def entries_with_key(self, key: Key, source: Source, offset: int, at_most: int = 1000) -> list[Kept]:
        self.write()
        return super().entries_with_key(key, source, offset, at_most)

    def forget_partition(self, topic: bytes, partition: int) -> None:
        self.write()
        super().forget_partition(topic, partition)

    def positions(self) -> dict[Source, int]:
        self.write()
        return super().positions()

    def sizes(self) -> Sizes:
        self.write()
        return super().sizes()

    def close(self) -> None:
        try:
            self.write()
        finally:
            super().close()
