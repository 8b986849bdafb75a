"""Which encoding an answer gets, and what becomes of its headers."""

from __future__ import annotations

import random
import zlib

import msgspec
import pytest
import zstandard

from fastgw.config import Compression
from fastgw.http.compression import REMEMBERED_MAX, Compressor, choice
from fastgw.messages import Head

BODY = b"to be or not to be, that is the question; " * 100
SETTINGS = Compression(encodings=("zstd", "gzip"))
JSON = ("content-type", "application/json")
VARY = ("vary", "accept-encoding")


class Lines(dict[str, list[str]]):
    """Request headers as a front has them."""

    def get_all(self, key: str, /) -> list[str]:
        return self.get(key, [])


def decoded(encoding: str, body: bytes) -> bytes:
    """By other libraries than those that encode: a client's."""
    if encoding == "gzip":
        return zlib.decompress(body, 16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor().decompress(body) if encoding == "zstd" else body


def answered(accepted, headers=(JSON,), body=BODY, status=200, method="GET", **settings):
    """Headers and body that the front is told."""
    lines = {} if accepted is None else {"accept-encoding": [accepted]}
    head = Head(method, "/", "", Lines(lines), ["shop.test"], None, False)
    told = []
    compressor = Compressor(msgspec.structs.replace(SETTINGS, **settings))
    compressor.wrapping(lambda *answer: told.append(answer), head)(status, list(headers), body, b"id")
    assert [(one[0], one[3]) for one in told] == [(status, b"id")]
    return told[0][1], told[0][2]


@pytest.mark.parametrize(
    ("accepted", "chosen", "refuses_identity"),
    [
        ("gzip", "gzip", False),
        ("GZip", "gzip", False),
        ("x-gzip", "gzip", False),
        ("zstd", "zstd", False),
        ("gzip, deflate, br, zstd", "zstd", False),  # of equals the first that is configured
        ("gzip;q=1.0, zstd;q=0.5", "gzip", False),
        ("gzip ; Q=0.1 , zstd; q=0.2", "zstd", False),
        ("gzip;q=0, zstd;q=0", "identity", False),
        ("gzip;q=0", "identity", False),
        ("zstd;q=0, *", "gzip", False),
        ("*", "zstd", False),
        ("*;q=0", "identity", False),
        ("gzip, *;q=0", "gzip", True),
        ("identity", "identity", False),
        ("identity;q=0", "identity", False),  # nothing else is wanted either: it is sent all the same
        ("identity;q=0, gzip", "gzip", True),
        ("identity;q=0, *", "zstd", True),
        ("identity;q=0.5, gzip;q=0.2", "identity", False),
        ("identity;q=0.2, gzip;q=0.5", "gzip", False),
        ("identity, gzip", "gzip", False),
        ("br, deflate", "identity", False),
        ("gzip;q=2", "identity", False),
        ("gzip;q=", "identity", False),
        ("gzip;q=0.0001", "identity", False),
        ("gzip;q=-1", "identity", False),
        ("gzip;q=nan", "identity", False),
        ("gzip;level=9;q=0.3", "gzip", False),
        (", ,gzip,", "gzip", False),
        ("gzipped", "identity", False),
        (";q=1", "identity", False),
        ("", "identity", False),
    ],
)
def test_the_encoding_that_a_client_likes_best(accepted, chosen, refuses_identity):
    assert choice(accepted, ("zstd", "gzip")) == (chosen, refuses_identity)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_answer_is_encoded_and_says_so(encoding):
    headers, body = answered(encoding)
    assert headers == [JSON, VARY, ("content-encoding", encoding)]
    assert len(body) < len(BODY) / 5
    assert decoded(encoding, body) == BODY


@pytest.mark.parametrize("accepted", [None, "", "br", "identity", "gzip;q=0"])
def test_who_does_not_ask_gets_the_bytes_as_they_are_and_caches_are_told_that_others_may_not(accepted):
    assert answered(accepted) == ([JSON, VARY], BODY)


def test_an_answer_to_head_varies_like_that_to_get():
    assert answered("gzip", method="HEAD") == ([JSON, VARY], BODY)


UNTOUCHED = {
    "has an encoding": {"headers": [JSON, ("content-encoding", "br")]},
    "is a part": {"headers": [JSON, ("content-range", "bytes 0-1/9")]},
    "is a part by its status": {"status": 206},
    "204": {"status": 204},
    "205": {"status": 205},
    "304": {"status": 304},
    "no content": {"body": b""},
    "no-transform": {"headers": [JSON, ("cache-control", "max-age=5, No-Transform")]},
    "a digest": {"headers": [JSON, ("repr-digest", "sha-256=:AAAA:")]},
    "another type": {"headers": [("content-type", "image/png")]},
    "no type": {"headers": []},
    "a type that only begins like one": {"headers": [("content-type", "application/jsonish")]},
    "too small": {"body": b"x" * 1023},
    "too large": {"body": b"x" * ((256 << 10) + 1)},
}


@pytest.mark.parametrize("answer", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_stays_as_it_is(answer):
    headers = answer.get("headers", [JSON])
    assert answered("gzip", **answer) == (headers, answer.get("body", BODY))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "text/html;charset=x",
        "application/problem+json",
        "text/css ;a",
    ],
)
def test_types_are_matched_without_their_parameters(content_type):
    headers, _ = answered("gzip", [("content-type", content_type)])
    assert ("content-encoding", "gzip") in headers


