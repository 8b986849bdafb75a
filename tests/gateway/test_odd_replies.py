"""A table of odd replies: what a service may write on the response topic, and what its client is answered.

Each row goes through the whole gateway, on both fronts and both Kafka links. The rules are in docs/routes.md
("Replies"). A header of the answer that no row names must not be there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from tests.actors.hand_service import hand_service
from tests.fronts.http2_client import Http2Client
from tests.fronts.raw_http import Answer, RawClient
from tests.gateway.gateways import Gateway
from tests.ports import free_port

HTTP2 = "granian, HTTP/2"
FRONTS = ("express", "granian", HTTP2)
LINKS = ("native", "public")

CONFIG = """
[limits]
max_reply = "64KiB"
max_reply_headers = "2KiB"
[[route]]
method = ["GET", "HEAD", "POST"]
path = "/odd"
topic = "{hand}"
timeout = "20s"
response_headers = ["x-told", "x-other", "location", "set-cookie", "vary", "cache-control"]
[[listen]]
bind = "127.0.0.1:{express}"
front = "express"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
http = "auto"
"""

OF_THE_FRONT = {"date", "server", "connection", "content-length", "fastgw-outcome", "x-request-id"}
JSON = ("content-type", "application/json")
OTHER_ID = b"ffffffff-0000-8000-8000-000000000000"  # of another node: a key of this shape would be its reply
OTHER_UUID = b"550e8400-e29b-41d4-a716-446655440000"
REGISTRY = b"\0\0\0\1\x2a"  # magic byte, number of the schema

Named = bytes | None | Callable[[bytes], bytes]  # of the record: what it is, or made from the request's id


class Odd(NamedTuple):
    """One row. The rest of an answer that is expected is 200 without headers but JSON's content type."""

    name: str
    key: Named = lambda raw: raw
    headers: Sequence[tuple[str, Named]] = ()
    value: bytes | None = b"{}"
    status: int = 200
    told: Sequence[tuple[str, str]] = (JSON,)
    body: bytes | None = None  # None: the value
    method: str = "POST"


def plain(raw: bytes) -> bytes:
    return raw


def told(*headers: tuple[str, Named], **row: object) -> Odd:
    """A row whose key is in order: its name is what is odd about its headers."""
    return Odd(headers=headers, **row)  # type: ignore[arg-type]


def bad(name: str, *headers: tuple[str, Named], value: bytes = b"{}") -> Odd:
    """A row that is 502 `bad_reply`."""
    return Odd(name, headers=headers, value=value, status=502)


def unheard(name: str, key: Named, *headers: tuple[str, Named]) -> Odd:
    """A row that answers nobody."""
    return Odd(name, key, headers, status=0)


IDS = [
    Odd("the id as it was sent"),
    Odd("the id in upper case", bytes.upper),
    Odd("the id in JSON", lambda raw: b'"%s"' % raw),
    Odd("the id in JSON, upper case", lambda raw: b'"%s"' % raw.upper()),
    Odd("the id behind a schema's number", lambda raw: REGISTRY + raw),
    Odd("JSON behind a schema's number", lambda raw: REGISTRY + b'"%s"' % raw),
    Odd("an Avro string behind a schema's number", lambda raw: REGISTRY + b"H" + raw),
    Odd("an Avro string, the schema in a header", lambda raw: b"H" + raw),
    Odd("an Avro string in upper case", lambda raw: REGISTRY + b"H" + raw.upper()),
    Odd("Protobuf behind a schema's number", lambda raw: REGISTRY + b"\0\n$" + raw),
    Odd("no key, the id in the header", None, [("correlation_id", plain)]),
    Odd("an empty key, the id in the header", b"", [("correlation_id", plain)]),
    Odd("another key, the id in the header", b"customer-7", [("correlation_id", plain)]),
    Odd("a UUID as key, the id in the header", OTHER_UUID, [("correlation_id", plain)]),
    Odd("a header of any case", b"customer-7", [("Correlation_ID", plain)]),
    Odd("a header in capitals", None, [("CORRELATION_ID", bytes.upper)]),
    Odd("the id in JSON in the header", None, [("correlation_id", lambda raw: b'"%s"' % raw)]),
    Odd("the id as Avro in the header", None, [("correlation_id", lambda raw: REGISTRY + b"H" + raw)]),
    Odd("a foreign header beside the right key", plain, [("correlation_id", OTHER_UUID)]),
    Odd("the header of another request of ours beside the right key", plain, [("correlation_id", OTHER_ID)]),
    Odd("a foreign header beside a key in JSON", lambda raw: b'"%s"' % raw, [("correlation_id", b"c-7")]),
    Odd("both", plain, [("correlation_id", plain)]),
    Odd("two headers, the second is the id", None, [("correlation_id", OTHER_UUID), ("correlation_id", plain)]),
    Odd("an empty and a null header before the id", None,
        [("correlation_id", b""), ("correlation_id", None), ("correlation_id", plain)]),
    unheard("no key, no header", None),
    unheard("an empty key", b""),
    unheard("another UUID", OTHER_UUID),
    unheard("half of the id", lambda raw: raw[:18]),
    unheard("something behind the id", lambda raw: raw + b"\n"),
    unheard("an opening quote alone", lambda raw: b'"' + raw),
    unheard("an Avro string of another length", lambda raw: REGISTRY + b"J" + raw),
    unheard("a schema's number alone", REGISTRY),
    unheard("the id without dashes", lambda raw: raw.replace(b"-", b"")),
    unheard("another node's id", OTHER_ID),
    unheard("another node's id beside the right header", OTHER_ID, ("correlation_id", plain)),
    unheard("an id that was changed", lambda raw: raw[:35] + (b"0" if raw[35:] != b"0" else b"1")),
    unheard("a null header", None, ("correlation_id", None)),
]  # fmt: skip

