"""Frames that cost their sender nothing, in numbers: memory stays where it is, and others are served meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, fronts
from tests.waiting import eventually

pytestmark = fronts(HTTP2)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = 300_000
GROWTH_BYTES_MAX = 32 << 20
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/held"),
    (":authority", "shop.test"),
    ("content-length", "5"),
]


@pytest.fixture
def house(serve):
    return serve(http="2")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def attacker(house: Any) -> Iterator[socket.socket]:
    """A connection that has said its preface and reads nothing."""
    host, port = house.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(PREFACE + SettingsFrame(0).serialize())
        yield sock


def send(sock: socket.socket, frame: bytes, count: int = FRAMES) -> None:
    """Send the frame again and again, until the server ends the connection or takes no more."""
    sock.settimeout(2)
    with contextlib.suppress(OSError):
        for _ in range(count // 100):
            sock.sendall(frame * 100)


def ends(sock: socket.socket) -> bool:
    """Whether the server has ended the connection, or does soon."""
    sock.settimeout(5)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def headers(stream: int, *, flags: tuple[str, ...] = ("END_HEADERS",)) -> bytes:
    frame = HeadersFrame(stream, hpack.Encoder().encode(REQUEST))
    for flag in flags:
        frame.flags.add(flag)
    return frame.serialize()


def is_served(house: Any) -> None:
    with Http2Client(house.address) as other:
        assert other.answer(other.request("/echo")).status == 200


def test_headers_that_never_end_end_the_connection(house):
    """CVE-2024-27316 and its kin: CONTINUATION frames without END_HEADERS are parsed and kept until memory is out."""
    block = hpack.Encoder().encode([("x-a", "a" * 4000)], huffman=False)
    before = resident_bytes()
    with attacker(house) as sock:
        sock.sendall(headers(1, flags=()))
        send(sock, ContinuationFrame(1, block).serialize())
        assert ends(sock)
    assert resident_bytes() - before < GROWTH_BYTES_MAX
    assert house.door.heads == []
    is_served(house)


def test_empty_continuations_end_the_connection(house):
    with attacker(house) as sock:
        sock.sendall(headers(1, flags=()))
        send(sock, ContinuationFrame(1, b"").serialize())
        assert ends(sock)
    is_served(house)


FLOODS: dict[str, Callable[[], Frame]] = {
    "pings": lambda: PingFrame(0, b"12345678"),
    "settings": lambda: SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65535}),
    "priorities": lambda: PriorityFrame(1, depends_on=3),
    "window updates": lambda: WindowUpdateFrame(0, 1),
    "empty data": lambda: DataFrame(1, b""),
}


@pytest.mark.parametrize("name", FLOODS)
def test_frames_without_use_fill_no_memory(house, name):
    """CVE-2019-9511 to 9518: their answers pile up for a client that does not read them."""
    before = resident_bytes()
    with attacker(house) as sock:
        sock.sendall(headers(1))
        send(sock, FLOODS[name]().serialize())
        is_served(house)
        assert resident_bytes() - before < GROWTH_BYTES_MAX
    eventually(house.empty, message="the request of the attacker is gone")


def test_streams_beyond_those_that_were_granted_are_refused(house):
    """The server says how many may be open at once; who opens more gets them reset, not served."""
    with attacker(house) as sock:
        for stream in range(1, 4001, 2):
            try:
                sock.sendall(headers(stream))
            except OSError:
                break
        is_served(house)
        assert len(house.door.heads) <= 1025
    eventually(house.empty)
