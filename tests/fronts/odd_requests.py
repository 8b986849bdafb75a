"""Requests that are odd and legal: what both fronts answer, and what is on the record.

A row is one connection: `raw` is sent, then an ordinary request, which is served as well where `goes_on`.
What is on the record is compared completely, but for the headers that each record has (see `EVERY_RECORD`). So is the
answer, but for the headers that say nothing about the request (see `EVERY_ANSWER`).
The rows that HTTP/2 can say as well are in `OVER_HTTP2`; there a refusal never ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastgw.messages import SPREAD, TOGETHER

ROUTES = "".join(
    f"""
[[route]]
method = {methods}
path = "{path}"
topic = "echo"
request_headers = ["x-asked", "cookie", "accept"]
key = "{key}"
"""
    for path, methods, key in (
        ("/any", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], ""),
        ("/p/{id}", ["GET", "POST"], ""),
        ("/p/{id}/x", ["GET"], ""),
        ("/all/{rest...}", ["GET"], ""),
        ("/a+b", ["GET"], ""),
        ("/straße/{id}", ["GET"], ""),
        ("/dir/", ["GET"], ""),
        ("/semi;colon,comma=x", ["GET"], ""),
        ("/key/{id}", ["GET"], "path.id"),
        ("/key-of-header", ["GET"], "header.x-key"),
        ("/key-of-cookie", ["GET"], "header.cookie"),
        ("/key-of-body", ["POST"], "body./id"),
    )
)

EVERY_RECORD = frozenset(
    {"correlation_id", "reply_to", "reply_partition", "deadline", "http_route", "http_client_address", "http_scheme"}
)

EVERY_ANSWER = frozenset({"date", "server", "connection", "content-length", "x-request-id"})

Record = dict[str, object]  # headers by name, and under the names below what is no header
VALUE, KEY, PARTITION = "(value)", "(key)", "(partition)"


class Outcome(NamedTuple):
    """What a row comes to: the status, the record or None, whether the connection goes on, and what is refused why."""

    status: int
    record: Record | None
    goes_on: bool = True
    problem: str = ""  # of a refusal; "" where the answer is no problem document
    allow: str = ""


class Told(NamedTuple):
    """What an answer says besides its status."""

    headers: dict[str, list[str]]  # all but those of `EVERY_ANSWER`
    content: bytes
    problem: str  # "" in answers to HEAD, and where it is no problem document


def told(row: Odd, outcome: Outcome) -> Told:
    """What the answer to a row says, if it comes to this. The service sends back the body."""
    headers, content = {}, b""
    if outcome.allow:
        headers["allow"] = [outcome.allow]
    if outcome.problem:
        headers |= {"content-type": ["application/problem+json"], "cache-control": ["no-store"]}
        headers["fastgw-outcome"] = ["not_recorded"]
    if outcome.record is not None:
        headers["fastgw-outcome"] = ["recorded"]
        content = outcome.record[VALUE]
        assert isinstance(content, bytes)
        if content:
            headers["content-type"] = ["application/json"]
    if row.method == "HEAD":
        return Told(headers, b"", "")
    return Told(headers, content, outcome.problem)


class Difference(NamedTuple):
    """Another outcome of one front, and why that has to be."""

    reason: str
    outcome: Outcome


class Odd(NamedTuple):
    """One row; `method` says how the answer is to be read."""

    name: str
    raw: bytes
    method: str
    outcome: Outcome
    differences: Mapping[str, Difference]


def on_record(method: str, path: str, body: bytes = b"", key: bytes | None = None, **headers: str) -> Record:
    """A record; `_` stands for `-` in names, other than behind `http`. With a key, the key chooses its partition."""
    named = {_name(name): value.encode("latin-1") for name, value in headers.items()}
    placed = {VALUE: body, KEY: key, PARTITION: TOGETHER if key is None else SPREAD}
    return {**placed, "http_method": method.encode(), "http_path": path.encode(), **named}


def _name(word: str) -> str:
    if word.startswith("http_header_"):
        return "http_header_" + word.removeprefix("http_header_").replace("_", "-")
    return word if word.startswith("http_") else word.replace("_", "-")


def raw_request(
    target: str = "/any",
    *lines: str,
    method: str = "GET",
    version: str = "1.1",
    host: str | None = "Host: shop.test",
    body: bytes = b"",
) -> bytes:
    """The bytes of a request; text is latin-1."""
    head = [f"{method} {target} HTTP/{version}", *([host] if host is not None else []), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


CHUNKED = "Transfer-Encoding: chunked"


def served(name: str, raw: bytes, record: Record, method: str = "GET", **differences: Difference) -> Odd:
    return Odd(name, raw, method, Outcome(200, record), differences)


PROBLEMS = {400: "malformed", 404: "no_route", 405: "wrong_method", 413: "body_too_large"}


def refused(name: str, raw: bytes, status: int, *, goes_on: bool, method: str = "GET", allow: str = "") -> Odd:
    return Odd(name, raw, method, Outcome(status, None, goes_on, PROBLEMS[status], allow), {})


# What a parser that is not ours decides before anybody here is asked.
NO_LATER_MINOR = Difference(
    "hyper refuses every version but 1.0 and 1.1 by itself, without a word", Outcome(400, None, goes_on=False)
)


# --- paths -----------------------------------------------------------------------------------------------------------

PARAMETERS = {  # as sent: as it stands on the record
    "7": "7", "a%20b": "a%20b", "a+b": "a%2Bb", "a%2Bb": "a%2Bb", "a%2bb": "a%2Bb", "a%2Fb": "a%2Fb", "a%2fb": "a%2Fb",
    "%2F": "%2F", "%2f%2F": "%2F%2F", "%41": "A", "%7E%2d%5f%2E%61": "~-_.a", "%25": "%25", "%2525": "%2525",
    "%25zz": "%25zz", "%3F": "%3F", "%3f%23": "%3F%23", "%23": "%23", "%3B%2C%3D": "%3B%2C%3D", ";,=": ";,=",
    "a;v=1": "a;v=1", "!$&'()*": "!$&'()*", "@:": "@:", "a%40b": "a%40b", "%C3%A4": "%C3%A4", "%c3%a4": "%C3%A4",
    "%D0%BA%D0%BB": "%D0%BA%D0%BB", "%F0%9F%98%80": "%F0%9F%98%80", "%FF": "%FF", "%ff%fe": "%FF%FE", "%C3": "%C3",
    "%C0%AF": "%C0%AF", "%ED%A0%80": "%ED%A0%80", "%EF%BF%BD": "%EF%BF%BD", "%E2%80%8B": "%E2%80%8B", "%0A": "%0A",
    "%0d%0a": "%0D%0A", "%09": "%09", "%7F": "%7F", "%01": "%01", "%5C": "%5C", "%22": "%22", "%3C%3E": "%3C%3E",
    "%5b%5d": "%5B%5D", "%7B%7D": "%7B%7D", "%7c": "%7C", "%60": "%60", "%5E": "%5E", "...": "...", ".a": ".a",
    "a..": "a..", "..a": "..a", "%2e%2ea": "..a", "%252e%252e": "%252e%252e", "~": "~", "-._~": "-._~",
    "a" * 900: "a" * 900, "%61" * 300: "a" * 300,
}  # fmt: skip

PATHS = [
    served(f"parameter {sent[:20]}", raw_request(f"/p/{sent}"), on_record("GET", f"/p/{shown}", http_param_id=shown))
    for sent, shown in PARAMETERS.items()
]
PATHS += [
    served(
        f"parameter in the middle {sent}",
        raw_request(f"/p/{sent}/x"),
        on_record("GET", f"/p/{shown}/x", http_param_id=shown),
    )
    for sent, shown in {"7": "7", "a%2Fb": "a%2Fb", "%41": "A", "%2f": "%2F", "a+b": "a%2Bb"}.items()
]
PATHS += [
    served(f"rest {sent}", raw_request(f"/all/{sent}"), on_record("GET", f"/all/{shown}", http_param_rest=shown))
    for sent, shown in {
        "": "",
        "/": "/",
        "//": "//",
        "a": "a",
        "a/": "a/",
        "a/b/c": "a/b/c",
        "a//b": "a//b",
        "/a": "/a",
        "a%2Fb/c": "a%2Fb/c",
        "a+b/c%20d": "a%2Bb/c%20d",
        "%41/%ff": "A/%FF",
        "x/...": "x/...",
    }.items()
]
PATHS += [
    served("literal, escaped", raw_request("/%61n%79"), on_record("GET", "/any")),
    served("literal with a plus", raw_request("/a+b"), on_record("GET", "/a%2Bb")),
    served("literal with an escaped plus", raw_request("/a%2Bb"), on_record("GET", "/a%2Bb")),
    served(
        "literal beyond ASCII", raw_request("/stra%C3%9Fe/1"), on_record("GET", "/stra%C3%9Fe/1", http_param_id="1")
    ),
    served("literal with a slash at its end", raw_request("/dir/"), on_record("GET", "/dir/")),
    served("literal of sub-delimiters", raw_request("/semi;colon,comma=x"), on_record("GET", "/semi;colon,comma=x")),
    served(
        "literal of escaped sub-delimiters",
        raw_request("/semi%3Bcolon%2ccomma=x"),
        on_record("GET", "/semi%3Bcolon%2Ccomma=x"),
    ),
]
PATHS += [
    refused(f"no route: {target}", raw_request(target), 404, goes_on=True)
    for target in (
        "/any/",
        "//any",
        "/any%2F",
        "/p/",
        "/p//",
        "/p//x",
        "/p%2F7",
        "/p/7/x/",
        "/all",
        "/all%2Fa",
        "/dir",
        "/dir//",
        "/stra%DFe/1",
        "/ANY",
        "/an%59",
        "/",
    )
]
PATHS += [
    refused(f"no path: {target}", raw_request(target), 400, goes_on=False)
    for target in (
        "/p/%zz",
        "/p/%",
        "/p/%4",
        "/p/%%41",
        "/p/%u0041",
        "/p/%00",
        "/p/a%00b",
        "/p/.",
        "/p/..",
        "/./any",
        "/x/../any",
        "/p/%2e",
        "/p/%2E%2e",
        "/p/.%2e",
        "/p/..%2fany",
        "/p/a%2F..%2Fb",
        "/all/../any",
        "/all/a/%2e/b",
    )
]

QUERIES = [
    served(f"query {query[:24]}", raw_request(f"/any?{query}"), on_record("GET", "/any", http_query=query))
    for query in (
        "a",
        "a=1",
        "a=1&a=2",
        "a=%20",
        "a=+",
        "a=%2B",
        "a=%2F/",
        "a=%zz",
        "%",
        "?",
        "??",
        "a=?b",
        "/",
        "/../",
        "a=%00",
        "a=%ff",
        "&&",
        "=",
        "a;b",
        "a[]=1",
        "a={b}",
        "a=|",
        "a='",
        "a=~",
        "a=%C3%A4",
        "a=b:c@d",
        "x=" + "y" * 3000,
    )
] + [served("an empty query", raw_request("/any?"), on_record("GET", "/any"))]

EVERY_METHOD = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY"
TARGETS = [
    served("absolute", raw_request("http://shop.test/any"), on_record("GET", "/any")),
    served("absolute, upper case", raw_request("HTTP://SHOP.TEST/any"), on_record("GET", "/any")),
    served("absolute with port", raw_request("http://shop.test:80/any"), on_record("GET", "/any")),
    served("absolute with query", raw_request("http://shop.test/any?a=1"), on_record("GET", "/any", http_query="a=1")),
    served(
        "absolute with escapes",
        raw_request("http://shop.test/p/a%2Fb"),
        on_record("GET", "/p/a%2Fb", http_param_id="a%2Fb"),
    ),
    refused("absolute without path", raw_request("http://shop.test"), 404, goes_on=True),
    Odd("everything", raw_request("*", method="OPTIONS"), "OPTIONS", Outcome(204, None, allow=EVERY_METHOD), {}),
    Odd(
        "everything, with a body",
        raw_request("*", "Content-Length: 2", method="OPTIONS", body=b"hi"),
        "OPTIONS",
        Outcome(204, None, allow=EVERY_METHOD),
        {},
    ),
    refused("everything with GET", raw_request("*"), 400, goes_on=False),
]

# --- methods and bodies ----------------------------------------------------------------------------------------------

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BODIES: dict[str, tuple[tuple[str, ...], bytes, bytes]] = {
    "nothing": ((), b"", b""),
    "length 0": (("Content-Length: 0",), b"", b""),
    "length 5": (("Content-Length: 5",), b"hello", b"hello"),
    "chunks": ((CHUNKED,), chunked(b"hel", b"lo"), b"hello"),
    "no chunk": ((CHUNKED,), chunked(), b""),
}
METHOD_BODIES = [
    served(
        f"{method} with {name}",
        raw_request("/any", *lines, method=method, body=sent),
        on_record(method, "/any", body),
        method,
    )
    for method in METHODS
    for name, (lines, sent, body) in BODIES.items()
]
METHOD_BODIES += [
    refused(
        "a method that the path does not take",
        raw_request("/dir/", method="DELETE"),
        405,
        goes_on=True,
        allow="GET, HEAD",
    ),
    refused(
        "HEAD where GET is not", raw_request("/small", method="HEAD"), 405, goes_on=True, method="HEAD", allow="POST"
    ),
    served(
        "HEAD of a parameter", raw_request("/p/7", method="HEAD"), on_record("HEAD", "/p/7", http_param_id="7"), "HEAD"
    ),
]

BYTES = bytes(range(256))
LENGTHS = [
    served(
        f"{name} of length {len(body)}",
        raw_request("/any", f"Content-Length: {spelt}", method="POST", body=body),
        on_record("POST", "/any", body),
        "POST",
    )
    for name, spelt, body in (
        ("zeros before it", "0000005", b"hello"),
        ("all bytes", "256", BYTES),
        ("blanks around it", " \t5 \t", b"hello"),
        ("line ends", "4", b"\r\n\r\n"),
        ("a request", str(len(raw_request())), raw_request()),
        ("large", "70000", b"x" * 70_000),
        ("as large as may be", str(1 << 20), b"y" * (1 << 20)),
        ("NUL", "1", b"\0"),
    )
]
TOO_LONG = [
    refused(
        "larger than may be", raw_request("/any", f"Content-Length: {(1 << 20) + 1}", method="POST"), 413, goes_on=False
    ),
]
CHUNKS = [
    served(
        f"chunks: {name}", raw_request("/any", line, method="POST", body=sent), on_record("POST", "/any", body), "POST"
    )
    for name, line, sent, body in (
        ("one", CHUNKED, chunked(b"hello"), b"hello"),
        ("one byte each", CHUNKED, chunked(*[b"x"] * 50), b"x" * 50),
        ("upper case", "TRANSFER-ENCODING: CHUNKED", chunked(b"hello"), b"hello"),
        ("no blank", "Transfer-Encoding:chunked", chunked(b"hello"), b"hello"),
        ("size in upper case", CHUNKED, b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("zeros before the size", CHUNKED, b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        ("an extension", CHUNKED, b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("an extension without value", CHUNKED, b"5;a\r\nhello\r\n0;z\r\n\r\n", b"hello"),
        ("a quoted extension", CHUNKED, b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', b"hello"),
        ("a trailer", CHUNKED, chunked(b"hello", trailer=b"X-Sum: 1\r\n"), b"hello"),
        ("trailers", CHUNKED, chunked(b"hello", trailer=b"X-A: 1\r\nX-Asked: forged\r\n"), b"hello"),
        ("line ends", CHUNKED, chunked(b"\r\n\r\n", b"0\r\n\r\n"), b"\r\n\r\n0\r\n\r\n"),
        ("all bytes", CHUNKED, chunked(BYTES), BYTES),
        ("large", CHUNKED, chunked(b"z" * 100_000), b"z" * 100_000),
    )
]

# --- headers ---------------------------------------------------------------------------------------------------------


def asked(name: str, *lines: str, value: str, header: str = "x-asked", **differences: Difference) -> Odd:
    """A GET whose lines are on the record as `value`."""
    record = on_record("GET", "/any") | {f"http_header_{header}": value.encode("latin-1")}
    return served(name, raw_request("/any", *lines), record, **differences)


def bare(name: str, *lines: str, **differences: Difference) -> Odd:
    """A GET whose lines are not on the record."""
    return served(name, raw_request("/any", *lines), on_record("GET", "/any"), **differences)


REPEATED = [
    asked("two lines", "X-Asked: 1", "X-Asked: 2", value="1, 2"),
    asked("three lines in three cases", "X-Asked: 1", "x-asked: 2", "X-ASKED: 3", value="1, 2, 3"),
    asked("two lines with others between", "X-Asked: 1", "X-Other: 3", "X-Asked: 2", value="1, 2"),
    asked("an empty line first", "X-Asked:", "X-Asked: 2", value="2"),
    asked("an empty line last", "X-Asked: 1", "X-Asked: ", value="1"),
    asked("an empty line in the middle", "X-Asked: 1", "X-Asked:", "X-Asked: 2", value="1, 2"),
    asked("only empty lines", "X-Asked:", "X-Asked: \t", value=""),
    asked("one empty line", "X-Asked:", value=""),
    asked("lists in lines", "X-Asked: 1, 2", "X-Asked: 3", value="1, 2, 3"),
    asked("the same line twice", "X-Asked: 1", "X-Asked: 1", value="1, 1"),
    asked("cookies in two lines", "Cookie: a=1", "Cookie: b=2", value="a=1; b=2", header="cookie"),
    asked("cookies, an empty line first", "Cookie:", "Cookie: b=2", value="b=2", header="cookie"),
    asked("cookies in one line", "Cookie: a=1; b=2", value="a=1; b=2", header="cookie"),
    asked("accept in two lines", "Accept: a/b", "accept: */*;q=0.1", value="a/b, */*;q=0.1", header="accept"),
    served(
        "tracestate in two lines",
        raw_request("/any", "tracestate: a=1", "Tracestate: b=2"),
        on_record("GET", "/any", tracestate="a=1, b=2"),
    ),
    served(
        "twenty lines",
        raw_request("/any", *["X-Asked: 1"] * 20),
        on_record("GET", "/any", http_header_x_asked=", ".join("1" * 20)),
    ),
]

SPELLINGS = [
    asked("no blank", "X-Asked:1", value="1"),
    asked("many blanks", "X-Asked: \t  1 \t ", value="1"),
    asked("blanks inside", "X-Asked: a \t b", value="a \t b"),
    asked("colons", "X-Asked: a:b::c:", value="a:b::c:"),
    asked("quotes", 'X-Asked: "a, b"', value='"a, b"'),
    asked("an open quote", 'X-Asked: "a', value='"a'),
    asked("all that prints", "X-Asked: " + "".join(map(chr, range(33, 127))), value="".join(map(chr, range(33, 127)))),
    asked("long", "X-Asked: " + "v" * 8000, value="v" * 8000),
    asked("many other headers", *[f"X-{n}: {n}" for n in range(60)], "X-Asked: 1", value="1"),
    bare("a name of odd characters", "!#$%&'*+-.^_`|~09: 1"),
    bare("an underscore instead of a hyphen", "X_Asked: 1"),
    bare("a longer name", "X-Asked-For: 1", "X-Aske: 1", "XX-Asked: 1"),
    asked("one byte beyond ASCII", "X-Asked: b\xe4r", value="b\xe4r"),
    asked("UTF-8", "X-Asked: b\xc3\xa4r", value="b\xc3\xa4r"),
    asked("bytes that are not UTF-8", "X-Asked: \x80\xff\xfe", value="\x80\xff\xfe"),
    asked("a cookie with a byte beyond ASCII", "Cookie: a=1; b=\xe9; c=3", value="a=1; b=\xe9; c=3", header="cookie"),
    asked("a line with and one without", "X-Asked: \xe4", "X-Asked: a", value="\xe4, a"),
    asked("a byte that some take for a blank", "X-Asked: \xa0a\xa0", value="\xa0a\xa0"),
    asked("a byte that some take for a line end", "X-Asked: a\x85b", value="a\x85b"),
    *[asked(f"byte {n:#x}", f"X-Asked: a{chr(n)}b", value=f"a{chr(n)}b") for n in (0xA1, 0xC0, 0xDF, 0xF7)],
    bare("a header that nobody listed, beyond ASCII", "X-Other: \xe4"),
]
SPELLINGS += [
    asked(f"an id of the client: {name}", f"X-Request-Id: {sent}", value=sent, header="x-request-id")
    for name, sent in {"plain": "a1", "quotes": 'a"b', "words": "two words", "long": "x" * 129, "bytes": "\xe4"}.items()
]
SPELLINGS += [
    asked("an id of the client in two lines", "X-Request-Id: a", "X-Request-Id: b", value="a, b", header="x-request-id")
]

REPRESENTATION = [
    served(
        f"{name} with {method}",
        raw_request("/any", f"{name}: {value}", "Content-Length: 2", method=method, body=b"hi"),
        {**on_record(method, "/any", b"hi"), name.lower(): value.encode("latin-1")},
        method,
    )
    for method in ("POST", "GET")
    for name, value in (
        ("Content-Type", 'text/plain; charset="x"'),
        ("Content-Encoding", "gzip"),
        ("Content-Language", "de, en"),
        ("Content-Location", "/a?b"),
        ("Content-Disposition", 'attachment; filename="\xe4.txt"'),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Digest", "sha-256=:AA==:"),
        ("Repr-Digest", "sha-256=:AA==:"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1"),
    )
]

HOSTS = [
    served(f"Host {host}", raw_request("/any", host=host), on_record("GET", "/any"))
    for host in (
        "host: shop.test",
        "HOST:shop.test",
        "Host: SHOP.TEST",
        "Host: shop.test:80",
        "Host: shop.test:",
        "Host: shop.test.",
        "Host: 127.0.0.1:8080",
        "Host: [::1]",
        "Host: [::1]:8080",
        "Host: [::ffff:1.2.3.4]:1",
        "Host:  \tshop.test \t",
        "Host: a_b.test",
        "Host: x",
        "Host: xn--4ca.test:65535",
        "Host: a~b",
    )
]

# --- connections -----------------------------------------------------------------------------------------------------

CONNECTIONS = [
    bare("connection keep-alive", "Connection: keep-alive"),
    bare("connection empty", "Connection:"),
    bare("connection of something", "Connection: foo"),
    bare("connection in odd case", "Connection: Keep-Alive, FOO"),
    bare("connection names a header", "Connection: X-Asked", "X-Asked: 1"),
    bare("connection names a header in a list", "Connection: keep-alive,  x-asked", "X-Asked: 1", "X-Asked: 2"),
    bare("connection names a header in its second line", "Connection: keep-alive", "Connection: X-ASKED", "X-Asked: 1"),
    bare("connection names a trace", "Connection: tracestate", "tracestate: a=1"),
    asked("connection names another header", "Connection: X-Aske", "X-Asked: 1", value="1"),
    bare("keep-alive", "Connection: keep-alive", "Keep-Alive: timeout=5"),
    bare("te", "TE: trailers", "Connection: TE"),
    bare("proxy-connection", "Proxy-Connection: keep-alive"),
    Odd(
        "connection close",
        raw_request("/any", "Connection: close"),
        "GET",
        Outcome(200, on_record("GET", "/any"), False),
        {},
    ),
    Odd(
        "connection close in a list",
        raw_request("/any", "Connection: foo, Close"),
        "GET",
        Outcome(200, on_record("GET", "/any"), False),
        {},
    ),
    Odd("HTTP/1.0", raw_request("/any", version="1.0"), "GET", Outcome(200, on_record("GET", "/any"), False), {}),
    Odd(
        "HTTP/1.0 with a body",
        raw_request("/any", "Content-Length: 2", method="POST", version="1.0", body=b"hi"),
        "POST",
        Outcome(200, on_record("POST", "/any", b"hi"), False),
        {},
    ),
    served(
        "HTTP/1.0 kept alive", raw_request("/any", "Connection: keep-alive", version="1.0"), on_record("GET", "/any")
    ),
    served("an empty line before the request", b"\r\n" + raw_request("/any"), on_record("GET", "/any")),
    served("empty lines before the request", b"\r\n" * 5 + raw_request("/any"), on_record("GET", "/any")),
]

VERSIONS = [
    served(
        f"HTTP/1.{minor} {name}",
        raw_request("/any", *lines, method=method, version=f"1.{minor}", body=sent),
        on_record(method, "/any", body),
        method,
        granian=NO_LATER_MINOR,
    )
    for minor in (2, 3, 5, 9)
    for name, method, lines, sent, body in (
        ("without a body", "GET", (), b"", b""),
        ("with a body", "POST", ("Content-Length: 2",), b"hi", b"hi"),
        ("in chunks", "POST", (CHUNKED,), chunked(b"hi"), b"hi"),
    )
]

OFFERS: Iterable[tuple[str, tuple[str, ...]]] = (
    ("h2c", ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")),
    ("websocket", ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")),
    ("TLS", ("Connection: Upgrade", "Upgrade: TLS/1.2")),
    ("several", ("Connection: keep-alive, Upgrade", "UPGRADE:foo/1, bar", "Upgrade: baz")),
    ("one without Connection", ("Upgrade: h2c",)),
)
UPGRADES = [
    served(
        f"offer of {offer}: {method} with {name}",
        raw_request("/any", *offered, *lines, method=method, body=sent),
        on_record(method, "/any", body),
        method,
    )
    for offer, offered in OFFERS
    for method, name in (("GET", "nothing"), ("POST", "length 5"), ("POST", "chunks"))
    for lines, sent, body in (BODIES[name],)
]


def keyed(name: str, raw: bytes, key: bytes, path: str, body: bytes = b"", **headers: str) -> Odd:
    """A request whose record has a key."""
    method = raw.partition(b" ")[0].decode()
    return served(f"key: {name}", raw, on_record(method, path, body, key, **headers), method)


KEYS = [
    *[
        keyed(f"path {sent}", raw_request(f"/key/{sent}"), key, f"/key/{shown}", http_param_id=shown)
        for sent, key, shown in (
            ("7", b"7", "7"), ("a+b", b"a+b", "a%2Bb"), ("a%2Fb", b"a/b", "a%2Fb"), ("%2525", b"%25", "%2525"),
            ("%ff", b"\xff", "%FF"), ("%C3%A4", b"\xc3\xa4", "%C3%A4"), ("%20", b" ", "%20"),
        )
    ],
    *[
        keyed(f"header, {name}", raw_request("/key-of-header", *lines), key, "/key-of-header")
        for name, lines, key in (
            ("one line", ("X-Key: a",), b"a"),
            ("two lines", ("X-Key: a", "x-key: b"), b"a, b"),
            ("an empty line first", ("X-Key:", "X-Key: b"), b"b"),
            ("an empty line last", ("X-Key: a", "X-Key:"), b"a"),
            ("blanks around it", ("X-Key: \t a b \t",), b"a b"),
            ("quotes", ('X-Key: "a"',), b'"a"'),
            ("beyond ASCII", ("X-Key: \xfc\xff",), b"\xfc\xff"),
        )
    ],
    keyed("header, cookies in two lines", raw_request("/key-of-cookie", "Cookie: a=1", "Cookie: b=2"), b"a=1; b=2",
          "/key-of-cookie", http_header_cookie="a=1; b=2"),
    *[
        keyed(f"body {body.decode()}",
              raw_request("/key-of-body", f"Content-Length: {len(body)}", method="POST", body=body), key,
              "/key-of-body", body)
        for body, key in (
            (b'{"id": 18446744073709551617}', b"18446744073709551617"),
            (b'{"id": 18446744073709551618}', b"18446744073709551618"),
            (b'{"id": 1.0}', b"1.0"), (b'{"id": "1"}', b"1"), (b'{"id":1,"id":2}', b"2"),
        )
    ],
    *[
        refused(f"no key: {name}", raw, 400, goes_on=False, method=method)
        for name, raw, method in (
            ("no header", raw_request("/key-of-header"), "GET"),
            ("empty lines", raw_request("/key-of-header", "X-Key:", "X-Key: \t"), "GET"),
            ("an empty text",
             raw_request("/key-of-body", "Content-Length: 9", method="POST", body=b'{"id":""}'), "POST"),
            ("no body", raw_request("/key-of-body", method="POST"), "POST"),
        )
    ],
]  # fmt: skip

KEYS_OF_HTTP1 = [
    refused(
        "no key: connection names its header",
        raw_request("/key-of-header", "Connection: x-key", "X-Key: a"),
        400,
        goes_on=False,
    ),
]

PREFERENCES = [
    *[
        bare(f"prefer {line}", f"Prefer: {line}")
        for line in ("wait=1", "wait=99999", "respond-async", "wait", "wait=x", 'foo="a, wait=0"', "wait=1, wait=0")
    ],
    refused("waits for nothing", raw_request("/any", "Prefer: wait=0"), 400, goes_on=False),
    refused("waits for nothing, said later", raw_request("/any", "Prefer: a", "Prefer: b, wait=0"), 400, goes_on=False),
]

ODD = tuple(
    row
    for rows in (
        PATHS, QUERIES, TARGETS, METHOD_BODIES, LENGTHS, TOO_LONG, CHUNKS, REPEATED, SPELLINGS, REPRESENTATION, HOSTS,
        CONNECTIONS, VERSIONS, UPGRADES, KEYS, KEYS_OF_HTTP1, PREFERENCES,
    )
    for row in rows
)  # fmt: skip

# What HTTP/2 has no word for is left out: targets in absolute form, chunks, versions, `Connection`, offers of others.
OVER_HTTP2 = tuple(
    row
    for rows in (
        PATHS, QUERIES, [row for row in TARGETS if b" * " in row.raw], METHOD_BODIES, LENGTHS, REPEATED, SPELLINGS,
        REPRESENTATION, HOSTS, KEYS, PREFERENCES,
    )
    for row in rows
)  # fmt: skip


class Http2Request(NamedTuple):
    """A row as HTTP/2 says it; `Http2Client.request` takes it."""

    path: str
    method: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


def over_http2(row: Odd) -> Http2Request:
    """The same request in HTTP/2: names in lower case, values without blanks around, no framing but the frames."""
    head, _, body = row.raw.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    method, target, _ = line.split(b" ")
    headers, sent = [], body or None
    for name, _, value in (line.partition(b":") for line in lines):
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            headers.append((b":authority", value))
        elif name == b"transfer-encoding":
            assert row.outcome.record is not None
            content = row.outcome.record[VALUE]
            assert isinstance(content, bytes)
            sent = content  # DATA frames, and END_STREAM even where there is none
        else:
            headers.append((name, value))
    return Http2Request(target.decode("latin-1"), method.decode(), headers, sent)