STATUSES = [
    told(("status", b"201"), name="a status", status=201),
    told(("Status", b"202"), name="a status of another case", status=202),
    told(("STATUS", b"599"), name="a status in capitals", status=599),
    told(("status", b'"201"'), name="a status in JSON", status=201),
    told(("status", b" 201\t"), name="a status with space around it", status=201),
    told(("status", b'" 201 "'), name="a status in JSON with space around it", status=201),
    told(("status", b""), name="an empty status"),
    told(("status", None), name="a null status"),
    told(("status", b"  "), name="a status of spaces"),
    told(("status", b'""'), name="a status of quotes"),
    told(("status", b"404"), ("status", b"201"), name="two statuses", status=201),
    told(("status", b"404"), ("status", b""), name="a status and an empty one", status=404),
    told(("status", b"200"), name="200 itself"),
    bad("status 0", ("status", b"0")),
    bad("status 100", ("status", b"100")),
    bad("status 101", ("status", b"101")),
    bad("status 199", ("status", b"199")),
    bad("status 600", ("status", b"600")),
    bad("a status with sign", ("status", b"+201")),
    bad("a status with a fraction", ("status", b"201.0")),
    bad("a status with its reason", ("status", b"201 Created")),
    bad("a status as four bytes", ("status", b"\0\0\0\xc9")),
    bad("a status in Arabic digits", ("status", "٢٠٠".encode())),
    bad("a status in JSON in JSON", ("status", rb'"\"201\""')),
    bad("a good status before a bad one", ("status", b"200"), ("status", b"two")),
]

CONTENT = [
    told(name="a null value", value=None, told=()),
    told(name="an empty value", value=b"", told=()),
    told(("content-type", b""), name="an empty value and an empty content type", value=b"", told=()),
    told(("content-type", b"text/plain"), name="an empty value and a content type", value=b"",
         told=[("content-type", "text/plain")]),
    told(("status", b"404"), name="a null value and a status", value=None, status=404, told=()),
    told(("content-type", b""), name="an empty content type"),
    told(("content-type", None), name="a null content type"),
    told(("content-type", b'""'), name="a content type of quotes"),
    told(("etag", b'""'), name="an etag of quotes is one", told=[("etag", '""'), JSON]),
    told(("content-type", b'"application/json"'), name="a content type in JSON"),
    told(("content-type", b'"text/plain;charset=\\"utf-8\\""'), name="a content type in JSON with quotes inside",
         told=[("content-type", 'text/plain;charset="utf-8"')]),
    told(("content-type", b'text/plain; charset="utf-8"'), name="a content type with quotes inside",
         told=[("content-type", 'text/plain; charset="utf-8"')]),
    told(("Content-Type", b"text/css"), name="a content type of another case", told=[("content-type", "text/css")]),
    told(("content-type", b"text/css"), ("Content-TYPE", b"text/html"), name="two content types",
         told=[("content-type", "text/html")]),
    told(("content-type", b" text/css "), name="a content type with space around", told=[("content-type", "text/css")]),
    told(name="bytes of all kinds", value=bytes(range(256))),
    told(name="a value of 64 KiB", value=b"x" * (64 << 10)),
    bad("the first items of a stream", ("stream_attempt", b"a"), ("stream_seq", b"0"), ("stream_count", b"1")),
    bad("a sign of life of a stream", ("stream_attempt", b"a"), ("stream_beat", b"5000"), value=b""),
    bad("the end of a stream", ("stream_attempt", b"a"), ("stream_end", b"ok"), ("stream_total", b"0"), value=b""),
    bad("a value of more", value=b"x" * (64 << 10) + b"x"),
    told(("status", b"204"), ("content-type", b"text/css"), name="204 with content", status=204, told=(), body=b""),
    told(("status", b"204"), name="204", value=b"", status=204, told=()),
    told(("status", b"205"), ("content-encoding", b"gzip"), name="205 with content", status=205, told=(), body=b""),
    told(("status", b"304"), ("etag", b'"1"'), ("content-type", b"text/css"), name="304 with content", status=304,
         told=[("etag", '"1"')], body=b""),
    told(("status", b'"204"'), name="204 in JSON", value=None, status=204, told=()),
    told(name="an answer to HEAD", method="HEAD", body=b""),
    told(("status", b"204"), name="204 to HEAD", method="HEAD", value=b"", status=204, told=()),
]  # fmt: skip

