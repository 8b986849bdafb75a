"""Listening sockets: one per endpoint and worker, or one for all; an address that is taken is an error by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.errors import StartError
from fastgw.listeners import Listeners, open_listeners


@pytest.fixture
def opened() -> Iterator[list[Listeners]]:
    """Whatever a test opens and puts here is closed after it."""
    made: list[Listeners] = []
    yield made
    for one in made:
        one.close()


def option(fd: int, level: int, name: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as one:
        return one.getsockopt(level, name)


def name_of(fd: int) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(fd)) as one:
        host, port = one.getsockname()
    return host, port


def test_each_worker_has_a_socket_of_its_own_for_each_endpoint(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0", "127.0.0.1:0"], workers=3))
    fds = [opened[0].fds_of(worker) for worker in range(3)]
    assert len({fd for pair in fds for fd in pair}) == 6
    names = [[name_of(fd) for fd in pair] for pair in fds]
    assert names[0] == names[1] == names[2], "all on the port that the first one got"
    assert opened[0].addresses == [f"127.0.0.1:{port}" for _, port in names[0]]


def test_the_options_that_accepted_connections_inherit_are_set(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0"], workers=1))
    (fd,) = opened[0].fds_of(0)
    assert option(fd, socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert option(fd, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 5
    assert option(fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(fd, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    assert option(fd, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000


@pytest.mark.parametrize("theirs_share", [False, True])
@pytest.mark.parametrize("ours_share", [False, True])
def test_a_port_that_anybody_listens_on_is_in_use(theirs_share: bool, ours_share: bool) -> None:
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(theirs_share))
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        address = f"127.0.0.1:{theirs.getsockname()[1]}"
        with pytest.raises(StartError, match=f"^address {address} in use$"):
            open_listeners([address], workers=2, reuse_port=ours_share)


def test_a_second_endpoint_that_fails_closes_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        port = asking.getsockname()[1]
    with pytest.raises(StartError, match="a file that is not a socket stands there"):
        open_listeners([f"127.0.0.1:{port}", f"unix:{tmp_path}/file"], workers=1)
    open_listeners([f"127.0.0.1:{port}"], workers=1).close()
    assert (tmp_path / "file").read_text() == "precious"


def test_a_port_is_free_again_after_a_close_while_connections_linger(opened: list[Listeners]) -> None:
    first = open_listeners(["127.0.0.1:0"], workers=1)
    host, port = first.addresses[0].split(":")
    with socket.create_connection((host, int(port))):
        first.close()
        opened.append(open_listeners([f"{host}:{port}"], workers=1))


def test_every_interface_of_ipv4_and_of_ipv6_are_two_endpoints(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["0.0.0.0:0"], workers=1))
    port = opened[0].addresses[0].rpartition(":")[2]
    opened.append(open_listeners([f"[::]:{port}"], workers=1))
    assert opened[1].addresses == [f"[::]:{port}"]


def test_workers_share_a_unix_socket(opened: list[Listeners], tmp_path: Path) -> None:
    opened.append(open_listeners([f"unix:{tmp_path}/s"], workers=3))
    assert opened[0].fds_of(0) == opened[0].fds_of(2)
    assert opened[0].addresses == [f"unix:{tmp_path}/s"]
    opened[0].close()
    assert not (tmp_path / "s").exists()


def test_a_unix_socket_that_somebody_serves_is_in_use_and_a_left_over_one_is_replaced(
    opened: list[Listeners], tmp_path: Path
) -> None:
    bind = f"unix:{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"{tmp_path}/s")
        theirs.listen()
        with pytest.raises(StartError, match=f"^address {bind} in use$"):
            open_listeners([bind], workers=1)
    opened.append(open_listeners([bind], workers=1))


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        ("192.0.2.1:80", "address 192.0.2.1:80: Cannot assign requested address"),
        ("127.0.0.1:http", "address 127.0.0.1:http: expected host:port of this machine"),
        ("nowhere", "address nowhere: expected host:port"),
        ("unix:/nowhere/at/all", "address unix:/nowhere/at/all: No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_ours_is_named_with_the_reason(bind: str, text: str) -> None:
    with pytest.raises(StartError) as caught:
        open_listeners([bind], workers=1)
    assert text in str(caught.value)


def listening() -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen()
    return one


@pytest.mark.parametrize("count", [2, 6])
def test_inherited_sockets_are_shared_out_when_their_number_fits(opened: list[Listeners], count: int) -> None:
    inherited = [listening() for _ in range(count)]
    opened.append(open_listeners(["127.0.0.1:1", "127.0.0.1:2"], workers=3, inherited=inherited))
    fds = [one.fileno() for one in inherited]
    expected = [fds] * 3 if count == 2 else [[fds[0], fds[3]], [fds[1], fds[4]], [fds[2], fds[5]]]
    assert [opened[0].fds_of(worker) for worker in range(3)] == expected


def test_a_number_of_inherited_sockets_that_does_not_fit_is_an_error() -> None:
    inherited = [listening() for _ in range(3)]
    with pytest.raises(StartError, match=r"LISTEN_FDS: expected 2 sockets .* or 4 .*, got 3"):
        open_listeners(["127.0.0.1:1", "127.0.0.1:2"], workers=2, inherited=inherited)
    for one in inherited:
        one.close()


def connect_to(fd: int) -> socket.socket:
    client = socket.create_connection(name_of(fd), timeout=5)
    client.sendall(b"x")  # DEFER_ACCEPT: a client has to say something first
    return client


def waiting_on(fd: int) -> int:
    """How many connections wait; they are taken, read and closed."""
    count = 0
    with socket.socket(fileno=os.dup(fd)) as listening:
        listening.setblocking(False)
        while True:
            try:
                taken = listening.accept()[0]
            except BlockingIOError:
                return count
            with taken:
                taken.recv(1)
            count += 1


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "127.0.0.1:{port}"])
def test_a_deaf_slot_takes_no_connections_until_it_listens_again(bind: str, opened: list[Listeners]) -> None:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        port = asking.getsockname()[1]
    listeners = open_listeners([bind.format(port=port)], workers=3)
    opened.append(listeners)
    fds = [listeners.fds_of(worker)[0] for worker in range(3)]
    for deaf in ([0], [1], [0, 2], [2]):
        listeners.set_deaf(deaf)
        clients = [connect_to(fds[0]) for _ in range(60)]
        heard = {worker for worker in range(3) if worker not in deaf and waiting_on(fds[worker])}
        assert heard == set(range(3)) - set(deaf)
        for client in clients:
            client.close()
    listeners.set_deaf([])
    clients = [connect_to(fds[0]) for _ in range(60)]
    counts = [waiting_on(fd) for fd in fds]
    assert sum(counts) == len(clients)
    assert all(counts)
    for fd in fds:
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 5
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    for client in clients:
        client.close()


def test_a_deaf_slot_whose_process_listened_again_and_died_is_deaf(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0"], workers=2))
    opened[0].set_deaf([0])
    fds = [opened[0].fds_of(worker)[0] for worker in range(2)]
    with socket.socket(fileno=os.dup(fds[0])) as as_the_process_does:
        as_the_process_does.listen(16)
    for worker in (0, 0, 1):  # twice: a process may die without having listened; and slot 1 is not deaf
        opened[0].left_by(worker)
    clients = [connect_to(fds[1]) for _ in range(20)]
    assert waiting_on(fds[1]) == len(clients)
    for client in clients:
        client.close()


def test_connections_that_wait_for_a_slot_that_goes_deaf_are_reset(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0"], workers=2))
    clients = [connect_to(opened[0].fds_of(0)[0]) for _ in range(40)]
    opened[0].set_deaf([0])
    left = waiting_on(opened[0].fds_of(1)[0])
    assert 0 < left < len(clients)
    resets = 0
    for client in clients:
        try:
            assert client.recv(1) == b"", "taken and closed by slot 1"
        except ConnectionResetError:
            resets += 1
        client.close()
    assert resets == len(clients) - left


def test_a_socket_that_all_slots_share_never_goes_deaf(opened: list[Listeners], tmp_path: Path) -> None:
    opened.append(open_listeners([f"unix:{tmp_path}/socket"], workers=2))
    opened[0].set_deaf([0, 1])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/socket")
