"""Reads and writes durations and sizes: "5s" is 5,000,000,000 ns, "64KiB" is 65,536 bytes."""

from __future__ import annotations

import re
from decimal import Decimal

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

# Largest first: formatting takes the first unit that divides the value.
_DURATION_NS = {
    "h": 3600 * NS_PER_S,
    "m": 60 * NS_PER_S,
    "s": NS_PER_S,
    "ms": NS_PER_MS,
    "us": 1_000,
    "ns": 1,
}
_SIZE_BYTES = {"GiB": 1 << 30, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6, "KiB": 1 << 10, "kB": 10**3, "B": 1}

# Twelve digits are enough for every sensible value, and keep the arithmetic fast.
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
_DURATION_PART = re.compile(_NUMBER + r"(h|ms|m|s|us|ns)")
DURATION_PATTERN = rf"^({_DURATION_PART.pattern})+$"
SIZE_PATTERN = rf"^{_NUMBER} ?(GiB|GB|MiB|MB|KiB|kB|B)$"
_SIZE = re.compile(SIZE_PATTERN)


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a duration: one or more numbers, each with its unit ("5s", "250ms", "1m30s", "1.5s").

    Raises:
        ValueError: saying what is wrong with it.
    """
    total, at = Decimal(0), 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != at:
            break
        total += Decimal(part[1]) * _DURATION_NS[part[2]]
        at = part.end()
    if not text or at != len(text):
        raise ValueError("write a number and one of the units h, m, s, ms, us, ns")
    if total != int(total):
        raise ValueError("a nanosecond is the smallest part of a duration")
    return int(total)


def format_duration(duration_ns: int) -> str:
    """The shortest text with one unit that `parse_duration_ns` reads as exactly `duration_ns`."""
    if duration_ns == 0:
        return "0s"
    unit = next(unit for unit, unit_ns in _DURATION_NS.items() if duration_ns % unit_ns == 0)
    return f"{duration_ns // _DURATION_NS[unit]}{unit}"


def parse_bytes(text: str | int) -> int:
    """Bytes of a size: a plain integer, or a number with its unit ("1MiB", "64KiB", "10MB").

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(text, int):
        if text < 0:
            raise ValueError("a size is not negative")
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("write a number and one of the units B, kB, KiB, MB, MiB, GB, GiB")
    total = Decimal(match[1]) * _SIZE_BYTES[match[2]]
    if total != int(total):
        raise ValueError("a byte is the smallest part of a size")
    return int(total)


def format_bytes(size_bytes: int) -> str:
    """The shortest text with a binary unit that `parse_bytes` reads as exactly `size_bytes`."""
    if size_bytes == 0:
        return "0B"
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size_bytes % _SIZE_BYTES[unit] == 0)
    return f"{size_bytes // _SIZE_BYTES[unit]}{unit}"
