"""Which record decides a kept request."""

from __future__ import annotations

from fastgw.kept_replies import Known
from fastgw.store.entries import Entry
from fastgw.store.requests import RecordKind, decided
from fastgw.store.tables import Kept, Source

TOPIC = bytes(16)
HOME, UNTIL_MS = 3, 1000


def record(offset: int, kind: int = RecordKind.REPLY, at_ms: int = 10, partition: int = HOME) -> Kept:
    return Kept(Source(TOPIC, partition), offset, Entry(kind, at_ms, (), [], b""))


def test_nothing_decides_what_has_no_record() -> None:
    assert decided([], HOME, UNTIL_MS) is None


def test_the_first_record_decides() -> None:
    reply, cancelled = record(5), record(6, RecordKind.CANCELLED)
    assert decided([reply, cancelled], HOME, UNTIL_MS) == (Known.ANSWERED, reply)
    cancelled, reply = record(5, RecordKind.CANCELLED), record(6)
    assert decided([cancelled, reply], HOME, UNTIL_MS) == (Known.CANCELLED, cancelled)


def test_a_record_elsewhere_does_not_count() -> None:
    assert decided([record(5, partition=HOME + 1)], HOME, UNTIL_MS) is None
    here = record(9)
    assert decided([record(5, partition=HOME + 1), here], HOME, UNTIL_MS) == (Known.ANSWERED, here)


def test_a_record_after_the_work_does_not_count() -> None:
    assert decided([record(5, at_ms=UNTIL_MS)], HOME, UNTIL_MS) is None
    in_time = record(5, at_ms=UNTIL_MS - 1)
    assert decided([in_time], HOME, UNTIL_MS) == (Known.ANSWERED, in_time)
    late = record(5, at_ms=10**15)
    assert decided([late], HOME, 0) == (Known.ANSWERED, late), "0 is no limit"


def test_a_kind_that_a_later_version_wrote_decides_nothing() -> None:
    assert decided([record(5, kind=99)], HOME, UNTIL_MS) is None
