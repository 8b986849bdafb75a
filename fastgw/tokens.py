"""Tokens that the gateway hands out and recognizes on every node, and the MACs under which they and its records stand.

A token carries everything that a node needs to act on it, so no node stores anything for it:

    ticket    u8 version | id | topic id | i32 request partition
              i64 created | i64 work until | i64 expires
              u8 length, key hash | u16 length, route | u16 length, subject | MAC
    stream    u8 version | id | topic id | i32 partition | i64 start offset | i32 request partition | i64 expires
              u16 length, route | u16 length, subject | MAC

All numbers are big-endian, times are milliseconds since 1970, ids and topic ids are the 16 bytes of their UUID, text is
UTF-8. The bytes are written as base64url without padding (RFC 4648, section 5). The id of a server-sent event names a
stream and a place in it: `<stream token>.<offset>.<item>`.

The MAC is keyed BLAKE2b (RFC 7693) of 16 bytes. It is checked before anything else of a token is read. Who holds a
token may use it, so neither its text nor a secret appears in a message, a `repr` or a log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from fastgw import ids

SECRET_BYTES_MIN: Final = 32
MAC_BYTES: Final = 16
TOPIC_ID_BYTES: Final = 16
KEY_HASH_BYTES: Final = 32  # of an idempotent request; other tickets have none
ROUTE_BYTES_MAX: Final = 512
SUBJECT_BYTES_MAX: Final = 256
TOKEN_BYTES_MAX: Final = 1200  # of the text; a ticket with everything at its largest has 1,176
EVENT_ID_BYTES_MAX: Final = TOKEN_BYTES_MAX + 2 * 20  # two dots and two numbers of at most 19 digits

_VERSION: Final = 1
_TICKET_HEAD = struct.Struct(">B16s16siqqq")
_STREAM_HEAD = struct.Struct(">B16s16siqiq")
_SHORT, _LONG = struct.Struct(">B"), struct.Struct(">H")
_SIZE = struct.Struct(">Q")

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch
_INT64_MAX: Final = (1 << 63) - 1


class BadToken(ValueError):
    """A token that grants nothing. The text says why, and shows nothing of the token."""


class ForgedToken(BadToken):
    """This gateway never made it: another text, another secret, another kind of token."""


class ExpiredToken(BadToken):
    """This gateway made it, but its time is over."""


# --- MACs -----------------------------------------------------------------------------------------------------------


class Purpose(Enum):
    """What a MAC is for. A MAC for one purpose is none for another (BLAKE2b: `person`)."""

    TICKET = b"fastgw ticket"
    STREAM = b"fastgw stream"
    SESSION = b"fastgw session"
    RECORD = b"fastgw record"


class Secrets:
    """The secrets of a gateway: the first one signs, and all of them verify.

    The object keeps hash states, not the secrets, so nothing that shows it shows them.

    Attributes:
        ids: 8 bytes for each secret, in order. They tell two processes whether they have the same secrets.
    """

    def __init__(self, secrets: Iterable[bytes | str]) -> None:
        """
        Args:
            secrets: text counts as its UTF-8.

        Raises:
            ValueError: there is no secret, or one has fewer than `SECRET_BYTES_MIN` bytes.
        """
        keys = []
        for number, given in enumerate(secrets, 1):
            secret = given.encode() if isinstance(given, str) else given
            if len(secret) < SECRET_BYTES_MIN:
                raise ValueError(f"secret {number}: expected at least {SECRET_BYTES_MIN} bytes, got {len(secret)}")
            # BLAKE2b takes keys of at most 64 bytes; a secret may be longer.
            keys.append(hashlib.blake2b(secret, person=b"fastgw secret").digest())
        if not keys:
            raise ValueError("expected at least one secret, got none")
        self._states = {purpose: [_keyed(key, purpose.value) for key in keys] for purpose in Purpose}
        self.ids = tuple(_keyed(key, b"fastgw secret id").digest()[:8] for key in keys)

    def __repr__(self) -> str:
        return f"<Secrets count={len(self.ids)}>"

    def mac(self, purpose: Purpose, *parts: bytes) -> bytes:
        """The MAC of these parts under the first secret, 16 bytes. Parts that are cut elsewhere have another MAC."""
        return _mac(self._states[purpose][0], parts)

    def verifies(self, mac: bytes, purpose: Purpose, *parts: bytes) -> bool:
        """Whether `mac` is the MAC of these parts under any of the secrets. The comparison takes constant time."""
        matches = [hmac.compare_digest(_mac(state, parts), mac) for state in self._states[purpose]]
        return any(matches)


def _keyed(key: bytes, person: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=person)


def _mac(keyed: hashlib.blake2b, parts: Iterable[bytes]) -> bytes:
    state = keyed.copy()
    state.update(b"".join([piece for part in parts for piece in (_SIZE.pack(len(part)), part)]))
    return state.digest()


# --- tickets --------------------------------------------------------------------------------------------------------


class Ticket(NamedTuple):
    """A deferred answer: the path `/_later/<ticket>` leads to it."""

    correlation_id: bytes  # of the request's first record
    key_hash: bytes  # of an idempotent request, 32 bytes; otherwise empty
    topic_id: bytes  # of the topic to which the service replies: a topic that was made anew has another one
    request_partition: int
    route: str  # its name
    subject: str  # who asked; empty without authentication
    created_ms: int  # since 1970
    work_until_ms: int  # a reply that was appended at this time or later does not count
    expires_ms: int  # since 1970

    def __repr__(self) -> str:
        return f"<Ticket route={self.route!r} created_ms={self.created_ms} expires_ms={self.expires_ms}>"


def seal_ticket(secrets: Secrets, ticket: Ticket) -> str:
    """The text of a ticket, at most `TOKEN_BYTES_MAX` characters.

    Raises:
        ValueError: a field does not fit the format.
    """
    if len(ticket.key_hash) not in (0, KEY_HASH_BYTES):
        raise ValueError(f"key hash: expected 0 or {KEY_HASH_BYTES} bytes, got {len(ticket.key_hash)}")
    head = _packed(
        _TICKET_HEAD, _VERSION, _id_bytes(ticket.correlation_id), _topic_id(ticket.topic_id),
        ticket.request_partition, ticket.created_ms, ticket.work_until_ms, ticket.expires_ms,
    )  # fmt: skip
    key_hash = _SHORT.pack(len(ticket.key_hash)) + ticket.key_hash
    return _sealed(secrets, Purpose.TICKET, head + key_hash + _names(ticket.route, ticket.subject))


def open_ticket(secrets: Secrets, text: str, now_ms: int) -> Ticket:
    """The ticket with this text. Whether its topic still exists is for the caller to find out.

    Raises:
        ForgedToken: `text` is no ticket of this gateway.
        ExpiredToken: its time is over.
    """
    data = _opened(secrets, Purpose.TICKET, text)
    try:
        version, uuid, topic_id, partition, created_ms, until_ms, expires_ms = _TICKET_HEAD.unpack_from(data)
        key_hash, at = _taken(data, _TICKET_HEAD.size, _SHORT)
        route, subject = _names_of(data, at)
        correlation_id = _id_text(version, uuid)
    except (ValueError, struct.error):
        raise ForgedToken("expected a ticket of this version, got another content") from None
    ticket = Ticket(correlation_id, key_hash, topic_id, partition, route, subject, created_ms, until_ms, expires_ms)
    _check_time(expires_ms, now_ms)
    return ticket


# --- streams --------------------------------------------------------------------------------------------------------


class StreamToken(NamedTuple):
    """A stream that can be resumed."""

    correlation_id: bytes
    topic_id: bytes  # of the topic of its items
    partition: int  # of its items
    start_offset: int  # none of its items is below
    request_partition: int
    route: str  # its name
    subject: str  # who asked; empty without authentication
    expires_ms: int  # since 1970

    def __repr__(self) -> str:
        return f"<StreamToken route={self.route!r} expires_ms={self.expires_ms}>"


class StreamPlace(NamedTuple):
    """What the id of a server-sent event names: the last item that the client got."""

    stream: StreamToken
    offset: int  # of the record with the item
    item: int  # its index in the stream


def seal_stream(secrets: Secrets, stream: StreamToken) -> str:
    """The text of a stream token, at most `TOKEN_BYTES_MAX` characters. Each stream needs it once.

    Raises:
        ValueError: a field does not fit the format.
    """
    head = _packed(
        _STREAM_HEAD, _VERSION, _id_bytes(stream.correlation_id), _topic_id(stream.topic_id), stream.partition,
        stream.start_offset, stream.request_partition, stream.expires_ms,
    )  # fmt: skip
    return _sealed(secrets, Purpose.STREAM, head + _names(stream.route, stream.subject))


def open_stream(secrets: Secrets, text: str, now_ms: int) -> StreamToken:
    """The stream with this token.

    Raises:
        ForgedToken: `text` is no stream token of this gateway.
        ExpiredToken: its time is over.
    """
    data = _opened(secrets, Purpose.STREAM, text)
    try:
        version, uuid, topic_id, partition, start, request_partition, expires_ms = _STREAM_HEAD.unpack_from(data)
        route, subject = _names_of(data, _STREAM_HEAD.size)
        correlation_id = _id_text(version, uuid)
    except (ValueError, struct.error):
        raise ForgedToken("expected a stream token of this version, got another content") from None
    stream = StreamToken(correlation_id, topic_id, partition, start, request_partition, route, subject, expires_ms)
    _check_time(expires_ms, now_ms)
    return stream


def event_id(token: str, offset: int, item: int) -> str:
    """The id of a server-sent event: `token` is the text of the stream's token."""
    return f"{token}.{offset}.{item}"


