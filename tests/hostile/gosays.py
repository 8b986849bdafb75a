"""Go's net/http beside every front: `python -m tests.hostile.gosays PROGRAM`, half a minute.

PROGRAM is go_server/main.go, built.

Odd but legal requests: what Go serves, a front has to serve, with the same body and the same path once decoded, and the
other way round. Hostile ones (hostile.py, gunicorn's corpus): what Go refuses, a front has to refuse. Every difference
has a reason below. Exit code 1 when there is another.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from tests.fronts.door import ANYTHING
from tests.fronts.hostile import HOSTILE
from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FRONTS
from tests.fronts.raw_http import RawClient
from tests.fronts.test_corpus import cases

ANSWER_S = 3.0
HOST = b"Host: shop.test"
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")


def _request(target: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join((method + b" " + target + b" HTTP/" + version, HOST, *lines)) + b"\r\n\r\n" + body


def _to(host: bytes) -> bytes:
    return b"GET /echo HTTP/1.1\r\nHost:" + host + b"\r\n\r\n"


def _chunks(body: bytes, *lines: bytes, method: bytes = b"POST") -> bytes:
    return _request(b"/echo", *(lines or (b"Transfer-Encoding: chunked",)), method=method, body=body)


def _two(*lines: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    return _request(b"/echo", *(lines or (b"Content-Length: 2",)), method=method, version=version, body=b"hi")


ODD = {
    "an encoded slash": _request(b"/items/a%2Fb"),
    "a plus": _request(b"/items/a+b"),
    "a semicolon": _request(b"/items/a;b=c"),
    "encoded UTF-8": _request(b"/items/%C3%A4"),
    "encoded latin-1": _request(b"/items/%E4"),
    "an encoded line end": _request(b"/items/%0d%0a"),
    "an encoded NUL": _request(b"/items/%00"),
    "a percent sign alone": _request(b"/items/%"),
    "a percent sign and no digits": _request(b"/items/%zz"),
    "raw UTF-8 in the path": _request("/items/ä".encode()),
    "raw latin-1 in the path": _request(b"/items/\xe4"),
    "raw UTF-8 in the query": _request("/echo?q=ä".encode()),
    "signs that want encoding": _request(b'/items/a|b"[c]{d}'),
    "a caret and a backtick": _request(b"/items/^`"),
    "a backslash": _request(b"/items/a\\b"),
    "a dot segment": _request(b"/items/./x"),
    "a dot-dot segment": _request(b"/items/../x"),
    "two slashes": _request(b"//items//x"),
    "a slash at the end": _request(b"/echo/"),
    "an empty query": _request(b"/echo?"),
    "question marks in the query": _request(b"/echo???a"),
    "brackets in the query": _request(b"/echo?a[]=1&b={}|^"),
    "a bad percent sign in the query": _request(b"/echo?%zz"),
    "an absolute target": _request(b"http://shop.test/echo?x=1"),
    "an absolute target in capitals": _request(b"HTTP://SHOP.TEST/echo"),
    "an absolute target with the default port": _request(b"http://shop.test:80/echo"),
    "an absolute target without path": _request(b"http://shop.test"),
    "an IPv6 host": _to(b" [::1]:8080"),
    "an empty host": _to(b""),
    "a host in capitals": _to(b" SHOP.TEST"),
    "a host with a dot at the end": _to(b" shop.test."),
    "a host with an underscore": _to(b" my_shop"),
    "a host with an empty port": _to(b" shop.test:"),
    "a host with a port of letters": _to(b" shop.test:abc"),
    "a host with an encoded blank": _to(b" a%20b"),
    "a host of signs": _to(b" a!$&'()*+;=b"),
    "obs-text in a header": _request(b"/echo", b"X-Asked: caf\xe9"),
    "a tab in a header": _request(b"/echo", b"X-Asked: a\tb"),
    "blanks around a header": _request(b"/echo", b"X-Asked: \t a \t "),
    "a header twice": _request(b"/echo", b"X-Asked: a", b"X-Asked: b"),
    "an empty header": _request(b"/echo", b"X-Asked:"),
    "a header name of signs": _request(b"/echo", b"!#$%&'*+-.^_`|~: 1"),
    "a header of 30,000 bytes": _request(b"/echo", b"X-Asked: " + b"a" * 30_000),
    "100 headers": _request(b"/echo", *(b"X-%d: a" % number for number in range(100))),
    "a POST that ends with its headers": _request(b"/echo", method=b"POST"),
    "a PUT that ends with its headers": _request(b"/echo", method=b"PUT"),
    "a GET with a body": _two(method=b"GET"),
    "a DELETE with a body": _two(method=b"DELETE"),
    "OPTIONS with a body": _two(method=b"OPTIONS"),
    "a GET in chunks": _chunks(b"2\r\nhi\r\n0\r\n\r\n", method=b"GET"),
    "a length with zeros before it": _two(b"Content-Length: 0002"),
    "a length with blanks around it": _two(b"Content-Length:   2  "),
    "CHUNKED in capitals": _chunks(b"A\r\n0123456789\r\n0\r\n\r\n", b"Transfer-Encoding: CHUNKED"),
    "chunk sizes with zeros before them": _chunks(b"0002\r\nhi\r\n000\r\n\r\n"),
    "a chunk extension": _chunks(b'2;a="b;c"\r\nhi\r\n0\r\n\r\n'),
    "a trailer": _chunks(b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"),
    "TE: trailers": _request(b"/echo", b"TE: trailers"),
    "Expect": _two(b"Expect: 100-continue", b"Content-Length: 2"),
    "Expect in capitals": _two(b"Expect: 100-Continue", b"Content-Length: 2"),
    "another Expect": _request(b"/echo", b"Expect: x"),
    "an offer of h2c": _request(b"/echo", *H2C),
    "an offer of h2c with a body": _two(*H2C, b"Content-Length: 2"),
    "an offer of h2c with chunks": _chunks(b"2\r\nhi\r\n0\r\n\r\n", *H2C, b"Transfer-Encoding: chunked"),
    "an offer of WebSocket": _request(b"/echo", b"Connection: Upgrade", b"Upgrade: websocket"),
    "HTTP/1.2": _request(b"/echo", version=b"1.2"),
    "HTTP/1.0": _request(b"/echo", version=b"1.0"),
    "HTTP/1.0 without host": b"GET /echo HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with a body": _two(version=b"1.0"),
    "HTTP/1.0 that stays": _request(b"/echo", b"Connection: keep-alive", version=b"1.0"),
    "OPTIONS *": _request(b"*", method=b"OPTIONS"),
    "GET *": _request(b"*"),
    "a method of one's own": _request(b"/echo", method=b"PURGE"),
    "a method in lower case": _request(b"/echo", method=b"get"),
    "an empty line before": b"\r\n" + _request(b"/echo"),
    "a bare LF before": b"\n" + _request(b"/echo"),
    "a fragment": _request(b"/echo#x"),
    "Connection: CLOSE": _request(b"/echo", b"Connection: CLOSE"),
    "Connection twice": _request(b"/echo", b"Connection: foo", b"Connection: close"),
}

METHODS = "routes name their methods: 405"
ASCII = "a target is ASCII (RFC 9112, 3.2), and whoever sends other bytes may mean anything"
HOSTS = "no name on the web has it, and allow-lists compare names"
PATHS = (
    "a path is matched as it stands, and clients remove dot segments (RFC 3986, 6.2.2.3): a proxy may see another one"
)
BLANK_LINES = "RFC 9112, 2.2: an empty line before a request is ignored"
HYPER = "hyper reads it before we do"

# Name -> why a front differs from Go; of one front where it says so.
TAKEN = {
    "raw UTF-8 in the path": ASCII,
    "raw latin-1 in the path": ASCII,
    "raw UTF-8 in the query": ASCII,
    "an encoded NUL": "no service expects it, and many read no further",
    "a dot segment": PATHS,
    "a dot-dot segment": PATHS,
    "two slashes": PATHS,
    "a slash at the end": PATHS,
    "an empty host": HOSTS,
    "a host with a port of letters": HOSTS,
    "a host with an encoded blank": HOSTS,
    "a host of signs": HOSTS,
    "HTTP/1.0 without host": "without it nobody knows whom the request is for",
    "GET *": "only OPTIONS has that target (RFC 9112, 3.2.4)",
    "a method of one's own": METHODS,
    "a method in lower case": METHODS,
    "an empty line before": BLANK_LINES,
    "a fragment": "no part of a target; hyper cuts it off, Go takes it for a part of the path",
    "granian: a bare LF before": BLANK_LINES,
    "granian: a caret and a backtick": HYPER,
    "granian: HTTP/1.2": HYPER,
    "granian: 100 headers": "hyper's maximum is 100 with Host",
    "valid/rfc9112_leading_crlf_01": BLANK_LINES,
    "invalid/rfc9112_leading_crlf_02": BLANK_LINES,
}


class Seen(NamedTuple):
    """What a server made of a request."""

    status: int  # 0: no answer
    path: bytes = b""
    body: bytes = b""

    @property
    def served(self) -> bool:
        return self.status == 200

    def __str__(self) -> str:
        return f"{self.status} {self.path!r} {self.body!r}" if self.served else str(self.status)


def answer_to(address: str, raw: bytes) -> tuple[int, bytes]:
    """Status and body of the first answer that is final; 0 when none came, or one that is no HTTP."""
    with RawClient(address, timeout_s=ANSWER_S) as client:
        client.versions = ("HTTP/1.1", "HTTP/1.0")
        client.send_while_open(raw)
        try:
            while (answer := client.answer("HEAD" if raw.startswith(b"HEAD") else "GET")).status < 200:
                pass
        except (AssertionError, ValueError, OSError):
            return 0, b""
        return answer.status, answer.body


def seen_by_go(address: str, raw: bytes) -> Seen:
    """Go refuses with answers that end with their connection, which `RawClient` does not take: status 0."""
    status, body = answer_to(address, raw)
    if status != 200 or not body:
        return Seen(0 if status == 200 and not raw.startswith(b"HEAD") else status)
    told = json.loads(body)
    return Seen(200, unquote_to_bytes(told["path"] or "/"), base64.b64decode(told["body"] or ""))


def seen_by(house: House, raw: bytes) -> Seen:
    """What a front did with a request, as its door saw it."""
    house.call(house.door.opened.clear)
    status, _ = answer_to(house.address, raw)
    if status != 200 or not house.door.opened:
        return Seen(status)
    admission, body = house.door.opened[0]
    return Seen(200, unquote_to_bytes(admission.path), bytes(body))


def differences(go_address: str, house: House, name_of_front: str) -> Iterator[str]:
    """Whatever has no reason."""
    for name, raw in ODD.items():
        go, ours = seen_by_go(go_address, raw), seen_by(house, raw)
        agree = go.served == ours.served and (not go.served or go == ours)
        if not agree and not {name, f"{name_of_front}: {name}"} & TAKEN.keys():
            yield f"{name}: Go {go}, {name_of_front} {ours}"
    hostile = [(one.name, one.raw) for one in HOSTILE if 200 not in one.allowed(name_of_front)]
    for name, raw in [*hostile, *cases()]:
        ours = seen_by(house, raw)
        if ours.served and name not in TAKEN and not seen_by_go(go_address, raw).served:
            yield f"{name}: {name_of_front} serves what Go refuses: {raw[:120]!r}"


def main() -> int:
    loop_thread = LoopThread()
    unexpected = 0
    with subprocess.Popen([sys.argv[1]], stdout=subprocess.PIPE, text=True) as go:
        assert go.stdout is not None
        go_address = go.stdout.readline().strip()
        for kind in FRONTS:
            limits: dict[str, str | int] = {"header_timeout": "500ms", "body_timeout": "500ms"}
            house = House(loop_thread, kind, limits, (), "127.0.0.1:0", ANYTHING)
            found = list(differences(go_address, house, kind.name))
            house.leave()
            unexpected += len(found)
            print(f"Go's net/http, {kind.name}: {len(ODD)} odd requests; {found or 'no difference without a reason'}")
        go.kill()
    loop_thread.stop()
    return int(bool(unexpected))


if __name__ == "__main__":
    sys.exit(main())
