"""The bytes of an entry: nothing is lost, and a changed byte is seen."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import StoreDamaged
from fastgw.store.entries import (
    PREFIX_BYTES,
    Entry,
    KeyKind,
    Log,
    decode,
    decode_log,
    encode,
    encode_log,
    index_prefix,
    reference_to,
)

# A busy machine is no defect of ours.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLACE = b"\0\0\0\1\0\0\0\0\0\0\0\7"
ENTRIES = st.builds(
    Entry,
    st.integers(0, 255),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=4).map(tuple),
    st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=30)), max_size=6),
    st.none() | st.binary(max_size=200),
)


@UNHURRIED
@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(entry):
    assert decode(PLACE, encode(PLACE, entry)) == entry
    assert not entry.is_reference


@UNHURRIED
@given(ENTRIES, st.data())
def test_a_changed_byte_is_seen(entry, data):
    row = bytearray(encode(PLACE, entry))
    row[data.draw(st.integers(0, len(row) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreDamaged, match="checksum"):
        decode(PLACE, bytes(row))


def test_an_entry_at_another_place_is_damage():
    with pytest.raises(StoreDamaged, match="checksum"):
        decode(PLACE[:-1] + b"\x06", encode(PLACE, Entry(1, 2, (), [], b"value")))


@UNHURRIED
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.data())
def test_a_position_comes_back_as_it_was_and_a_changed_byte_is_seen(number, offset, data):
    row = bytearray(encode_log(b"key", Log(number, offset)))
    assert decode_log(b"key", bytes(row)) == (number, offset)
    with pytest.raises(StoreDamaged, match="checksum"):
        decode_log(b"kez", bytes(row))
    row[data.draw(st.integers(0, len(row) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreDamaged, match="checksum"):
        decode_log(b"key", bytes(row))


@pytest.mark.parametrize("body", [b"", b"1234", b"1234567890123"])
def test_right_bytes_that_are_no_position_are_damage(body):
    with pytest.raises(StoreDamaged, match="position of a partition has"):
        decode_log(b"", crc32(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize("row", [b"", b"\0\0\0\0", b"\0\0\0", b"\x2b\xb3\x5e\x60\x93\x01"])
def test_bytes_that_are_no_entry_are_damage(row):
    with pytest.raises(StoreDamaged):
        decode(PLACE, row)


def test_right_bytes_that_are_no_record_are_damage():
    body = b"\x93\x01\x02\x03"  # an array of three numbers
    with pytest.raises(StoreDamaged, match="no record"):
        decode(b"", crc32(body).to_bytes(4, "big") + body)


def test_a_reference_tells_the_size_of_what_was_left_and_keeps_the_rest():
    entry = Entry(1, 2, ((KeyKind.ID, b"id"),), [("status", b"200")], b"x" * 5000)
    left = reference_to(entry)
    assert left.is_reference
    assert (left.value, left.left_bytes) == (None, 5000)
    assert (left.kind, left.timestamp_ms, left.keys, left.headers) == (1, 2, entry.keys, entry.headers)
    assert decode(PLACE, encode(PLACE, left)) == left


def test_the_index_tells_kinds_and_keys_apart_whatever_their_length():
    keys = [(kind, name) for kind in KeyKind for name in (b"", b"a", b"a" * 10_000)]
    prefixes = {index_prefix(key) for key in keys}
    assert len(prefixes) == len(keys)
    assert {len(prefix) for prefix in prefixes} == {PREFIX_BYTES}