GZIP = b"\x1f\x8b\x08\0gzip, or so"

REPRESENTATION = [
    told(("content-encoding", b"gzip"), name="an encoding", value=GZIP, told=[("content-encoding", "gzip"), JSON]),
    told(("content-encoding", b'"gzip"'), name="an encoding in JSON", told=[("content-encoding", "gzip"), JSON]),
    told(("Content-Encoding", b"br"), ("content-encoding", b"gzip"), name="two encodings",
         told=[("content-encoding", "br"), ("content-encoding", "gzip"), JSON]),
    told(("content-encoding", b""), name="an empty encoding"),
    told(("content-language", b"de"), ("content-language", b"uk"), name="two languages",
         told=[("content-language", "de"), ("content-language", "uk"), JSON]),
    told(("content-location", b"/orders/7"), name="a location of the content",
         told=[("content-location", "/orders/7"), JSON]),
    told(("content-location", b"/a"), ("content-location", b"/b"), name="two locations of the content",
         told=[("content-location", "/b"), JSON]),
    told(("status", b"206"), ("content-range", b"bytes 0-1/9"), name="a part", status=206,
         told=[("content-range", "bytes 0-1/9"), JSON]),
    told(("etag", b'"abc"'), name="an etag keeps its quotes", told=[("etag", '"abc"'), JSON]),
    told(("etag", b'W/"abc"'), name="a weak etag", told=[("etag", 'W/"abc"'), JSON]),
    told(("etag", rb'"\"abc\""'), name="an etag in JSON", told=[("etag", '"abc"'), JSON]),
    told(("etag", rb'"W/\"abc\""'), name="a weak etag in JSON", told=[("etag", 'W/"abc"'), JSON]),
    told(("etag", b'"1"'), ("ETag", b'"2"'), name="two etags", told=[("etag", '"2"'), JSON]),
    told(("content-disposition", b"inline"), ("content-disposition", b'attachment; filename="a.csv"'), name="a file",
         told=[("content-disposition", 'attachment; filename="a.csv"'), JSON]),
    told(("content-digest", b"sha-256=:AA==:"), ("repr-digest", b"sha-256=:AA==:"), name="digests",
         told=[("content-digest", "sha-256=:AA==:"), ("repr-digest", "sha-256=:AA==:"), JSON]),
    told(("last-modified", b'"Mon, 30 Nov 2026 00:00:00 GMT"'), name="a date in JSON",
         told=[("last-modified", "Mon, 30 Nov 2026 00:00:00 GMT"), JSON]),
]  # fmt: skip

