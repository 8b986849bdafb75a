"""Listening sockets: one per endpoint and worker, or one for all; an address that is taken is an error by name."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.errors import StartError
from fastgw.supervisor import listeners
from fastgw.supervisor.listeners import Listeners, SocketFile, open_listeners
from tests.ports import free_port


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
        with pytest.raises(StartError, match=f"^address {address} in use by another address of this gateway; change"):
            open_listeners([address], workers=2, reuse_port=ours_share)


def test_who_has_a_port_is_told_and_what_to_do(tmp_path: Path) -> None:
    with listener_in_another_process("import socket; s = socket.create_server(('127.0.0.1', 0))") as (pid, port):
        with pytest.raises(StartError) as caught:
            open_listeners([f"127.0.0.1:{port}"], workers=1, setting="admin.listen")
        assert re.fullmatch(
            rf"address 127.0.0.1:{port} in use by process {pid} \(.*\); end that process, or change admin.listen",
            str(caught.value),
        )


def test_who_has_a_unix_socket_is_told(tmp_path: Path) -> None:
    source = f"import socket; s = socket.create_server({str(tmp_path / 's')!r}, family=socket.AF_UNIX)"
    with listener_in_another_process(source) as (pid, _), pytest.raises(StartError) as caught:
        open_listeners([f"unix:{tmp_path}/s"], workers=1)
    assert f"/s in use by process {pid} (" in str(caught.value)


@contextlib.contextmanager
def listener_in_another_process(source: str) -> Iterator[tuple[int, int | str]]:
    """Its pid and the port of the socket `s` that `source` makes."""
    source += "; n = s.getsockname(); print(n[1] if isinstance(n, tuple) else n, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", source], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()


def test_a_second_endpoint_that_fails_closes_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        port = asking.getsockname()[1]
    with pytest.raises(StartError, match="the path is a file that is not a socket"):
        open_listeners([f"127.0.0.1:{port}", f"unix:{tmp_path}/file"], workers=1)
    open_listeners([f"127.0.0.1:{port}"], workers=1).close()
    assert (tmp_path / "file").read_text() == "precious"


def test_a_port_is_free_again_after_a_close_while_connections_linger(opened: list[Listeners]) -> None:
    first = open_listeners(["127.0.0.1:0"], workers=1)
    host, port = first.addresses[0].split(":")
    with socket.create_connection((host, int(port))):
        first.close()
        opened.append(open_listeners([f"{host}:{port}"], workers=1))


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def reached(port: int) -> list[str]:
    """The loopback addresses on which somebody takes connections."""
    found = []
    for host in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            found.append(host)
    return found


BOTH = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", BOTH),
        ("LocalHost", BOTH),
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        *([("[::1]", ["::1"]), ("[::]", BOTH)] if has_ipv6() else []),
    ],
)
@pytest.mark.parametrize("share", [False, True])
def test_a_host_is_listened_on_at_every_address_that_its_name_promises(
    opened: list[Listeners], host: str, expected: list[str], share: bool
) -> None:
    port = free_port()  # a port of the kernel's choice for one family may be somebody else's for the other
    opened.append(open_listeners([f"{host}:{port}"], workers=2, reuse_port=share))
    assert {int(address.rpartition(":")[2]) for address in opened[0].addresses} == {port}
    assert reached(port) == expected
    assert opened[0].bind_numbers == [0] * len(opened[0].fds_of(1))


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_localhost_is_what_is_left_and_an_ipv6_address_is_refused(
    opened: list[Listeners], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_to_bind(monkeypatch, socket.AF_INET6, code)
    opened.append(open_listeners(["localhost:0"], workers=2))
    assert reached(int(opened[0].addresses[0].rpartition(":")[2])) == ["127.0.0.1"]
    for host in ("[::1]", "[::]"):
        with pytest.raises(StartError, match=r"this machine (has no IPv6|does not have it).* change gateway\.listen"):
            open_listeners([f"{host}:0"], workers=1)


def fail_to_bind(monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, code: int) -> None:
    bind = listeners._bound

    def bound(its_family: socket.AddressFamily, *more: Any, **others: Any) -> socket.socket:
        if its_family == family:
            raise OSError(code, os.strerror(code))
        return bind(its_family, *more, **others)

    monkeypatch.setattr(listeners, "_bound", bound)


def test_a_socket_is_known_by_the_bind_that_it_is_of(opened: list[Listeners], tmp_path: Path) -> None:
    opened.append(open_listeners([f"unix:{tmp_path}/s", "localhost:0", "127.0.0.1:0"], workers=2))
    assert opened[0].bind_numbers == [0, *[1] * len(BOTH), 2]


def test_of_a_name_only_what_this_machine_has_is_listened_on(
    opened: list[Listeners], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, here = (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [elsewhere, here, here])
    opened.append(open_listeners(["shop.example:0"], workers=1))
    assert [address.rpartition(":")[0] for address in opened[0].addresses] == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [elsewhere, elsewhere])
    with pytest.raises(StartError, match=r"shop\.example:0: Cannot assign requested address; this machine does not"):
        open_listeners(["shop.example:0"], workers=1)


def test_a_port_for_which_rights_are_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_bind(monkeypatch, socket.AF_INET, errno.EACCES)
    with pytest.raises(StartError, match=r"CAP_NET_BIND_SERVICE, or change gateway\.listen"):
        open_listeners(["127.0.0.1:81"], workers=1)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_has_the_mode_and_the_group_that_are_asked_for(
    opened: list[Listeners], tmp_path: Path, mode: int
) -> None:
    bind, group = f"unix:{tmp_path}/s", grp.getgrgid(os.getgid())
    for name in (group.gr_name, str(group.gr_gid)):
        opened.append(open_listeners([bind], 1, files={bind: SocketFile(mode, name)}))
        found = (tmp_path / "s").stat()
        assert stat.S_IMODE(found.st_mode) == mode
        assert found.st_gid == group.gr_gid
        opened.pop().close()


def test_a_socket_can_be_given_to_another_group(
    opened: list[Listeners], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind, given = f"unix:{tmp_path}/s", []
    monkeypatch.setattr(
        os, "chown", lambda path, user, group: given.append((path, user, group))
    )  # root may, others not
    opened.append(open_listeners([bind], 1, files={bind: SocketFile(None, "12345")}))
    assert given == [(tmp_path / "s", -1, 12345)]


@pytest.mark.parametrize(
    ("group", "refused", "says"),
    [
        ("no-such-group", False, "group 'no-such-group': this machine has no group with this name"),
        ("0", True, "group '0': only root and members of a group may assign files to it"),
    ],
)
def test_a_group_that_cannot_be_had_says_why_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, refused: bool, says: str
) -> None:
    bind = f"unix:{tmp_path}/s"

    def refuse(*_: object) -> None:
        raise PermissionError

    if refused:
        monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(StartError, match=f"^address {bind}: {says}"):
        open_listeners([bind], 1, files={bind: SocketFile(None, group)})
    assert not (tmp_path / "s").exists()


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
        with pytest.raises(StartError, match=f"^address {bind} in use by another address of this gateway"):
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
def test_a_worker_gets_no_connections_until_it_listens_again(bind: str, opened: list[Listeners]) -> None:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        port = asking.getsockname()[1]
    one = open_listeners([bind.format(port=port)], workers=3)
    opened.append(one)
    fds = [one.fds_of(worker)[0] for worker in range(3)]
    for away in ([0], [1], [0, 2], [2]):
        one.set_not_accepting(away)
        clients = [connect_to(fds[0]) for _ in range(60)]
        heard = {worker for worker in range(3) if worker not in away and waiting_on(fds[worker])}
        assert heard == set(range(3)) - set(away)
        for client in clients:
            client.close()
    one.set_not_accepting([])
    clients = [connect_to(fds[0]) for _ in range(60)]
    counts = [waiting_on(fd) for fd in fds]
    assert sum(counts) == len(clients)
    assert all(counts)
    for fd in fds:
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 5
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    for client in clients:
        client.close()


def test_a_worker_whose_process_listened_again_and_died_accepts_nothing(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0"], workers=2))
    opened[0].set_not_accepting([0])
    fds = [opened[0].fds_of(worker)[0] for worker in range(2)]
    with socket.socket(fileno=os.dup(fds[0])) as as_the_process_does:
        as_the_process_does.listen(16)
    for worker in (0, 0, 1):  # twice: a process may die without having listened; and worker 1 accepts
        opened[0].left_by(worker)
    clients = [connect_to(fds[1]) for _ in range(20)]
    assert waiting_on(fds[1]) == len(clients)
    for client in clients:
        client.close()


def test_connections_that_wait_for_a_worker_that_accepts_nothing_any_more_are_reset(opened: list[Listeners]) -> None:
    opened.append(open_listeners(["127.0.0.1:0"], workers=2))
    clients = [connect_to(opened[0].fds_of(0)[0]) for _ in range(40)]
    opened[0].set_not_accepting([0])
    left = waiting_on(opened[0].fds_of(1)[0])
    assert 0 < left < len(clients)
    resets = 0
    for client in clients:
        try:
            assert client.recv(1) == b"", "taken and closed by worker 1"
        except ConnectionResetError:
            resets += 1
        client.close()
    assert resets == len(clients) - left


def test_a_socket_that_all_workers_share_always_accepts(opened: list[Listeners], tmp_path: Path) -> None:
    opened.append(open_listeners([f"unix:{tmp_path}/socket"], workers=2))
    opened[0].set_not_accepting([0, 1])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/socket")
