"""Short ways to entries, parts and tables for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterable

from fastgw.store.entries import Entry, KeyKind
from fastgw.store.tables import Part, Source, Tables

TOPIC, OTHER_TOPIC = b"T" * 16, b"U" * 16
SOURCE = Source(TOPIC, 0)
MAX_BYTES = 16 << 20
BOOTED_S = 1_000_000.0


def id_of(offset: int) -> bytes:
    return b"id-%d" % offset


def entry(offset: int, value: bytes | None = b"value", *, at_ms: int | None = None, keys=None) -> Entry:
    """The entry of a record; its time is its offset, and it is found by `id_of` its offset."""
    keys = ((KeyKind.ID, id_of(offset)),) if keys is None else keys
    return Entry(1, offset if at_ms is None else at_ms, keys, [("status", b"200")], value)


def part(offsets: Iterable[int], source: Source = SOURCE, next_offset: int | None = None, **fields) -> Part:
    offsets = list(offsets)
    if next_offset is None:
        next_offset = offsets[-1] + 1
    return Part(source, [(offset, entry(offset, **fields)) for offset in offsets], next_offset)


def opened(path, *, booted_s: float = BOOTED_S, max_bytes: int = MAX_BYTES, **options) -> Tables:
    return Tables(path, max_bytes, booted_s=booted_s, **options)


def offsets_by(tables: Tables, kind: int, name: bytes, **options) -> list[int]:
    return [kept.offset for kept in tables.get(kind, name, **options)]


def all_offsets(tables: Tables, source: Source = SOURCE) -> list[int]:
    """Through the entries themselves; each of them must be found by its id as well."""
    found = [kept.offset for kept in tables.entries_from(source, 0, 1 << 30)]
    for offset in found:
        assert (source, offset) in [kept[:2] for kept in tables.get(KeyKind.ID, id_of(offset))]
    return found
