"""The bytes in which the tables keep a record.

    place  = number of the log (4 bytes) | offset (8)                big-endian, so places sort as records were appended
    index  = kind of key (1) | BLAKE2b of the key (15) | place (12)  the places of one key stand together, oldest first
    entry  = CRC-32 of place and rest (4) | MessagePack array of the fields of `Entry`
    log    = CRC-32 of topic, partition and rest (4) | number of the log (4) | next offset (8)

A log is one partition of one topic; `tables` gives each a number. Keys may be longer than a key of LMDB (511 bytes),
and clients choose some of them, so the index holds their hashes. An entry holds its keys in full, because they are
needed to take it out of the index.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import msgspec

from fastgw.errors import StoreDamaged

PLACE = Struct(">IQ")
PLACE_BYTES = PLACE.size
KEY_HASH_BYTES = 15
PREFIX_BYTES = 1 + KEY_HASH_BYTES  # of an index row: the same for all places of one key
BEHIND_ALL_PLACES = b"\xff" * PLACE_BYTES
_CRC_BYTES = 4
_LOG = Struct(">IQ")


class KeyKind(IntEnum):
    """What a key is; numbers are part of the layout."""

    ID = 1  # a correlation id
    IDEMPOTENCY = 2  # the claims and releases of idempotency keys, all of them together
    ENTITY = 3  # the key of an entity of a view
    LAYOUT = 4  # records of newer formats, all of them together


Key = tuple[int, bytes]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record as the tables keep it. The order of the fields is part of the layout.

    Attributes:
        kind: what the record says, a number of the caller's.
        timestamp_ms: the record's timestamp, ms since 1970; it decides when the entry expires.
        keys: where the index finds it.
        value: None if the record has none, and if the value is left in the log.
        left_bytes: size of a value that is left in the log and has to be read there; -1 if `value` is all there is.
    """

    kind: int
    timestamp_ms: int
    keys: tuple[Key, ...]
    headers: list[tuple[str, bytes | None]]
    value: bytes | None
    left_bytes: int = -1

    @property
    def is_reference(self) -> bool:
        """Whether the value has to be read from the log, at the entry's partition and offset."""
        return self.left_bytes >= 0


class Log(NamedTuple):
    """What is kept of a log.

    Attributes:
        number: stands for topic and partition in the places of its entries.
        next_offset: where to read on.
    """

    number: int
    next_offset: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def encode(place: bytes, entry: Entry) -> bytes:
    return _checked(place, _encode(entry))


def decode(place: bytes, row: bytes) -> Entry:
    """
    Raises:
        StoreDamaged: these are not the bytes that `encode` made for this place.
    """
    body = _check(place, row, "an entry")
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"an entry is no record: {error}") from error


def encode_log(key: bytes, log: Log) -> bytes:
    return _checked(key, _LOG.pack(*log))


def decode_log(key: bytes, row: bytes) -> Log:
    """
    Raises:
        StoreDamaged: these are not the bytes that `encode_log` made for this key.
    """
    body = _check(key, row, "the position of a partition")
    if len(body) != _LOG.size:
        raise StoreDamaged(f"the position of a partition has {len(body)} bytes")
    return Log(*_LOG.unpack(body))


def _checked(key: bytes, body: bytes) -> bytes:
    return crc32(body, crc32(key)).to_bytes(_CRC_BYTES, "big") + body


def _check(key: bytes, row: bytes, what: str) -> memoryview:
    body = memoryview(row)[_CRC_BYTES:]
    if crc32(body, crc32(key)) != int.from_bytes(row[:_CRC_BYTES], "big"):
        raise StoreDamaged(f"the checksum of {what} of {len(row)} bytes is wrong")
    return body


def reference_to(entry: Entry) -> Entry:
    """The entry without its value, which then has to be read from the log."""
    return msgspec.structs.replace(entry, value=None, left_bytes=len(entry.value or b""))


def index_prefix(key: Key) -> bytes:
    kind, name = key
    return kind.to_bytes(1, "big") + blake2b(name, digest_size=KEY_HASH_BYTES).digest()
