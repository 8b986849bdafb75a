"""Promise: any record with any headers is a control record of ours, one of an unknown kind, or BadControl with
printable words, even if its MAC is right. What is one is written as it was read."""

from __future__ import annotations

from fastgw.dialects import control
from fastgw.dialects.control import BadControl, Cancelled, Claim, Composed, Condition, Control, Layout, Place, Released
from fastgw.messages import Reply
from fastgw.tokens import Purpose, Secrets
from tests.fuzz.drawing import Draw

SECRETS = Secrets([b"s" * 32])
PLACE = Place("later", b"t" * 16, 6)
NAMES = ["fastgw_kind", "fastgw_layout", "fastgw_answer", "fastgw_mac", "fastgw_x", "status"]
KINDS = [b"claim", b"released", b"cancelled", b"condition", b"composed", b"layout", b"other"]
_ID, _KEY = b"0000000a-0007-8000-8000-000000300009", bytes(range(7, 39))
_CONTROLS: list[Control] = [
    Claim(_ID, _KEY, b"f" * 32, 1, b"", 8, 1, 1, "r", "plain"),
    Released(_ID, _KEY),
    Cancelled(_ID),
    Condition(_ID, "orders", "7", (0, 1), ("DONE",), {"FAILED": 409}),
    Composed(_ID, 200, [("a", "b")], b"{}"),
    Layout(1),
]


def _seed(written: Control) -> bytes:
    """The record as `target` draws it: without its MAC, which `target` makes anew."""
    record = control.encode(written, SECRETS, PLACE)
    key = record.key or b""
    headers = [(name, value) for name, value in record.headers if name != "fastgw_mac"]
    seed = bytes([1, len(key)]) + key + bytes([len(headers)])
    for name, value in headers:
        seed += bytes([NAMES.index(name)]) + len(value).to_bytes(2, "big") + value
    return seed + record.value


SEEDS = [_seed(written) for written in _CONTROLS]


def verdict(record: Reply) -> Control | str | None:
    try:
        return control.decode(record, SECRETS, PLACE.topic_id)
    except BadControl as error:
        return str(error)


def target(data: bytes) -> None:
    draw = Draw(data)
    is_signed = draw.number(1)
    key = draw.some_bytes(40)
    headers = [(draw.choice(NAMES), draw.bytes(draw.number(4096))) for _ in range(draw.number(6))]
    record = Reply(key, PLACE.partition, 0, headers, draw.rest())
    if is_signed:
        own = [header for header in headers if header[0].startswith("fastgw_") and header[0] != "fastgw_mac"]
        covered = control._covered(PLACE.topic_id, PLACE.partition, key, record.value, own)
        mac = SECRETS.mac(Purpose.RECORD, *covered).hex().encode()
        record = record._replace(headers=[*own, ("fastgw_mac", mac)])
    read = verdict(record)
    if isinstance(read, str):
        assert read.isprintable()
        return
    assert is_signed, "a MAC was guessed"
    if read is not None:
        again = control.encode(read, SECRETS, PLACE)
        copy = Reply(again.key or b"", PLACE.partition, 0, again.headers, again.value)
        assert verdict(copy) == read
