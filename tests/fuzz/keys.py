"""Promise: whatever a client sends as a body, taking a record key from it gives bytes or KeyMissing; and any text is a
place for a key or a ValueError when the configuration is read."""

from __future__ import annotations

from fastgw.config import values
from fastgw.core import record_key
from fastgw.errors import KeyMissing
from tests.fuzz.drawing import Draw

PLACES = ["body./a", "body./a/0/b", "body./", "body./a~1b", "path.id", "header.x-a"]
SEEDS = [
    b'\0{"a": 1}',
    b'\1{"a": [{"b": "x"}]}',
    b'\2{"": null}',
    b'\3{"a/b": 1e999}',
    b'\0{"a": 123456789012345678901234567890}',
    b"\0" + b"[" * 2000,
    b'\0{"a": "\\ud800"}',
    b"\7\x06body./\0",
]


class NoHeaders:
    def get(self, _name: str) -> str | None:
        return None

    def get_all(self, _name: str) -> list[str]:
        return []


def target(data: bytes) -> None:
    draw = Draw(data)
    number = draw.number(7)
    place = PLACES[number] if number < len(PLACES) else draw.some_text(40)
    try:
        place = values.record_key(place)
    except ValueError:
        return
    key_of = record_key.key_of(place)
    if key_of is None:
        return
    try:
        assert isinstance(key_of(NoHeaders(), (("id", "7"),), draw.rest()), bytes)
    except KeyMissing:
        return