def open_event_id(secrets: Secrets, text: str, now_ms: int) -> StreamPlace:
    """The place that an event id names (`Last-Event-ID`).

    Raises:
        ForgedToken: `text` is no event id of this gateway, or names a place before the stream's start.
        ExpiredToken: the time of its stream is over.
    """
    if len(text) > EVENT_ID_BYTES_MAX:
        raise ForgedToken(f"expected an event id of at most {EVENT_ID_BYTES_MAX} bytes, got a longer one")
    token, *numbers = text.split(".", 3)
    if len(numbers) != 2:
        raise ForgedToken("expected an event id of three parts, got another number of parts")
    offset, item = map(_number, numbers)
    stream = open_stream(secrets, token, now_ms)
    if offset < stream.start_offset:
        raise ForgedToken("expected an offset of the stream, got one before its start")
    return StreamPlace(stream, offset, item)


def _number(text: str) -> int:
    """A number in its only spelling."""
    if not _NUMBER(text) or int(text) > _INT64_MAX:
        raise ForgedToken("expected decimal numbers below 2^63 in an event id, got something else")
    return int(text)


# --- bytes and text -------------------------------------------------------------------------------------------------


def _packed(head: struct.Struct, *fields: int | bytes) -> bytes:
    if any(isinstance(field, int) and field < 0 for field in fields):
        raise ValueError(f"token: expected no negative number, got {min(f for f in fields if isinstance(f, int))}")
    try:
        return head.pack(*fields)
    except struct.error as error:
        raise ValueError(f"token: expected partitions of 31 bits, offsets and times of 63 bits; {error}") from None