@pytest.mark.parametrize("size", [1024, 256 << 10])
def test_sizes_from_the_least_to_the_most_are_encoded(size):
    assert ("content-encoding", "zstd") in answered("zstd", body=b"x" * size)[0]


@pytest.mark.parametrize(
    "answer", [{"body": b"short"}, {"headers": [("content-type", "image/png")]}, {"body": bytes(range(256)) * 8}]
)
def test_who_refuses_the_bytes_as_they_are_gets_even_those_encoded_that_gain_nothing(answer):
    headers, body = answered("identity;q=0, gzip", **answer)
    assert ("content-encoding", "gzip") in headers
    assert decoded("gzip", body) == answer.get("body", BODY)


def test_what_would_become_larger_stays_as_it_is():
    noise = random.Random(3).randbytes(2000)
    for encoding in ("gzip", "zstd"):
        assert answered(encoding, body=noise) == ([JSON, VARY], noise)


def test_other_bytes_have_no_strong_tag_and_no_ranges():
    strong = [JSON, ("etag", '"7"'), ("accept-ranges", "bytes")]
    assert answered("gzip", strong)[0] == [JSON, ("etag", 'W/"7"'), VARY, ("content-encoding", "gzip")]
    assert answered("gzip", [JSON, ("etag", 'W/"7"')])[0][1] == ("etag", 'W/"7"')
    assert answered("br", strong)[0] == [*strong, VARY]


@pytest.mark.parametrize("vary", ["*", "Accept-Encoding", "origin, accept-encoding"])
def test_a_vary_that_says_it_already_is_left_alone(vary):
    assert answered("br", [JSON, ("vary", vary)])[0] == [JSON, ("vary", vary)]


def test_another_vary_gets_a_line_more():
    assert answered("br", [JSON, ("vary", "origin")])[0] == [JSON, ("vary", "origin"), VARY]


def test_the_headers_that_it_is_told_are_everybodys_and_stay_as_they_are():
    headers = [JSON, ("etag", '"7"')]
    answered("gzip", headers)
    assert headers == [JSON, ("etag", '"7"')]


def test_what_is_remembered_of_clients_is_bounded():
    compressor = Compressor(SETTINGS)
    for number in range(3 * REMEMBERED_MAX):
        head = Head("GET", "/", "", Lines({"accept-encoding": [f"gzip, x-{number}"]}), ["a"], None, False)
        compressor.wrapping(lambda *_: None, head)(200, [JSON], BODY, b"")
        assert len(compressor._chosen) <= REMEMBERED_MAX


def test_a_long_value_is_not_remembered():
    compressor, long = Compressor(SETTINGS), "gzip" + ", x-filler" * 1000
    head = Head("GET", "/", "", Lines({"accept-encoding": [long]}), ["a"], None, False)
    before = dict(compressor._chosen)
    sent = []
    compressor.wrapping(lambda _status, headers, *_: sent.append(dict(headers)), head)(200, [JSON], BODY, b"")
    assert sent[0]["content-encoding"] == "gzip"
    assert compressor._chosen == before
