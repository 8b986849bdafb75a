"""Control records: what gateway nodes write to `<name>.later` beside the replies of services.

    key        the correlation id of the request; none on `layout`
    headers    fastgw_kind     claim, released, cancelled, condition, composed, layout
               fastgw_layout   decimal: the number of the format
               fastgw_mac      32 hexadecimal digits
               fastgw_answer   of `composed` only: JSON with status and headers of the answer
    value      claim, released, condition: a JSON object; composed: the body of the answer; others: empty

Every service may write to this topic, so each record carries a MAC under the secrets of the gateway (see `tokens`). It
covers kind, topic id, partition, key, all `fastgw_*` headers and the value. A record that somebody else made, changed,
or copied to another partition is garbage. A record without `fastgw_kind` is a reply.

A node decides from the log alone. So a claim says everything that is needed to judge it, whatever the configuration of
the node that reads it. Members of a JSON object that a node does not know mean nothing to it; a format in which they
would matter has a higher `fastgw_layout`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec

from fastgw import ids
from fastgw.messages import HeaderList, Record, Reply
from fastgw.tokens import Purpose, Secrets

LAYOUT: Final = 1
KIND: Final = "fastgw_kind"

LANES_MAX: Final = ids.PARTITIONS_MAX
FINGERPRINT_BYTES: Final = 32
VALUE_BYTES_MAX: Final = 64 << 10  # of a claim, a release or a condition
ANSWER_BYTES_MAX: Final = 2 << 20  # of the header fastgw_answer: limits.max_reply_headers is at most 1 MiB

_PREFIX = "fastgw_"
_MAC, _LAYOUT, _ANSWER = "fastgw_mac", "fastgw_layout", "fastgw_answer"
_HEADERS_MAX = 16  # with the prefix
_MAC_DIGITS = re.compile(rb"[0-9a-f]{32}").fullmatch
_DECIMAL = re.compile(rb"[1-9][0-9]{0,8}").fullmatch

Mode = Literal["reply", "composed"]  # what answers the request: a reply of the service, or a `composed` record


class BadControl(ValueError):
    """The record is garbage. The text says what was expected and what was got."""


class Claim(NamedTuple):
    """A node wants to send an idempotent request. `store.lane` has the rules by which a claim wins."""

    correlation_id: bytes
    key_hash: bytes  # of route, subject and Idempotency-Key, 32 bytes; the key itself is not written
    fingerprint: bytes  # of the request, 32 bytes
    attempt: int  # from 1
    replaces: bytes  # the correlation id of the attempt before this one; empty for the first
    lanes: int  # the number of lanes of the node that wrote it
    take_over_ms: int  # so long after this claim another attempt may win
    keep_ms: int  # so long the answer is kept
    route: str
    dialect: str  # in which the service replies
    mode: Mode = "reply"
    entity_id: str = ""  # that the gateway generated for the request; another attempt uses it again


class Released(NamedTuple):
    """A claim is given up before its request was sent."""

    correlation_id: bytes
    key_hash: bytes  # 32 bytes


class Cancelled(NamedTuple):
    """The client has cancelled a deferred request. The first of this and the reply decides."""

    correlation_id: bytes


class Condition(NamedTuple):
    """A request is answered by a state of an entity."""

    correlation_id: bytes
    view: str
    key: str  # of the entity
    baseline: tuple[int, ...]  # for each partition of the view's topic, the first offset that counts
    states: tuple[str, ...]  # that answer the request
    fail: Mapping[str, int]  # states that end it as a failure, each with its HTTP status
    mode: Mode = "composed"


class Composed(NamedTuple):
    """An answer that a gateway node has made from a state."""

    correlation_id: bytes
    status: int
    headers: HeaderList
    body: bytes


class Layout(NamedTuple):
    """The format that a node writes. A number above `LAYOUT` says that a newer node is at work."""

    layout: int


Control = Claim | Released | Cancelled | Condition | Composed | Layout

_KINDS: dict[type[Control], bytes] = {
    Claim: b"claim",
    Released: b"released",
    Cancelled: b"cancelled",
    Condition: b"condition",
    Composed: b"composed",
    Layout: b"layout",
}


class Place(NamedTuple):
    """The partition in which a control record stands."""

    topic: str
    topic_id: bytes  # 16 bytes
    partition: int


def lane_of(key_hash: bytes, lanes: int) -> int:
    """The lane of an idempotency key: the partition of `<name>.later` that orders everything about it."""
    return int.from_bytes(key_hash[:8], "big") % lanes


def is_control(record: Reply) -> bool:
    """Whether this is a control record, not the reply of a service."""
    return KIND in dict(record.headers)


# --- JSON -----------------------------------------------------------------------------------------------------------

_UUID_OR_NOTHING = r"\A(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})?\Z"
_DAYS_400_MS = 400 * 86_400_000

_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=_DAYS_400_MS)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
_Status = Annotated[int, msgspec.Meta(ge=200, le=599)]
_Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _ClaimValue(msgspec.Struct, frozen=True):
    scope: _Hash  # the key within its scope
    fingerprint: _Hash
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
    replaces: Annotated[str, msgspec.Meta(pattern=_UUID_OR_NOTHING)]
    lanes: Annotated[int, msgspec.Meta(ge=1, le=LANES_MAX)]
    take_over_ms: _Milliseconds
    keep_ms: _Milliseconds
    route: _Name
    dialect: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    mode: Mode
    entity_id: Annotated[str, msgspec.Meta(pattern=_UUID_OR_NOTHING)]


class _ReleasedValue(msgspec.Struct, frozen=True):
    scope: _Hash


class _ConditionValue(msgspec.Struct, frozen=True):
    view: _Name
    key: Annotated[str, msgspec.Meta(max_length=8192)]
    baseline: Annotated[tuple[_Offset, ...], msgspec.Meta(max_length=ids.PARTITIONS_MAX)]
    states: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=256)] = msgspec.field(name="in")
    fail: Annotated[dict[str, _Status], msgspec.Meta(max_length=256)]
    mode: Mode


class _AnswerHead(msgspec.Struct, frozen=True):
    status: _Status
    headers: list[tuple[str, str]]


_Value = TypeVar("_Value", bound=msgspec.Struct)


def _json(data: bytes, kind: type[_Value], most_bytes: int) -> _Value:
    if len(data) > most_bytes:
        raise BadControl(f"expected at most {most_bytes} bytes of JSON, got {len(data)}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadControl(f"expected JSON of a control record; {error}") from None
    except RecursionError:
        raise BadControl("expected JSON of a control record, got brackets nested too deeply") from None


# --- writing --------------------------------------------------------------------------------------------------------


def encode(control: Control, secrets: Secrets, place: Place) -> Record:
    """The record to produce to `place`."""
    layout, key, value = LAYOUT, b"", b""
    headers = [(KIND, _KINDS[type(control)])]
    if isinstance(control, Layout):
        layout = control.layout
    else:
        key = control.correlation_id
    if isinstance(control, Composed):
        headers.append((_ANSWER, msgspec.json.encode(_AnswerHead(control.status, control.headers))))
        value = control.body
    elif isinstance(control, _IN_JSON):
        value = msgspec.json.encode(_value_of(control))
    headers.append((_LAYOUT, b"%d" % layout))
    covered = _covered(place.topic_id, place.partition, key, value, headers)
    headers.append((_MAC, secrets.mac(Purpose.RECORD, *covered).hex().encode()))
    return Record(place.topic, value, key or None, headers, place.partition)


_IN_JSON = (Claim, Released, Condition)


def _value_of(control: Claim | Released | Condition) -> msgspec.Struct:
    match control:
        case Claim():
            return _ClaimValue(
                scope=control.key_hash.hex(),
                fingerprint=control.fingerprint.hex(),
                attempt=control.attempt,
                replaces=control.replaces.decode(),
                lanes=control.lanes,
                take_over_ms=control.take_over_ms,
                keep_ms=control.keep_ms,
                route=control.route,
                dialect=control.dialect,
                mode=control.mode,
                entity_id=control.entity_id,
            )
        case Released():
            return _ReleasedValue(control.key_hash.hex())
        case Condition():
            return _ConditionValue(
                view=control.view, key=control.key, baseline=control.baseline, states=control.states,
                fail=dict(control.fail), mode=control.mode,
            )  # fmt: skip


def _covered(
    topic_id: bytes, partition: int, key: bytes, value: bytes, headers: Iterable[tuple[str, bytes]]
) -> list[bytes]:
    """What the MAC covers. The headers are sorted, because tools that copy records may write them in another order."""
    parts = [topic_id, b"%d" % partition, key, value]
    for name, header in sorted(headers):
        parts += (name.encode(), header)
    return parts


# --- reading --------------------------------------------------------------------------------------------------------


def decode(record: Reply, secrets: Secrets, topic_id: bytes) -> Control | None:
    """The content of a control record; None: its kind is unknown, and the reader counts and skips it.

    A record of a newer format is a `Layout`, whatever its kind: nothing else of it can be relied on.

    Args:
        record: as `plain.decode_reply` gives it.
        topic_id: of the topic that is read, 16 bytes.

    Raises:
        BadControl: the record is garbage, above all without a valid MAC.
    """
    headers = _own_headers(record.headers)
    mac, layout = headers.pop(_MAC, b""), headers.get(_LAYOUT, b"")
    covered = _covered(topic_id, record.partition, record.correlation_id, record.value, headers.items())
    if not _MAC_DIGITS(mac) or not secrets.verifies(bytes.fromhex(mac.decode()), Purpose.RECORD, *covered):
        raise BadControl("expected a control record with a MAC of this gateway, got none or another one")
    if not _DECIMAL(layout):
        raise BadControl(f"expected {_LAYOUT} as a decimal number from 1, got {layout[:20]!r}")
    if int(layout) > LAYOUT:
        return Layout(int(layout))
    read = _READERS.get(headers.get(KIND, b""))
    return read(record, headers) if read is not None else None


def _own_headers(headers: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    own: dict[str, bytes] = {}
    for name, value in headers:
        if not name.startswith(_PREFIX):
            continue
        if name in own or len(own) == _HEADERS_MAX:
            raise BadControl(f"expected each {_PREFIX}* header once, and at most {_HEADERS_MAX} of them, got more")
        own[name] = value
    return own


def _read_claim(record: Reply, _headers: Mapping[str, bytes]) -> Claim:
    value = _json(record.value, _ClaimValue, VALUE_BYTES_MAX)
    replaces = value.replaces.encode()
    if (value.attempt == 1) != (not replaces) or (replaces and ids.parse(replaces) is None):
        raise BadControl(f"expected the id that attempt {value.attempt} replaces, or none with attempt 1")
    key_hash = bytes.fromhex(value.scope)
    if lane_of(key_hash, value.lanes) != record.partition:
        lane = lane_of(key_hash, value.lanes)
        raise BadControl(f"expected this claim in its lane, partition {lane}, got it in partition {record.partition}")
    return Claim(
        _id_of(record), key_hash, bytes.fromhex(value.fingerprint), value.attempt, replaces, value.lanes,
        value.take_over_ms, value.keep_ms, value.route, value.dialect, value.mode, value.entity_id,
    )  # fmt: skip


def _read_released(record: Reply, _headers: Mapping[str, bytes]) -> Released:
    value = _json(record.value, _ReleasedValue, VALUE_BYTES_MAX)
    return Released(_id_of(record), bytes.fromhex(value.scope))


def _read_cancelled(record: Reply, _headers: Mapping[str, bytes]) -> Cancelled:
    return Cancelled(_id_of(record))


def _read_condition(record: Reply, _headers: Mapping[str, bytes]) -> Condition:
    value = _json(record.value, _ConditionValue, VALUE_BYTES_MAX)
    return Condition(
        _id_of(record), value.view, value.key, value.baseline, value.states, value.fail, value.mode
    )  # fmt: skip


def _read_composed(record: Reply, headers: Mapping[str, bytes]) -> Composed:
    head = _json(headers.get(_ANSWER, b""), _AnswerHead, ANSWER_BYTES_MAX)
    return Composed(_id_of(record), head.status, head.headers, record.value)


def _read_layout(_record: Reply, headers: Mapping[str, bytes]) -> Layout:
    return Layout(int(headers[_LAYOUT]))


def _id_of(record: Reply) -> bytes:
    if ids.parse(record.correlation_id) is None:
        raise BadControl(f"expected a correlation id as key, got {record.correlation_id[:40]!r}")
    return record.correlation_id


_READERS: dict[bytes, Callable[[Reply, Mapping[str, bytes]], Control]] = {
    b"claim": _read_claim,
    b"released": _read_released,
    b"cancelled": _read_cancelled,
    b"condition": _read_condition,
    b"composed": _read_composed,
    b"layout": _read_layout,
}
