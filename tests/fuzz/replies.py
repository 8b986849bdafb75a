"""Promise: whatever a record on the response topic holds, it becomes an answer that a front can send or a BadReply:
status 200 to 599, header names that are tokens, values without control characters. The same record is the same
answer, however often it comes."""

from __future__ import annotations

import re
from typing import Any

from fastgw.dialects import BadReply, plain
from fastgw.dialects.plain import ReplyWire
from tests.fuzz.drawing import Draw

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_VALUE = re.compile(r"(?![\t ])[\t\x20-\x7e\x80-\xff]*(?<![\t ])").fullmatch
NAMES = [
    "status",
    "content-type",
    "correlation_id",
    "x-told",
    "X-Told",
    "connection",
    "set-cookie",
    "content-length",
    "etag",
]
BODY_BYTES_MAX = 25
ALLOWED = ["x-told", "set-cookie", "content-length", "correlation_id"]

SEEDS = [
    b"\4key-\3\0\3201\1\0\5a/b; c",
    b"\0\2\3\5hello\3\5x\r\ny:\0\2999",
    b"\4abcd\1\0\3099\0\0\3\xd9\xa1\0\4+200",
]


class Message:
    """A consumed record as confluent-kafka gives it."""

    def __init__(self, draw: Draw) -> None:
        self._key: Any = draw.choice([None, draw.some_bytes(40), draw.some_text(40)])
        self._headers = None
        if draw.number(7):
            self._headers = [
                (draw.choice(NAMES) if draw.number(3) else draw.some_text(12), draw.choice([None, draw.some_bytes(30)]))
                for _ in range(draw.number(6))
            ]
        self._value: Any = draw.choice([None, draw.some_bytes(30)])

    def key(self) -> Any:
        return self._key

    def headers(self) -> Any:
        return self._headers

    def value(self) -> Any:
        return self._value

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 7


_WIRE = ReplyWire(ALLOWED, BODY_BYTES_MAX)  # for all inputs: what it remembers of one must not show in another


def target(data: bytes) -> None:
    reply = plain.decode_reply(Message(Draw(data)))
    try:
        first = ReplyWire(ALLOWED, BODY_BYTES_MAX).answer(reply)
    except BadReply:
        first = None
    try:
        status, headers, body = _WIRE.answer(reply)
    except BadReply:
        assert first is None
        return
    assert (status, headers, body) == first
    assert 200 <= status <= 599
    assert isinstance(body, bytes)
    for name, value in headers:
        assert _TOKEN(name), name
        assert _VALUE(value), value
