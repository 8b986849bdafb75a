"""What a piece of a stream costs between the core and the transport, and what its format costs before that."""

from __future__ import annotations

import pytest

from fastgw.http.stream_formats import EventStream, JsonArray, JsonLines
from tests.actors.wire_connection import REQUEST_ID, Wire

ITEM = b'{"order": 123456, "state": "shipped", "note": "' + b"x" * 150 + b'"}'
ITEMS = 20
RECORD = b"\n".join([ITEM] * ITEMS)


def test_a_piece_is_written(benchmark):
    wire = Wire().send(b"GET /stream HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    sink = wire.door.sink
    sink.begin(200, [], REQUEST_ID)

    def write() -> bool:
        wire.transport.sent.clear()
        return sink.write(RECORD)

    assert benchmark(write) is True
    assert RECORD in wire.sent


@pytest.mark.parametrize("make", [EventStream, JsonLines, JsonArray])
def test_a_record_of_items_is_encoded(benchmark, make):
    stream = make()
    encoded = benchmark(stream.items, RECORD, ITEMS, 1_000_000, b"v1." + b"t" * 120 + b".1234567.")
    assert encoded.count(ITEM) == ITEMS
