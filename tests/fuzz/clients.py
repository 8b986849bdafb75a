"""Promise: whatever a client writes in front of what its proxy appends, and in whatever lines, the client is whom the
proxy has seen, in canonical spelling; who is not trusted is itself; and what is copied fits one header line."""

from __future__ import annotations

from fastgw.addresses import parsed
from fastgw.forwarding import Forwarding, told
from fastgw.messages import Head, Peer
from tests.fuzz.drawing import Draw

TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48", "unix")
FAMILIES = {family: Forwarding(TRUSTED, family) for family in ("x-forwarded", "forwarded", "off")}
NAMES = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-x", "x-real-ip")
PROXY, STRANGER = Peer("10.0.0.1", 1, "http"), Peer("203.0.113.9", 1, "http")
SEEDS = [
    b"\x00\x00\x14 6.6.6.6, 10.0.0.9", b"\x01\x06\x20for=6.6.6.6;proto=https, for=\"[2001:db8::1]:_x\"",
    b"\x01\x06\x10for=\"6.6.6.6\\", b"\x00\x01\x05https\x00\x0a::ffff:1.1", b"\x02\x00\x07unknown",
]  # fmt: skip


class Lines:
    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self._lines if name == key]


def seen(by: Forwarding, peer: Peer, lines: list[tuple[str, str]]) -> Head:
    head = Head("GET", "/", "", Lines(lines), ("shop.test",), None, False, peer)
    head.client = by.client_of(head)
    for name in (*NAMES, "forwarded"):
        copied = told(name, head, head.client)
        assert copied is None or not set(copied.encode("latin-1")) & {0, 10, 13}
    return head


def target(data: bytes) -> None:
    draw = Draw(data)
    by = draw.choice(list(FAMILIES.values()))
    lines = []
    while draw.left and len(lines) < 8:
        name = draw.choice((*NAMES, "forwarded"))
        lines.append((name, "".join(chr(byte) for byte in draw.some_bytes(80) if byte not in (0, 10, 13))))
    address = seen(by, PROXY, lines).client_address
    assert str(parsed(address)) == address
    assert seen(by, STRANGER, lines).client_address == "203.0.113.9"
    appended = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=192.0.2.7;proto=http"),
    ]
    client = seen(by, PROXY, lines + appended).client
    assert client is not None
    assert client.address == ("10.0.0.1" if by is FAMILIES["off"] else "192.0.2.7")
    assert client.scheme == "http"
