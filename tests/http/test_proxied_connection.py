"""A connection behind a proxy that speaks the PROXY protocol: its header first, then everything as ever."""

from __future__ import annotations

import pytest

from fastgw.http.connection import Connection
from fastgw.http.proxied_connection import ProxiedConnection
from fastgw.messages import Peer
from tests.actors.wire_connection import FakeFront, FakeTransport, Wire
from tests.http.test_proxy_protocol import BAD, INET, INET6, SAID, UNIX, USES_TLS, v2

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
LOCAL = v2(b"", 0, 0x20)
GET = b"GET /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello"
SOCKET = Peer("192.0.2.7", 40_000, "http")  # of FakeTransport


class ProxiedWire(Wire):
    """A proxy's end of the connection."""

    def __init__(self, trusted: str = SOCKET.address, is_full: bool = False) -> None:
        self.front = FakeFront()
        self.front.is_full = is_full
        self.door = self.front.door
        self.peers: list[Peer] = []
        admit = self.door.admit

        def admit_and_note(head):
            self.peers.append(head.peer)
            return admit(head)

        self.door.admit = admit_and_note  # type: ignore[method-assign]
        self.transport = FakeTransport()
        self.transport.protocol = ProxiedConnection(self.front, lambda address: address == trusted)
        self.transport.protocol.connection_made(self.transport)

    @property
    def connection(self) -> Connection:  # type: ignore[override]
        return self.transport.protocol

    @property
    def has_stepped_aside(self) -> bool:
        return isinstance(self.transport.protocol, Connection)


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (V1, Peer("192.0.2.1", 56_324, "http")),
        (v2(INET), Peer("192.0.2.1", 56_324, "http")),
        (v2(INET6 + USES_TLS, 0x21), Peer("2001:db8::1", 56_324, "https")),
        (v2(UNIX, 0x31), Peer("", 0, "http")),
        (b"PROXY UNKNOWN\r\n", SOCKET),
        (LOCAL, SOCKET),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_requests_are_the_client_s_however_the_bytes_are_cut(header, peer, step):
    stream = header + GET + POST + GET
    wire = ProxiedWire().send(*(stream[at : at + step] for at in range(0, len(stream), step)))
    assert wire.sent.count(b"HTTP/1.1 200") == 3
    assert wire.peers == [peer] * 3
    assert [call[2] for call in wire.door.calls if call[0] == "open"] == [b"", b"hello", b""]
    assert wire.has_stepped_aside


@pytest.mark.parametrize("header", [header for header, _ in SAID if len(header) < 400], ids=lambda one: one[:40])
def test_a_header_alone_leaves_an_idle_connection_without_anything_in_between(header):
    wire = ProxiedWire().send(header)
    assert wire.has_stepped_aside
    assert wire.connection.is_idle
    wire.front.pass_time(11)
    assert wire.transport.ended == "closed"
    assert wire.sent == b""


@pytest.mark.parametrize("start", [start for start in BAD if len(start) < 400], ids=lambda one: one[:40])
@pytest.mark.parametrize("step", [1, 1000])
def test_a_connection_without_a_header_is_refused_once_and_serves_nothing(start, step):
    stream = start + GET
    wire = ProxiedWire().send(*(stream[at : at + step] for at in range(0, len(stream), step)))
    assert wire.sent.startswith(b"HTTP/1.1 400")
    assert wire.sent.count(b"HTTP/1.1") == 1
    assert wire.transport.ended == "eof"
    assert not wire.peers
    wire.send(V1 + GET)
    assert wire.sent.count(b"HTTP/1.1") == 1
    wire.front.pass_time(3)
    assert wire.transport.ended == "aborted"


def test_a_header_of_somebody_who_is_not_trusted_is_refused():
    wire = ProxiedWire(trusted="10.0.0.1").send(V1 + GET)
    assert wire.sent.startswith(b"HTTP/1.1 400")
    assert not wire.peers


def test_a_second_header_is_no_request():
    wire = ProxiedWire().send(V1 + V1 + GET)
    assert wire.sent.startswith(b"HTTP/1.1 400")
    assert not wire.peers


def test_a_client_that_says_nothing_is_closed_without_a_word():
    wire = ProxiedWire()
    assert wire.front.heads_due
    wire.front.pass_time(11)
    assert wire.transport.ended == "closed"
    assert wire.sent == b""


def test_half_a_header_is_not_idle_and_has_the_time_of_a_head():
    wire = ProxiedWire()
    for byte in V1[:9]:
        wire.send(bytes([byte]))
        wire.front.pass_time(1)
    assert not wire.transport.ended
    assert not wire.connection._connection.is_idle
    wire.front.pass_time(2)
    assert wire.sent.startswith(b"HTTP/1.1 408")
    wire.send(V1[9:] + GET)
    assert wire.sent.count(b"HTTP/1.1") == 1
    assert not wire.peers


def test_header_and_head_share_one_deadline():
    wire = ProxiedWire().send(V1[:9])
    wire.front.pass_time(6)
    wire.send(V1[9:] + GET[:9])
    wire.front.pass_time(6)
    assert wire.sent.startswith(b"HTTP/1.1 408")


def test_a_connection_too_many_is_told_so_whatever_it_sends():
    wire = ProxiedWire(is_full=True)
    assert wire.sent.startswith(b"HTTP/1.1 503")
    wire.send(V1[:9], V1[9:] + GET)
    assert wire.sent.count(b"HTTP/1.1") == 1


def test_a_client_that_leaves_in_the_middle_of_it_is_let_go():
    wire = ProxiedWire().send(V1[:9])
    wire.connection.eof_received()
    wire.leave()
    assert wire.front.ended == 1
    assert not wire.front.heads_due
