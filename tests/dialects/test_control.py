"""Control records: what one node writes another one reads, and nothing that anybody else writes counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.dialects import control, plain
from fastgw.dialects.control import (
    BadControl,
    Cancelled,
    Claim,
    Composed,
    Condition,
    Control,
    Layout,
    Place,
    Released,
    decode,
    encode,
    lane_of,
)
from fastgw.messages import Record, Reply
from fastgw.tokens import Purpose, Secrets

SECRETS = Secrets([b"s" * 32])
ID, BEFORE = b"0000000a-0007-8000-8000-000000300009", b"0000000a-0007-8000-8000-000000300008"
KEY = bytes(range(7, 39))
PLACE = Place("shop.later", b"t" * 16, lane_of(KEY, 8))
ENTITY = "6c1e0c6e-5d1c-4b8e-9f0a-0d2f7a1b3c4d"

CLAIM = Claim(ID, KEY, b"f" * 32, 1, b"", 8, 30_000, 86_400_000, "POST /payments", "plain")
SECOND = CLAIM._replace(attempt=2, replaces=BEFORE, mode="composed", entity_id=ENTITY)
CONDITION = Condition(ID, "orders", "7", (0, 12, 1 << 40), ("VALIDATED",), {"REJECTED": 409})
COMPOSED = Composed(ID, 201, [("content-type", "application/json"), ("x-\u00e9", "\u00e9")], b"\0{}")
CONTROLS: list[Control] = [CLAIM, SECOND, Released(ID, KEY), Cancelled(ID), CONDITION, COMPOSED, Layout(1)]
every_kind = pytest.mark.parametrize("written", CONTROLS, ids=lambda one: type(one).__name__)


def as_read(record: Record, **changed: Any) -> Reply:
    return Reply(record.key or b"", record.partition, 17, list(record.headers), record.value)._replace(**changed)


def read(record: Reply, secrets: Secrets = SECRETS, topic_id: bytes = PLACE.topic_id) -> Control | None:
    return decode(record, secrets, topic_id)


def signed(record: Reply, *headers: tuple[str, bytes]) -> Reply:
    """The record with other headers of the gateway, and a MAC that is right."""
    covered = control._covered(PLACE.topic_id, record.partition, record.correlation_id, record.value, headers)
    mac = SECRETS.mac(Purpose.RECORD, *covered).hex().encode()
    return record._replace(headers=[*headers, ("fastgw_mac", mac)])


def with_value(kind: bytes, value: bytes, key: bytes = ID) -> Reply:
    record = Reply(key, PLACE.partition, 0, [], value)
    return signed(record, ("fastgw_kind", kind), ("fastgw_layout", b"1"))


# --- both ways ------------------------------------------------------------------------------------------------------


@every_kind
def test_what_is_written_is_read(written):
    record = encode(written, SECRETS, PLACE)
    assert (record.topic, record.partition) == ("shop.later", PLACE.partition)
    assert read(as_read(record)) == written
    assert control.is_control(as_read(record))


def test_a_claim_is_written_as_the_protocol_says():
    record = encode(SECOND, SECRETS, PLACE)
    assert record.key == ID
    headers = dict(record.headers)
    assert headers.keys() == {"fastgw_kind", "fastgw_layout", "fastgw_mac"}
    assert (headers["fastgw_kind"], headers["fastgw_layout"]) == (b"claim", b"1")
    assert len(headers["fastgw_mac"]) == 32
    assert json.loads(record.value) == {
        "scope": KEY.hex(), "fingerprint": (b"f" * 32).hex(), "attempt": 2, "replaces": BEFORE.decode(), "lanes": 8,
        "take_over_ms": 30_000, "keep_ms": 86_400_000, "route": "POST /payments", "dialect": "plain",
        "mode": "composed", "entity_id": ENTITY,
    }  # fmt: skip


class Message:
    """A consumed record as the Kafka client gives it."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def key(self) -> bytes | None:
        return self._record.key

    def value(self) -> bytes:
        return self._record.value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._record.headers

    def partition(self) -> int:
        return self._record.partition

    def offset(self) -> int:
        return 17


@every_kind
def test_a_record_is_read_through_the_decoder_of_replies(written):
    assert read(plain.decode_reply(Message(encode(written, SECRETS, PLACE)))) == written


def test_a_reply_is_no_control_record():
    assert not control.is_control(Reply(ID, 0, 0, [("status", b"200"), ("fastgw_hops", b"1")], b""))


def test_other_headers_and_another_order_mean_nothing():
    record = as_read(encode(CLAIM, SECRETS, PLACE))
    headers = [("traceparent", b"x"), *reversed(record.headers), ("traceparent", b"y")]
    assert read(record._replace(headers=headers)) == CLAIM


def test_an_old_secret_is_good_enough():
    assert read(as_read(encode(CLAIM, SECRETS, PLACE)), Secrets([b"n" * 32, b"s" * 32])) == CLAIM


# --- the MAC --------------------------------------------------------------------------------------------------------


@every_kind
def test_a_record_is_what_it_is_where_it_is(written):
    record = as_read(encode(written, SECRETS, PLACE))
    moved = [
        record._replace(partition=record.partition + 1),
        record._replace(correlation_id=BEFORE),
        record._replace(value=record.value + b" "),
        record._replace(headers=[*record.headers, ("fastgw_hops", b"1")]),
    ]
    for name, value in record.headers:
        others = [header for header in record.headers if header[0] != name]
        moved += [
            record._replace(headers=others),
            record._replace(headers=[*others, (name, value + b"0")]),
            record._replace(headers=[*others, (name.upper(), value)]),
            record._replace(headers=[*record.headers, (name, value)]),
        ]
    for changed in moved:
        with pytest.raises(BadControl):
            read(changed)
    with pytest.raises(BadControl):
        read(record, topic_id=b"u" * 16)
    with pytest.raises(BadControl):
        read(record, Secrets([b"n" * 32]))


