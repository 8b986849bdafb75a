"""Promise: whatever a request record holds, the service side reads it without an exception: text where there is text, a
deadline or none, JSON or a Problem. And whatever a handler returns becomes a reply that the gateway takes, or a
TypeError or ValueError for its author."""

from __future__ import annotations

from typing import Any

from fastgw.dialects import BadReply
from fastgw.dialects.plain import ReplyWire
from fastgw.messages import Reply as WireReply
from fastgw.service import messages
from fastgw.service.messages import Problem, Reply, Request
from tests.fuzz.drawing import Draw

NAMES = ["http_path", "http_query", "http_param_id", "http_header_x", "deadline", "correlation_id", "content-type"]
SEEDS = [
    b"\3\0\4/a%2\1\6a=b&c=\4\x0d1700000000000\2{}",
    b"\1\4\x0d9999999999999\4\xff\xfe",
    b'\0\0\5status\2{"a": 1}',
]


def target(data: bytes) -> None:
    draw = Draw(data)
    headers = {draw.choice(NAMES): draw.some_bytes(30) for _ in range(draw.number(5))}
    request = Request(draw.some_bytes(60), headers)
    texts = [request.method, request.route, request.path, request.query_string, request.correlation_id]
    texts += [*request.params.values(), *request.query.values(), *request.headers.values()]
    assert all(isinstance(text, str) for text in texts)
    assert request.deadline is None or request.deadline.year < 2300
    assert repr(request)
    body: Any = None
    try:
        body = request.json()
    except Problem:
        body = b"not JSON"
    _reply(draw, body)


def _reply(draw: Draw, body: Any) -> None:
    status = draw.choice([None, 200, 204, 404, 99, 600])
    given = {draw.some_text(8): draw.some_text(12) for _ in range(draw.number(2))}
    try:
        record = messages.reply_record(b"id", Reply(body, status, given))
    except (TypeError, ValueError):
        return
    try:
        answered, _, _ = ReplyWire(given, 1 << 20).answer(WireReply(b"id", 0, 0, record.headers, record.value))
    except BadReply:
        return  # a header name that is no token: said by the gateway, whose list it is not on
    assert 200 <= answered <= 599
