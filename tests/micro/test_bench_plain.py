"""What it costs to turn a request into record headers, and a reply record into an HTTP answer."""

from __future__ import annotations

from fastgw.dialects.plain import CORRELATION_ID, ReplyWire, RequestWire, decode_reply
from fastgw.messages import Head
from tests.dialects.test_plain import ID, FakeHeaders, FakeMessage


def test_the_headers_of_a_request(benchmark):
    wire = RequestWire("shop.replies", "/customers/{id}", ["POST"], ["accept-language"])
    headers = FakeHeaders({"content-type": "application/json", "accept-language": "en"})
    head = Head("POST", "/customers/7", "", headers, ["shop.test"], 256, False)
    arguments = (ID, 3, 1_900_000_000_000, "POST", "/customers/7", "", (("id", "7"),), head)
    assert dict(benchmark(wire.headers, *arguments))[CORRELATION_ID] == ID


def test_reading_a_reply(benchmark):
    message = FakeMessage(headers=[(CORRELATION_ID, ID), ("status", b"201")], value=b"x" * 256)
    assert benchmark(decode_reply, message).correlation_id == ID


def test_the_http_answer_of_a_reply(benchmark):
    reply = decode_reply(FakeMessage(headers=[(CORRELATION_ID, ID), ("status", b"201")], value=b"x" * 256))
    assert benchmark(ReplyWire(["location"], 1000).answer, reply)[0] == 201
