"""Promise: any head gets a verdict; a path that is let in has no `.`, `..` or NUL; `Prefer: wait` never raises a
timeout; and what goes into the record of an admitted request is ASCII, but for
values of HTTP headers."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from fastgw import config
from fastgw.admission import Admission
from fastgw.core.routing import Router
from fastgw.dialects.plain import RequestWire
from fastgw.messages import Head
from tests.fuzz.drawing import Draw

CONFIG = config.loads(
    """
[gateway]
name = "shop"
[kafka]
bootstrap = "a:1"
[limits]
max_target = "200B"
[[route]]
method = ["GET", "POST", "QUERY"]
path = "/orders/{id}"
topic = "a"
request_headers = ["x-a"]
timeout = "5s"
[[route]]
method = "GET"
path = "/orders/{id}/items/{item}"
topic = "a"
[[route]]
method = "GET"
path = "/orders/new"
topic = "a"
""",
    environ={},
)
INTAKE = Router(CONFIG.routes, CONFIG.limits, ("shop.test", "[::1]"))
WIRES = [RequestWire("r", route.path, route.methods, route.request_headers) for route in CONFIG.routes]
SEEDS = [
    b"\0\x0a/orders/7\0\0\0\0\1\x09shop.test\0\0\0",
    b"\0\x16/orders/a%20b/items/\xc3\xa4\0\0\0\1\5[::1]\3\7wait=2;\0",
    b"\1\x0b/orders/../\0\0\2\1a\1b\2\x0ewait=999999999\0",
]


class Headers(dict[str, list[str]]):
    """Request headers as a front has them."""

    def get(self, key: str) -> str | None:  # type: ignore[override]
        return self[key][0] if key in self else None

    def get_all(self, key: str) -> list[str]:
        return super().get(key, [])


def target(data: bytes) -> None:
    draw = Draw(data)
    method = draw.choice(["GET", "POST", "HEAD", "", "get", "TRACE", "QUERY"])
    path, query = draw.some_text(80), draw.some_text(30)
    hosts = [draw.some_text(20) for _ in range(draw.number(2))]
    headers = Headers()
    for name in ("prefer", "x-a", "content-type"):
        if lines := [draw.some_bytes(40).decode("latin-1") for _ in range(draw.number(2))]:
            headers[name] = lines
    length = draw.choice([None, 0, 5, 1 << 40])
    head = Head(method, path, query, headers, hosts, length, bool(draw.number(1)))
    verdict = INTAKE.admit(head)
    if not isinstance(verdict, Admission):
        assert 400 <= verdict.ending.status < 500
        assert verdict.detail
        return
    segments = [unquote_to_bytes(segment) for segment in verdict.path.split("/")]
    assert b"." not in segments
    assert b".." not in segments
    assert b"\0" not in b"".join(segments)
    route = CONFIG.routes[verdict.route_number]
    assert 0 <= verdict.timeout_ns <= route.timeout_ns
    record = WIRES[verdict.route_number].headers(
        b"id", 3, 7, verdict.method, verdict.path, verdict.query, verdict.params, verdict.headers
    )
    assert all(name.isascii() for name, _ in record)
    assert all(value.isascii() for name, value in record if name not in ("content-type", "http_header_x-a"))
    assert unquote_to_bytes(dict(record)["http_path"]) == unquote_to_bytes(verdict.path)