def _id_bytes(correlation_id: bytes) -> bytes:
    if ids.parse(correlation_id) is None:
        raise ValueError("token: expected a correlation id, got other bytes")
    return bytes.fromhex(correlation_id.decode().replace("-", ""))


def _id_text(version: int, uuid: bytes) -> bytes:
    digits = uuid.hex()
    correlation_id = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()
    if version != _VERSION or ids.parse(correlation_id) is None:
        raise ValueError("another version")
    return correlation_id


def _topic_id(topic_id: bytes) -> bytes:
    if len(topic_id) != TOPIC_ID_BYTES:
        raise ValueError(f"token: expected a topic id of {TOPIC_ID_BYTES} bytes, got {len(topic_id)}")
    return topic_id


def _names(route: str, subject: str) -> bytes:
    parts = []
    for what, text, most in (("route", route, ROUTE_BYTES_MAX), ("subject", subject, SUBJECT_BYTES_MAX)):
        data = text.encode()
        if len(data) > most:
            raise ValueError(f"token: expected a {what} of at most {most} bytes, got {len(data)}")
        parts += [_LONG.pack(len(data)), data]
    return b"".join(parts)


def _names_of(data: bytes, at: int) -> tuple[str, str]:
    route, at = _taken(data, at, _LONG)
    subject, at = _taken(data, at, _LONG)
    if at != len(data):
        raise ValueError("more bytes")
    return route.decode(), subject.decode()


def _taken(data: bytes, at: int, length: struct.Struct) -> tuple[bytes, int]:
    """The bytes whose length stands at `at`, and the place after them."""
    (size,) = length.unpack_from(data, at)
    start = at + length.size
    if start + size > len(data):
        raise ValueError("fewer bytes")
    return data[start : start + size], start + size


def _sealed(secrets: Secrets, purpose: Purpose, data: bytes) -> str:
    return urlsafe_b64encode(data + secrets.mac(purpose, data)).rstrip(b"=").decode()


def _opened(secrets: Secrets, purpose: Purpose, text: str) -> bytes:
    """The bytes of a token without their MAC, which is valid.

    Raises:
        ForgedToken: the text is too long, has other characters than its one spelling, or no valid MAC.
    """
    if len(text) > TOKEN_BYTES_MAX:
        raise ForgedToken(f"expected a token of at most {TOKEN_BYTES_MAX} bytes, got a longer one")
    if not _BASE64URL(text) or len(text) % 4 == 1:
        raise ForgedToken("expected base64url without padding, got other characters")
    sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    data, mac = sealed[:-MAC_BYTES], sealed[-MAC_BYTES:]
    # The last character has bits that mean nothing: with others set, the same bytes would have a second spelling.
    if urlsafe_b64encode(sealed).rstrip(b"=") != text.encode() or not secrets.verifies(mac, purpose, data):
        raise ForgedToken("expected a token of this gateway, got another text or one under a secret that is gone")
    return data


def _check_time(expires_ms: int, now_ms: int) -> None:
    if now_ms >= expires_ms:
        raise ExpiredToken(f"expected a token that has not expired, got one that expired {now_ms - expires_ms} ms ago")
