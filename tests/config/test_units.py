"""Durations and sizes are read as they are written, and written so that they read back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config import units


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("5s", 5_000_000_000),
        ("250ms", 250_000_000),
        ("1m", 60_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5s", 1_500_000_000),
        ("2h", 7_200_000_000_000),
        ("10us", 10_000),
        ("7ns", 7),
        ("0s", 0),
    ],
)
def test_a_duration_is_read_in_nanoseconds(text: str, duration_ns: int) -> None:
    assert units.parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-1s", "1d", "5S", "1s ", "1s,2ms", "٣s", "1e3s", "0.5ns", "1" * 13 + "s", "1s\n"]
)
def test_what_is_no_duration_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a number|smallest part"):
        units.parse_duration_ns(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1MiB", 1 << 20), ("64KiB", 65536), ("10MB", 10**7), ("1.5KiB", 1536), ("7B", 7), ("2 GiB", 2 << 30), (512, 512)],
)
def test_a_size_is_read_in_bytes(text: str | int, size_bytes: int) -> None:
    assert units.parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "5", "1KB", "1kib", "-1B", "0.5B", -1, "1MiB\n"])
def test_what_is_no_size_is_refused_with_a_hint(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"write a number|smallest part|not negative"):
        units.parse_bytes(text)


@given(st.integers(0, 10**12 - 1))
def test_every_duration_reads_back(duration_ns: int) -> None:
    assert units.parse_duration_ns(units.format_duration(duration_ns)) == duration_ns


@given(st.integers(0, 10**12 - 1))
def test_every_size_reads_back(size_bytes: int) -> None:
    assert units.parse_bytes(units.format_bytes(size_bytes)) == size_bytes


@given(st.text(alphabet="0123456789.hmsun ", max_size=30))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    for parse in (units.parse_duration_ns, units.parse_bytes):
        with suppress(ValueError):
            assert parse(text) >= 0
