"""The proxy passes bytes on, holds them back, loses answers, and cuts connections: when it is told to."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.wire_proxy import WireProxy


@pytest.fixture
def proxy() -> Iterator[WireProxy]:
    """In front of a server that echoes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with WireProxy(server.getsockname()[1]) as proxy:
            yield proxy
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def client(proxy: WireProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        yield connection


def read(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := client.recv(65_536)):
        got += more
    return got


def hears_nothing(client: socket.socket, for_s: float = 0.3) -> bool:
    return not select.select([client], [], [], for_s)[0]


def has_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_are_passed_on_in_order(client: socket.socket):
    sent = bytes(range(256)) * 1000
    client.sendall(sent)
    assert read(client, len(sent)) == sent


def test_answers_are_held_back_side_by_side(proxy: WireProxy, client: socket.socket):
    proxy.round_trip_s = 0.3
    began_s = time.monotonic()
    for number in range(5):
        client.sendall(b"%d" % number)
    assert read(client, 5) == b"01234"
    assert 0.3 <= time.monotonic() - began_s < 1.2, "not five times as long"


def test_answers_get_lost_and_what_was_asked_does_not(proxy: WireProxy, client: socket.socket):
    proxy.answers_lost = True
    client.sendall(b"lost")
    assert hears_nothing(client)
    proxy.answers_lost = False
    client.sendall(b"found")
    assert read(client, 5) == b"found"


def test_what_is_sent_into_silence_arrives_afterwards_both_ways(proxy: WireProxy, client: socket.socket):
    client.sendall(b"before")
    assert read(client, 6) == b"before"
    proxy.silent = True
    client.sendall(b"late")
    assert hears_nothing(client)
    proxy.silent = False
    assert read(client, 4) == b"late"


def test_connections_are_cut_and_new_ones_are_served(proxy: WireProxy, client: socket.socket):
    client.sendall(b"x")
    assert read(client, 1) == b"x"
    proxy.cut()
    assert client.recv(1) == b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as another:
        another.sendall(b"y")
        assert read(another, 1) == b"y"


def test_connections_are_refused_while_they_should_be(proxy: WireProxy):
    proxy.refuses = True
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        assert has_ended(client)
    proxy.refuses = False
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"x"
