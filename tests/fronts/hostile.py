"""Requests that no honest client sends, as raw bytes, and what a front may do with each.

After each of them `NEXT` is sent on the same connection: it must never be served, because where one request is in
doubt nobody knows where the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NEXT = b"GET /echo?next HTTP/1.1\r\nHost: shop.test\r\n\r\n"

CLOSED = 0  # in the place of a status: the connection ends without an answer
SERVED = 200  # not refused at all: the front's parser hides what is wrong, and nothing in it is ambiguous


class Hostile(NamedTuple):
    """One row. `by_front` stands for `statuses` where a front's parser decides before the gateway can."""

    name: str
    raw: bytes
    statuses: frozenset[int]
    by_front: dict[str, frozenset[int]]

    def allowed(self, front: str) -> frozenset[int]:
        """The statuses that this front may answer with."""
        return self.by_front.get(front, self.statuses)


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /echo HTTP/1.1", b"Host: shop.test", *lines)) + b"\r\n\r\n" + body


def _get(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"GET " + target + b" HTTP/1.1", *(lines or (b"Host: shop.test",)))) + b"\r\n\r\n"


def _bad(name: str, raw: bytes, *statuses: int, **by_front: int) -> Hostile:
    """A row that is 400 unless it says otherwise; `granian=411` is that front's own status."""
    return Hostile(
        name, raw, frozenset(statuses or (400,)), {front: frozenset((status,)) for front, status in by_front.items()}
    )


SMUGGLED = b"GET /echo?smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"