PASSED = [
    told(("x-told", b"1"), name="a header of the route", told=[("x-told", "1"), JSON]),
    told(("X-TOLD", b"1"), name="a header of the route in capitals", told=[("x-told", "1"), JSON]),
    told(("x-told", b"1"), ("x-told", b"2"), ("X-Told", b"1"), name="a header three times",
         told=[("x-told", "1"), ("x-told", "2"), ("x-told", "1"), JSON]),
    told(("set-cookie", b"a=1, b"), ("set-cookie", b"b=2"), name="two cookies",
         told=[("set-cookie", "a=1, b"), ("set-cookie", "b=2"), JSON]),
    told(("x-told", b""), ("x-other", None), name="empty and null headers"),
    told(("x-told", b" \t"), name="a header of space"),
    told(("x-told", b"\t a\tb "), name="space around a header", told=[("x-told", "a\tb"), JSON]),
    told(("x-told", b'"quoted"'), name="a header that is passed on keeps its quotes",
         told=[("x-told", '"quoted"'), JSON]),
    told(("x-secret", b"1"), ("kafka_replyTopic", b"x"), ("spring_json_header_types", b"{}"), name="headers of others"),
    told(("connection", b"close"), ("transfer-encoding", b"chunked"), ("content-length", b"1"), ("date", b"never"),
         ("keep-alive", b"1"), ("upgrade", b"h2c"), name="headers of one connection"),
    told(("x-told", "ключ".encode()), name="UTF-8 in a header",
         told=[("x-told", "ключ".encode().decode("latin-1")), JSON]),
    told(("x-told", b"\xff\x80caf\xe9"), name="bytes above 127 in a header",
         told=[("x-told", "\xff\x80caf\xe9"), JSON]),
    told(("content-type", b"text/plain; x=\xe9"), name="bytes above 127 in a content type",
         told=[("content-type", "text/plain; x=\xe9")]),
    told(("x-told", b"x" * (2048 - 6 - 4 - len("content-type") - len("application/json") - 4)),
         name="headers of 2 KiB", told=[("x-told", "x" * 2006), JSON]),
    bad("headers of more", ("x-told", b"x" * 2007)),
    bad("headers of more in many lines", *[("x-told", b"x" * 90)] * 21),
    bad("a huge header", ("x-told", b"x" * 900_000)),
    told(("x-secret", b"x" * 900_000), name="a huge header that stays"),
    bad("a line break in a header", ("x-told", b"a\r\nset-cookie: b=1")),
    bad("a line feed in a header", ("x-told", b"a\nb")),
    bad("NUL in a header", ("x-told", b"a\0b")),
    bad("DEL in a header", ("x-told", b"a\x7fb")),
    bad("a line break in an etag", ("etag", b'"a\r\nb"')),
    bad("a line break in JSON", ("content-type", rb'"text/plain\r\nset-cookie: b=1"')),
    told(("x-secret", b"a\r\nb: c"), name="a line break in a header that stays"),
    told(("", b"1"), ("a b", b"1"), ("ä\r\n", b"1"), name="names that HTTP does not have"),
    told(*[(f"x-{number}", b"1") for number in range(2000)], name="two thousand headers"),
]  # fmt: skip

TABLE = [*IDS, *STATUSES, *CONTENT, *REPRESENTATION, *PASSED]


@pytest.fixture(scope="module", params=LINKS)
def house(request, tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway with both fronts, whose service is played by the test."""
    topics = make_module_topics({"replies": 4, "hand": 1})
    ports = {"express": free_port(), "granian": free_port()}
    gateway = Gateway(
        tmp_path_factory.mktemp("odd"), kafka_bootstrap, topics["replies"], [], workers=1,
        kafka=f'link = "{request.param}"', more=CONFIG.format(hand=topics["hand"], **ports),
    )  # fmt: skip
    with gateway, hand_service(kafka_bootstrap, [topics["hand"]]) as service:
        clients = {front: RawClient(f"127.0.0.1:{port}") for front, port in ports.items()}
        http2 = Http2Client(f"127.0.0.1:{ports['granian']}")
        yield SimpleNamespace(gateway=gateway, service=service, clients=clients, http2=http2)
        for client in (*clients.values(), http2):
            client.sock.close()


def made(named: Named, raw: bytes) -> bytes | None:
    return named(raw) if callable(named) else named


def test_every_row_has_a_name_of_its_own():
    assert len({row.name for row in TABLE}) == len(TABLE) > 100


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_an_odd_reply_is_answered_as_the_table_says(house, front, row):
    await_answer = _send(house, front, row.method)
    request = house.service.take()
    raw = request.correlation_id
    where = request.headers["reply_to"].decode(), int(request.headers["reply_partition"])
    headers = [(name, made(value, raw)) for name, value in row.headers]
    house.service.post(*where, made(row.key, raw), row.value, headers)
    if row.status == 0:
        house.service.post(*where, raw, b"heard")
    answer = await_answer()
    if row.status == 0:
        assert (answer.status, answer.body) == (200, b"heard")
        return
    assert answer.status == row.status
    if row.status == 502:
        assert json.loads(answer.body)["type"] == "urn:fastgw:problem:bad_reply"
        assert answer.values("fastgw-outcome") == ["recorded"]
        return
    assert sorted(header for header in answer.headers if header[0] not in OF_THE_FRONT) == sorted(row.told)
    assert answer.body == (row.value or b"" if row.body is None else row.body)


def _send(house: SimpleNamespace, front: str, method: str) -> Callable[[], Answer]:
    """Sends a request through a front; the result waits for its answer."""
    if front == HTTP2:
        return partial(house.http2.answer, house.http2.request("/odd", method))
    client = house.clients[front]
    client.send(f"{method} /odd HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode())
    return partial(client.answer, method)
