"""Cancelled requests that are not known."""

from __future__ import annotations

from fastgw.service import cancels
from fastgw.service.cancels import Cancels


def test_an_id_is_remembered_until_its_time_and_once() -> None:
    known = Cancels()
    known.remember(b"a", 10, now_ns=0)
    known.remember(b"b", 10, now_ns=0)
    assert not known.take(b"c", 9)
    assert known.take(b"a", 9)
    assert not known.take(b"a", 9)
    assert not known.take(b"b", 10)


def test_the_oldest_is_forgotten_if_there_are_too_many() -> None:
    known = Cancels()
    for number in range(cancels.REMEMBERED_MAX + 1):
        known.remember(b"%d" % number, 10, now_ns=0)
    assert repr(known) == f"<Cancels {cancels.REMEMBERED_MAX} remembered>"
    assert not known.take(b"0", 1)
    assert known.take(b"1", 1)


def test_what_is_over_is_forgotten_first() -> None:
    known = Cancels()
    known.remember(b"a", 10, now_ns=0)
    known.remember(b"b", 30, now_ns=20)
    assert repr(known) == "<Cancels 1 remembered>"