# hyper forgets a Content-Length beside chunks, and ends the connection after the answer (RFC 9112, 6.1 allows it, and
# Go's net/http does the same): granian serves such a request, and nothing behind it.
FRAMING = (
    _bad("a negative length", _post(b"Content-Length: -1")),
    _bad("a signed length", _post(b"Content-Length: +5", body=b"hello")),
    _bad("a hexadecimal length", _post(b"Content-Length: 0x5", body=b"hello")),
    _bad("a length with a fraction", _post(b"Content-Length: 5.0", body=b"hello")),
    _bad("an empty length", _post(b"Content-Length:")),
    _bad("a list as length", _post(b"Content-Length: 5, 5", body=b"hello")),
    _bad("a length with a blank in it", _post(b"Content-Length: 1 0", body=b"hello")),
    _bad("a length beyond 64 bits", _post(b"Content-Length: 18446744073709551621", body=b"hello")),
    _bad("a length beyond 128 bits", _post(b"Content-Length: " + b"9" * 40)),
    _bad("a length in other digits", _post("Content-Length: \u0665".encode(), body=b"hello")),
    _bad("two different lengths", _post(b"Content-Length: 5", b"Content-Length: 50", body=b"hello")),
    _bad("the same length twice", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), granian=SERVED),
    _bad(
        "length and chunks",
        _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        granian=SERVED,
    ),
    _bad(
        "chunks and length",
        _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        granian=SERVED,
    ),
    _bad(
        "chunked twice",
        _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    _bad("chunked, chunked", _post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    _bad("gzip, chunked", _post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    _bad("chunked, gzip", _post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    _bad("identity", _post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello")),
    _bad("xchunked", _post(b"Transfer-Encoding: xchunked", b"Content-Length: 5", body=b"hello")),
    _bad("chunked with a vertical tab", _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    _bad("chunked in quotes", _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    _bad("chunks in HTTP/1.0", b"POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    _bad(
        "a chunk size that is no number",
        _post(b"Transfer-Encoding: chunked", body=b"zz\r\nhello\r\n0\r\n\r\n"),
    ),
    _bad(
        "a huge chunk size",
        _post(b"Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n"),
    ),
    _bad("a negative chunk size", _post(b"Transfer-Encoding: chunked", body=b"-1\r\nhello\r\n0\r\n\r\n")),
    _bad(
        "a chunk that is longer than it says",
        _post(b"Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n"),
    ),
    _bad("bare LF after a chunk size", _post(b"Transfer-Encoding: chunked", body=b"5\nhello\r\n0\r\n\r\n")),
    # RFC 9112, 7.1.1: extensions that mean nothing to the recipient are ignored.
    _bad(
        "a chunk extension",
        _post(b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\n\r\n"),
        SERVED,
    ),
    _bad("an endless chunk extension", _post(b"Transfer-Encoding: chunked", body=b"5;" + b"a" * 100_000)),
    # Nobody reads trailers: this one means nothing to hyper, and is none to llhttp.
    _bad(
        "a trailer with a length",
        _post(b"Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 9\r\n\r\n"),
        granian=SERVED,
    ),
    _bad("honest chunks", _post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), SERVED),
)

HEADERS = (
    _bad("no Host", b"GET /echo HTTP/1.1\r\n\r\n"),
    _bad("two Hosts", _get(b"/echo", b"Host: shop.test", b"Host: evil.test")),
    _bad("the same Host twice", _get(b"/echo", b"Host: shop.test", b"Host: shop.test")),
    _bad("two Hosts, the first not ASCII", _get(b"/echo", b"Host: \xe4.test", b"Host: shop.test")),
    _bad("two Hosts, the last not ASCII", _get(b"/echo", b"Host: shop.test", b"Host: \xe4.test")),
    _bad("a Host that is not ASCII", _get(b"/echo", "Host: ä.test".encode())),
    _bad("two Hosts in one", _get(b"/echo", b"Host: shop.test, evil.test")),
    _bad("a Host with a blank", _get(b"/echo", b"Host: shop test")),
    _bad("a Host with credentials", _get(b"/echo", b"Host: a@shop.test")),
    _bad("a Host with a path", _get(b"/echo", b"Host: shop.test/x")),
    _bad("an obs-fold", _get(b"/echo", b"Host: shop.test", b"X-A: 1", b" 2")),
    _bad("an obs-fold of the first header", b"GET /echo HTTP/1.1\r\n Host: shop.test\r\n\r\n"),
    _bad("a blank before the colon", _get(b"/echo", b"Host: shop.test", b"X-A : 1")),
    _bad("a blank before the colon of the length", _post(b"Content-Length : 5", body=b"hello")),
    _bad("a tab before the colon of the encoding", _post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n")),
    _bad("a header without colon", _get(b"/echo", b"Host: shop.test", b"X-A")),
    _bad("a header without name", _get(b"/echo", b"Host: shop.test", b": 1")),
    _bad("a header name with a blank", _get(b"/echo", b"Host: shop.test", b"X A: 1")),
    _bad("a header name in UTF-8", _get(b"/echo", b"Host: shop.test", "X-Ä: 1".encode())),
    _bad("a header name with a slash", _get(b"/echo", b"Host: shop.test", b"X/A: 1")),
    _bad("NUL in a value", _get(b"/echo", b"Host: shop.test", b"X-A: a\0b")),
    _bad("NUL in a name", _get(b"/echo", b"Host: shop.test", b"X\0A: 1")),
    _bad("a lone CR in a value", _get(b"/echo", b"Host: shop.test", b"X-A: a\rX-B: b")),
    _bad("a lone CR as line end", _get(b"/echo", b"Host: shop.test\rX-A: a")),
    _bad("a control character in a value", _get(b"/echo", b"Host: shop.test", b"X-A: a\x01b")),
    _bad("DEL in a value", _get(b"/echo", b"Host: shop.test", b"X-A: a\x7fb")),
    _bad("bare LF as line end", b"GET /echo HTTP/1.1\nHost: shop.test\n\n", granian=SERVED),
    _bad("bare LF after one header", b"GET /echo HTTP/1.1\r\nHost: shop.test\nX-A: 1\r\n\r\n", granian=SERVED),
    _bad("bare LF as the empty line", b"GET /echo HTTP/1.1\r\nHost: shop.test\r\n\n", granian=SERVED),
)

REQUEST_LINES = (
    _bad("no method", b" /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("a method with a colon", b"GE:T /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("a method that does not exist", b"FETCH /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", 405),
    _bad("a method in lower case", b"get /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", 405),
    _bad("an endless method", b"A" * 100_000 + b" /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", granian=405),
    _bad("TRACE", b"TRACE /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", 405),
    _bad("CONNECT", b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n"),
    _bad("CONNECT with a path", b"CONNECT /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", 405),
    _bad("no target", b"GET  HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("a relative target", _get(b"echo")),
    _bad("a target with a blank", _get(b"/echo?a b")),
    _bad("two blanks", b"GET  /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("a tab as blank", b"GET\t/echo\tHTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("a target with NUL", _get(b"/echo\0")),
    _bad("a target with raw UTF-8", _get("/echo?ä".encode())),
    _bad("a target with a fragment", _get(b"/echo#x"), granian=SERVED),
    # granian shows the path of an absolute target alone, and its authority where there is no Host. Nothing but
    # `gateway.hosts` looks at an authority, and it looks at what is shown.
    _bad("an absolute target of another host", _get(b"http://evil.test/echo"), granian=SERVED),
    _bad("an absolute target with credentials", _get(b"http://a:b@shop.test/echo"), granian=SERVED),
    _bad("an absolute target without Host", b"GET http://shop.test/echo HTTP/1.1\r\n\r\n", granian=SERVED),
    _bad("a target of another scheme", _get(b"ftp://shop.test/echo"), granian=SERVED),
    _bad("a dot-dot segment", _get(b"/items/../echo")),
    _bad("an encoded dot-dot segment", _get(b"/items/%2e%2e/echo")),
    _bad("an encoded slash with dot-dot", _get(b"/items/..%2fecho")),
    _bad("an encoded NUL", _get(b"/items/a%00b")),
    _bad("HTTP/0.9", b"GET /echo\r\n"),
    _bad("HTTP/2.0 in text", b"GET /echo HTTP/2.0\r\nHost: shop.test\r\n\r\n"),
    _bad("HTTP/1.1 in lower case", b"GET /echo http/1.1\r\nHost: shop.test\r\n\r\n"),
    _bad("no version", b"GET /echo \r\nHost: shop.test\r\n\r\n"),
    _bad("TLS to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n"),
    _bad("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", granian=CLOSED),
    _bad("noise", b"\xff\xfe\xfd\r\n\r\n"),
)

HOSTILE = (*FRAMING, *HEADERS, *REQUEST_LINES)

# What granian's parser answers by itself: nobody here hears of it, so there is no id, no count and no line in a log
# (docs/outcomes.md, "Request ids"). All others that a front refuses have an id.
REFUSED_BY_HYPER = frozenset(
    {
        "a negative length", "a signed length", "a hexadecimal length", "a length with a fraction", "an empty length",
        "a list as length", "a length with a blank in it", "a length beyond 64 bits", "a length beyond 128 bits",
        "a length in other digits", "two different lengths", "chunked, gzip", "identity", "xchunked",
        "chunked with a vertical tab", "chunked in quotes", "chunks in HTTP/1.0", "an obs-fold",
        "an obs-fold of the first header", "a blank before the colon", "a blank before the colon of the length",
        "a tab before the colon of the encoding", "a header without colon", "a header without name",
        "a header name with a blank", "a header name in UTF-8", "a header name with a slash", "NUL in a value",
        "NUL in a name", "a lone CR in a value", "a lone CR as line end", "a control character in a value",
        "DEL in a value", "no method", "a method with a colon", "no target", "a target with a blank", "two blanks",
        "a tab as blank", "a target with NUL", "HTTP/0.9", "HTTP/2.0 in text", "HTTP/1.1 in lower case", "no version",
        "TLS to a plain port", "noise",
    }
)  # fmt: skip
assert {row.name for row in HOSTILE} >= REFUSED_BY_HYPER


class Http2Hostile(NamedTuple):
    """A request that hyper refuses over HTTP/2 before the gateway hears of it: no id, no line in a log, no count."""

    name: str
    answer: int  # an answer without content, or RESET or GOAWAY
    headers: Sequence[tuple[str, str]] = ()
    method: str = "GET"
    path: str = "/echo"


RESET = -1  # of its stream, with PROTOCOL_ERROR; the connection goes on
GOAWAY = -2  # with PROTOCOL_ERROR or ENHANCE_YOUR_CALM; the connection ends

REFUSED_BY_HYPER_OVER_HTTP2 = (
    *[
        Http2Hostile(f"{name}, a header of connections", RESET, [(name, value)])
        for name, value in {
            "connection": "close", "transfer-encoding": "chunked", "te": "gzip", "keep-alive": "1",
            "proxy-connection": "close", "upgrade": "h2c",
        }.items()
    ],
    Http2Hostile("a negative length", RESET, [("content-length", "-1")], "POST"),
    Http2Hostile("two different lengths", RESET, [("content-length", "3"), ("content-length", "5")], "POST"),
    Http2Hostile("a pseudo-header behind a header", RESET, [("x-a", "1"), (":authority", "shop.test")]),
    Http2Hostile("no path", RESET, path=""),
    Http2Hostile("a path without a slash", RESET, path="echo"),
    Http2Hostile("a path with NUL", RESET, path="/echo\0"),
    Http2Hostile("a path with a blank", RESET, path="/e cho"),
    Http2Hostile("CONNECT with a path", RESET, method="CONNECT"),
    Http2Hostile("headers beyond the limit", 431, [(f"x-{number}", "a" * 1000) for number in range(64)]),
    Http2Hostile("a target beyond all limits", 431, path="/echo?" + "a" * 70_000),
    Http2Hostile("headers far beyond the limit", GOAWAY, [(f"x-{number}", "a" * 1000) for number in range(1000)]),
    Http2Hostile("a name in upper case", GOAWAY, [("X-A", "1")]),
    Http2Hostile("a name with a blank", GOAWAY, [("x a", "1")]),
    Http2Hostile("no name", GOAWAY, [("", "1")]),
    Http2Hostile("a line end in a value", GOAWAY, [("x-a", "a\r\nb: c")]),
    Http2Hostile("NUL in a value", GOAWAY, [("x-a", "\0")]),
    Http2Hostile("a pseudo-header that does not exist", GOAWAY, [(":unknown", "1")]),
    Http2Hostile("no method", GOAWAY, method=""),
    Http2Hostile("a method with a blank", GOAWAY, method="G ET"),
)  # fmt: skip