def test_the_offset_means_nothing_to_the_mac():
    assert read(as_read(encode(CLAIM, SECRETS, PLACE), offset=99)) == CLAIM


def test_a_flood_of_headers_is_garbage():
    headers = [(f"fastgw_{number}", b"") for number in range(100_000)]
    with pytest.raises(BadControl, match="at most 16"):
        read(Reply(ID, 0, 0, headers, b""))


# --- garbage under a valid MAC --------------------------------------------------------------------------------------

WHOLE = json.loads(encode(CLAIM, SECRETS, PLACE).value)


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": "0" * 63}, {"scope": "0" * 64 + "\n"}, {"scope": KEY.hex().upper()}, {"scope": 7}, {"scope": None},
        {"fingerprint": ""}, {"attempt": 0}, {"attempt": "1"}, {"attempt": 1.0}, {"attempt": True},
        {"attempt": 10**30}, {"attempt": 2}, {"replaces": BEFORE.decode()}, {"attempt": 2, "replaces": "x"},
        {"attempt": 2, "replaces": ENTITY}, {"lanes": 0}, {"lanes": 4097}, {"lanes": -1}, {"take_over_ms": 0},
        {"take_over_ms": 1 << 62}, {"keep_ms": -5}, {"keep_ms": 1e300}, {"route": ""}, {"route": "r" * 9000},
        {"dialect": ""}, {"mode": "other"}, {"entity_id": "x"}, {"entity_id": ENTITY.upper()}, {"entity_id": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_claim_with_a_wrong_value_is_garbage(changed):
    with pytest.raises(BadControl):
        read(with_value(b"claim", json.dumps(WHOLE | changed).encode()))


@pytest.mark.parametrize("missing", WHOLE)
def test_a_claim_without_a_value_is_garbage(missing):
    value = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(BadControl, match=missing):
        read(with_value(b"claim", json.dumps(value).encode()))


def test_a_claim_outside_its_lane_is_garbage():
    lanes = next(lanes for lanes in range(1, 100) if lane_of(KEY, lanes) != PLACE.partition)
    with pytest.raises(BadControl, match="in its lane"):
        read(with_value(b"claim", json.dumps(WHOLE | {"lanes": lanes}).encode()))


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b"[]", b"{", b"\xff", b'{"scope": "\xff"}', b'{"x": ' + b"[" * 60_000, b" " * 70_000],
    ids=lambda value: repr(value[:12]),
)
@pytest.mark.parametrize("kind", [b"claim", b"released", b"condition"])
def test_a_value_that_is_no_json_of_its_kind_is_garbage(kind, value):
    with pytest.raises(BadControl):
        read(with_value(kind, value))


@pytest.mark.parametrize("head", [b"", b"{}", b'{"status": 99, "headers": []}', b'{"status": 200, "headers": [["a"]]}'])
def test_an_answer_with_a_wrong_head_is_garbage(head):
    record = with_value(b"composed", b"body")
    with pytest.raises(BadControl):
        read(signed(record, *record.headers[:2], ("fastgw_answer", head)))


@pytest.mark.parametrize("key", [b"", b"x", ID.upper(), ID + b" "])
@pytest.mark.parametrize("kind", [b"cancelled", b"claim"])
def test_a_record_without_a_correlation_id_is_garbage(kind, key):
    with pytest.raises(BadControl, match="correlation id"):
        read(with_value(kind, json.dumps(WHOLE).encode(), key))


@pytest.mark.parametrize("layout", [b"", b"0", b"-1", b"01", b"1 ", b"1.0", b"\xd9\xa1", b"9" * 5000])
def test_a_layout_that_is_no_number_is_garbage(layout):
    with pytest.raises(BadControl, match="fastgw_layout"):
        read(signed(with_value(b"cancelled", b""), ("fastgw_kind", b"cancelled"), ("fastgw_layout", layout)))


# --- other versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"claim", b"layout", b"of the future"])
def test_a_record_of_a_newer_layout_says_only_that_there_is_one(kind):
    record = signed(with_value(kind, b"?"), ("fastgw_kind", kind), ("fastgw_layout", b"2"))
    assert read(record) == Layout(2)


def test_an_unknown_kind_is_skipped():
    assert read(with_value(b"of the future", b"?")) is None


def test_an_unknown_kind_without_a_mac_is_garbage():
    with pytest.raises(BadControl):
        read(Reply(ID, 0, 0, [("fastgw_kind", b"of the future"), ("fastgw_layout", b"2")], b""))


def test_members_that_are_not_known_mean_nothing():
    assert read(with_value(b"claim", json.dumps(WHOLE | {"colour": [{"red": 1}]}).encode())) == CLAIM


# --- lanes ----------------------------------------------------------------------------------------------------------


def test_lanes_are_used_evenly():
    hashes = [Secrets([b"%032d" % number]).ids[0] for number in range(800)]
    counts = [sum(lane_of(one, 8) == lane for one in hashes) for lane in range(8)]
    assert all(60 < count < 140 for count in counts), counts


def test_the_lane_of_a_key_never_changes():
    """A running gateway finds claims of years ago by this number."""
    assert [lane_of(KEY, lanes) for lanes in (1, 8, 11, 4096)] == [0, 6, 0, 3342]
