"""Which record decides a kept request."""

from __future__ import annotations

from fastgw.kept_replies import Known
from fastgw.store.entries import Entry
from fastgw.store.requests import RecordKind, decided
from fastgw.store.tables import Kept, Source

HOME = Source(bytes(16), 3)
UNTIL_MS = 1000


def record(offset: int, kind: int = RecordKind.REPLY, at_ms: int = 10) -> Kept:
    return Kept(HOME, offset, Entry(kind, at_ms, (), [], b""))


def test_nothing_decides_what_has_no_record() -> None:
    assert decided([], UNTIL_MS) is None


def test_the_first_record_decides() -> None:
    reply, cancelled = record(5), record(6, RecordKind.CANCELLED)
    assert decided([reply, cancelled], UNTIL_MS) == (Known.ANSWERED, reply)
    cancelled, reply = record(5, RecordKind.CANCELLED), record(6)
    assert decided([cancelled, reply], UNTIL_MS) == (Known.CANCELLED, cancelled)


def test_a_record_after_the_work_does_not_count() -> None:
    assert decided([record(5, at_ms=UNTIL_MS)], UNTIL_MS) is None
    in_time = record(5, at_ms=UNTIL_MS - 1)
    assert decided([in_time], UNTIL_MS) == (Known.ANSWERED, in_time)
    late = record(5, at_ms=10**15)
    assert decided([late], 0) == (Known.ANSWERED, late), "0 is no limit"


def test_a_kind_that_a_later_version_wrote_decides_nothing() -> None:
    assert decided([record(5, kind=99)], UNTIL_MS) is None
