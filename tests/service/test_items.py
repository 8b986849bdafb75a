"""What a handler yields, as bytes."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.service import Reply
from fastgw.service.items import ItemEncoder


@pytest.mark.parametrize(
    ("item", "encoded"), [({"a": 1}, b'{"a":1}'), ("x\ny", b'"x\\ny"'), (None, b"null"), (0, b"0"), ([], b"[]")]
)
def test_items_are_json_on_one_line(item: Any, encoded: bytes) -> None:
    encoder = ItemEncoder(b"id")
    assert encoder.encode(item) == encoded
    assert not encoder.is_bytes
    assert encoder.head(b"json/type") == [("correlation_id", b"id"), ("content-type", b"json/type")]


@pytest.mark.parametrize("item", [b"x", bytearray(b"x"), memoryview(b"x")], ids=lambda item: type(item).__name__)
def test_bytes_are_sent_as_they_are(item: Any) -> None:
    encoder = ItemEncoder(b"id")
    assert encoder.encode(item) == b"x"
    assert encoder.is_bytes
    assert encoder.head(b"json/type") == [("correlation_id", b"id"), ("content-type", b"application/octet-stream")]


def test_a_reply_comes_first_and_gives_the_head() -> None:
    encoder = ItemEncoder(b"id")
    assert encoder.encode(Reply(b"a,b", status=206, headers={"content-type": "text/csv", "x-rows": 2})) == b"a,b"
    assert encoder.encode(b"c,d") == b"c,d"
    headers = [("correlation_id", b"id"), ("status", b"206"), ("x-rows", b"2"), ("content-type", b"text/csv")]
    assert encoder.head(b"json/type") == headers


def test_a_reply_without_body_is_no_item() -> None:
    encoder = ItemEncoder(b"id")
    assert encoder.encode(Reply(headers={"x-a": "b"})) == b""
    assert encoder.status == 200
    assert encoder.encode(1) == b"1"


@pytest.mark.parametrize(
    ("yielded", "says"),
    [
        ([1, Reply(2)], "only be the first value"),
        ([Reply(1), Reply(2)], "only be the first value"),
        ([1, b"x"], "JSON values, like the items before, got bytes"),
        ([b"x", "y"], "bytes, like the items before, got str"),
        ([b"", "y"], "got str"),
        ([object()], "not JSON serializable"),
        ([Reply(1, status=99)], "200 to 599"),
        ([Reply(1, headers={"a b": 1})], "a b"),
    ],
)
def test_what_cannot_be_sent_is_refused(yielded: list[Any], says: str) -> None:
    encoder = ItemEncoder(b"id")
    for each in yielded[:-1]:
        encoder.encode(each)
    with pytest.raises((TypeError, ValueError), match=says):
        encoder.encode(yielded[-1])
