"""Answers that are compressed on request, as they reach a client; the rules are in tests/http/test_compression.py."""

from __future__ import annotations

import zlib

import pytest
import zstandard

from tests.fronts.kinds import fronts

pytestmark = fronts()

ROUTES = """
[[route]]
method = ["GET", "HEAD"]
path = "/packed"
topic = "held"
response_headers = ["cache-control"]
[[route]]
method = "GET"
path = "/secret"
topic = "held"
compress = false
[compression]
encodings = ["zstd", "gzip"]
"""
BODY = b'{"text": "to be or not to be"}' * 100


def ask(house, path="/packed", method="GET", accepted="gzip", headers=()):
    client = house.client()
    client.send(f"{method} {path} HTTP/1.1\r\nHost: shop.test\r\nAccept-Encoding: {accepted}\r\n\r\n".encode())
    house.reply(house.held()[0], BODY, tuple(headers))
    house.door.held.clear()
    return client.answer(method)


@pytest.fixture
def house(serve):
    return serve(more_routes=ROUTES)


@pytest.mark.parametrize(
    ("accepted", "decode"),
    [("gzip", lambda body: zlib.decompress(body, 31)), ("zstd", zstandard.ZstdDecompressor().decompress)],
)
def test_an_answer_comes_in_the_encoding_that_its_client_likes(house, accepted, decode):
    answer = ask(house, accepted=accepted, headers=[("etag", b'"7"')])
    assert answer.values("content-encoding") == [accepted]
    assert answer.values("vary") == ["accept-encoding"]
    assert answer.values("etag") == ['W/"7"']
    assert answer.values("content-length") == [str(len(answer.body))]
    assert decode(answer.body) == BODY


def test_several_lines_are_one_list(house):
    answer = ask(house, accepted="br\r\nAccept-Encoding: gzip")
    assert answer.values("content-encoding") == ["gzip"]


@pytest.mark.parametrize("accepted", ["br", "identity", "gzip;q=0"])
def test_who_does_not_want_it_gets_the_bytes_as_they_are(house, accepted):
    answer = ask(house, accepted=accepted)
    assert (answer.values("content-encoding"), answer.body) == ([], BODY)
    assert answer.values("vary") == ["accept-encoding"]


def test_what_a_service_has_encoded_goes_out_as_it_is(house):
    answer = ask(house, headers=[("content-encoding", b"br")])
    assert (answer.values("content-encoding"), answer.body) == (["br"], BODY)


def test_no_transform_is_obeyed(house):
    answer = ask(house, headers=[("cache-control", b"no-transform")])
    assert (answer.values("content-encoding"), answer.body) == ([], BODY)


def test_a_route_may_be_left_out(house):
    answer = ask(house, "/secret")
    assert (answer.values("content-encoding"), answer.values("vary"), answer.body) == ([], [], BODY)


def test_the_answer_to_head_is_that_to_get_without_encoding(house):
    answer = ask(house, method="HEAD")
    assert answer.values("content-encoding") == []
    assert answer.values("content-length") == [str(len(BODY))]
    assert answer.values("vary") == ["accept-encoding"]


def test_without_the_setting_nothing_is_compressed_and_nothing_varies(serve):
    house = serve()
    answer = ask(house, "/held")
    assert (answer.values("content-encoding"), answer.values("vary"), answer.body) == ([], [], BODY)
