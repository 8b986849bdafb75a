"""Turns the bytes that a fuzzer makes up into what a target needs; never runs out: then it gives what is smallest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class Draw:
    """Takes from the front of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, most: int) -> int:
        """From 0 to `most`, which is below 65,536."""
        return int.from_bytes(self.bytes(1 if most < 256 else 2), "big") % (most + 1)

    def bytes(self, most: int) -> bytes:
        """The next `most` bytes, or those that are left."""
        taken = self._data[self._at : self._at + most]
        self._at += most
        return taken

    def some_bytes(self, most: int = 64) -> bytes:
        """Up to `most` bytes."""
        return self.bytes(self.number(min(most, 65_535)))

    def some_text(self, most: int = 64) -> str:
        """Any text; what is no UTF-8 becomes U+FFFD, as it does in both fronts and in the Kafka client."""
        return self.some_bytes(most).decode("utf-8", "replace")

    def broken_text(self, most: int = 64) -> str:
        """Any text, lone surrogates included."""
        return self.some_bytes(most).decode("utf-8", "surrogateescape")

    def choice(self, values: Sequence[Value]) -> Value:
        return values[self.number(len(values) - 1)]

    def rest(self) -> bytes:
        return self.bytes(len(self._data))

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)
