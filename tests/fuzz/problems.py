"""Promise: whatever a detail says, the gateway's own answer is valid JSON in UTF-8 with the status, the outcome and the
id that it was given, and its headers hold nothing of the detail."""

from __future__ import annotations

import orjson

from fastgw import errors, problem
from tests.fuzz.drawing import Draw

SEEDS = [b"\0\5hello", b'\7\4a\0"\\', b"\3\3\xff\xfe\xfd", b"\5\x0e\r\nx-evil: 1\r\n\r\n"]


def target(data: bytes) -> None:
    draw = Draw(data)
    ending = draw.choice(errors.ENDINGS)
    request_id = b"00000000-0000-8000-8000-000000000001"
    detail = draw.broken_text(200)
    status, headers, body, _ = problem.answer(ending, detail, request_id)
    told = orjson.loads(body)
    assert (status, told["status"], told["outcome"]) == (ending.status, ending.status, ending.outcome.value)
    assert told["request_id"] == request_id.decode()
    assert all(name.isascii() and value.isprintable() for name, value in headers)
    if detail.isascii():
        assert told["detail"] == detail
