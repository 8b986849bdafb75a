"""The listening sockets of a gateway. The supervisor opens them once and keeps them; its children inherit them.

Each TCP endpoint has one SO_REUSEPORT socket per worker. The kernel spreads connections by hash (measured 1.02-1.25
max/mean over 4 workers; with one shared socket 1.4-2.5), and the accept queue of a worker outlives its process. The
disadvantage: the kernel also gives connections to a socket that no process accepts from. So a worker that will have no
process for a while stops listening (`set_not_accepting`), and its connections go to the other workers. A Unix socket
cannot be split: all workers accept from the same socket.

A name stands for all of its addresses: "localhost" is 127.0.0.1 and ::1, and each has its own sockets. "[::]" is every
address of this machine, including IPv4, as in Go and most other servers. "0.0.0.0" is only IPv4.

With SO_REUSEPORT a second gateway could bind the same port without an error, and clients would reach either gateway. So
each address is first bound without SO_REUSEPORT, which fails if another process listens there.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastgw.config import ACCEPT_BACKLOG
from fastgw.errors import StartError
from fastgw.port_holder import UNIX_PREFIX, bind_error, holder_of_socket, in_use, port_of

# RFC 6761, 6.3. Not resolved: /etc/hosts of some containers has only one of the two.
LOCALHOST = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
NOT_ON_THIS_MACHINE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

Address = tuple[Any, ...]  # (host, port), for IPv6 with flow and scope

# Accepted sockets inherit these. DEFER_ACCEPT keeps clients that send nothing out of the process for 5 s. KEEPALIVE and
# USER_TIMEOUT end connections whose peer has vanished.
_TCP_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)


class SocketFile(NamedTuple):
    """Permissions of the file of a Unix socket: they decide who may connect."""

    mode: int | None = None  # None: what the umask leaves
    group: str = ""  # a name or a number; empty: the group of this process


class Listeners:
    """The open listening sockets of all endpoints; `addresses` has the chosen port instead of port 0."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.bind_numbers: list[int] = []  # for each endpoint the index of its bind; a name may have several endpoints
        self._by_endpoint: list[list[socket.socket]] = []  # one shared socket, or one per worker
        self._unix_paths: list[Path] = []
        self.not_accepting: frozenset[int] = frozenset()  # workers that accept no connections now

    def __repr__(self) -> str:
        return f"<Listeners {' '.join(self.addresses)}>"

    def fds_of(self, worker: int) -> list[int]:
        """The sockets that `worker` accepts from: one fd per endpoint, in the order of the endpoints."""
        return [group[worker % len(group)].fileno() for group in self._by_endpoint]

    def add(self, bind_number: int, group: list[socket.socket], unix_path: Path | None = None) -> None:
        """Add one endpoint's sockets; `unix_path` is a file that `close` removes."""
        self.addresses.append(_address_of(group[0]))
        self.bind_numbers.append(bind_number)
        self._by_endpoint.append(group)
        if unix_path is not None:
            self._unix_paths.append(unix_path)

    def set_not_accepting(self, workers: Collection[int]) -> None:
        """Stop accepting for these workers, and accept for all others. Shared sockets always accept.

        Connections that wait in the queue of such a worker are reset: no process would answer them.
        """
        for worker in self.not_accepting ^ frozenset(workers):
            for group in self._by_endpoint:
                if len(group) > 1:
                    if worker in workers:
                        _stop_accepting(group[worker])
                    else:
                        group[worker].listen(ACCEPT_BACKLOG)
        self.not_accepting = frozenset(workers)

    def left_by(self, worker: int) -> None:
        """A process of this worker has ended. It may have made the worker's sockets listen again: stop them again."""
        if worker in self.not_accepting:
            for group in self._by_endpoint:
                if len(group) > 1:
                    _stop_accepting(group[worker])

    def close(self) -> None:
        """Close our copies and remove the files of Unix sockets. Children keep their copies. Idempotent."""
        for group in self._by_endpoint:
            _close_all(group)
        self._by_endpoint.clear()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        self._unix_paths.clear()


def _stop_accepting(one: socket.socket) -> None:
    # Linux removes a listening socket that is shut down from its SO_REUSEPORT group, but keeps it bound.
    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        one.shutdown(socket.SHUT_RD)


def open_listeners(
    binds: Sequence[str],
    workers: int,
    reuse_port: bool = True,
    inherited: Sequence[socket.socket] = (),
    *,
    setting: str = "gateway.listen",
    files: Mapping[str, SocketFile] | None = None,
) -> Listeners:
    """Listen on each of `binds` ("host:port", "[v6]:port", "unix:/path") for this number of workers.

    For a host name, listen on each of its addresses that this machine has.

    Args:
        reuse_port: False opens one socket per endpoint (only one process serves the admin port).
        inherited: sockets that systemd opened for us, used instead of binding: one per endpoint (shared by all workers)
            or one per endpoint and worker (all sockets of the first endpoint first).
        setting: name of the setting with the addresses, for error messages.
        files: permissions for those of `binds` that are Unix sockets.

    Raises:
        StartError: an address is in use, not permitted or invalid, or the number of inherited sockets is wrong. Nothing
            stays open.
    """
    listeners = Listeners()
    if inherited:
        _take_over(listeners, binds, workers, inherited)
        return listeners
    try:
        for number, bind in enumerate(binds):
            if bind.startswith(UNIX_PREFIX):
                path = Path(bind.removeprefix(UNIX_PREFIX))
                listeners.add(number, [_listen_unix(path, (files or {}).get(bind, SocketFile()), setting)], path)
            else:
                for group in _listen_tcp(bind, workers if reuse_port else 1, reuse_port, setting):
                    listeners.add(number, group)
    except BaseException:
        listeners.close()
        raise
    return listeners


def _take_over(listeners: Listeners, binds: Sequence[str], workers: int, inherited: Sequence[socket.socket]) -> None:
    if len(inherited) not in (len(binds), len(binds) * workers):
        raise StartError(
            f"LISTEN_FDS: expected {len(binds)} sockets (one per listen) or {len(binds) * workers} (one per listen"
            f" and worker), got {len(inherited)}"
        )
    per_endpoint = len(inherited) // len(binds)
    for number, start in enumerate(range(0, len(inherited), per_endpoint)):
        group = list(inherited[start : start + per_endpoint])
        for one in group:
            if one.family != socket.AF_UNIX:
                _set_tcp_options(one)
            one.listen(ACCEPT_BACKLOG)
        listeners.add(number, group)  # without a path: the file of an inherited Unix socket is not ours to remove


def _listen_tcp(bind: str, count: int, reuse_port: bool, setting: str) -> list[list[socket.socket]]:
    """The sockets of each address that `bind` stands for; all on one port."""
    groups: list[list[socket.socket]] = []
    missing: OSError | None = None
    port = port_of(bind)
    try:
        addresses = _resolve(bind)
        for family, address in addresses:
            try:
                group = _listen_at(family, (address[0], port, *address[2:]), count, reuse_port)
            except OSError as error:
                if error.errno not in NOT_ON_THIS_MACHINE or len(addresses) == 1:
                    raise
                missing = error  # a name may have addresses that this machine lacks
                continue
            port = group[0].getsockname()[1]
            groups.append(group)
        if missing and not groups:
            raise missing
    except OSError as error:
        for group in groups:
            _close_all(group)
        raise bind_error(bind, error, setting) from error
    return groups


def _listen_at(family: socket.AddressFamily, address: Address, count: int, reuse_port: bool) -> list[socket.socket]:
    group: list[socket.socket] = []
    try:
        # The kernel chooses the port for this socket, and the others bind it by number: a socket bound to port 0 could
        # get another port when it listens again. This socket is held until the others are bound.
        chosen = _bound(family, address, reuse_port) if reuse_port and address[1] == 0 else None
        if chosen is not None:
            address = chosen.getsockname()
        elif reuse_port:
            _bound(family, address, reuse_port=False).close()
        for _ in range(count):
            group.append(_bound(family, address, reuse_port))
        if chosen is not None:
            chosen.close()
        for one in group:
            _set_tcp_options(one)
            one.listen(ACCEPT_BACKLOG)
    except OSError:
        _close_all(group)
        raise
    return group


def _close_all(group: Sequence[socket.socket]) -> None:
    for one in group:
        one.close()


def _resolve(bind: str) -> list[tuple[socket.AddressFamily, Address]]:
    """Every address of the host, each once."""
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return [(family, (address, int(port))) for family, address in LOCALHOST]
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, ValueError, OverflowError) as error:
        raise StartError(f"address {bind}: expected host:port of this machine ({error})") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: Address, reuse_port: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not block a restart
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Always set: the default depends on the machine (net.ipv6.bindv6only).
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def _set_tcp_options(one: socket.socket) -> None:
    for level, option, value in _TCP_OPTIONS:
        one.setsockopt(level, option, value)


def _listen_unix(path: Path, file: SocketFile, setting: str) -> socket.socket:
    bind = f"{UNIX_PREFIX}{path}"
    _remove_stale(path, setting)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = False
    try:
        one.bind(str(path))
        made = True
        _set_rights(path, file)  # before it listens: no client connects with the wrong permissions
        one.listen(ACCEPT_BACKLOG)
    except OSError as error:
        one.close()
        if made:
            path.unlink(missing_ok=True)
        raise bind_error(bind, error, setting) from error
    except StartError as error:
        one.close()
        path.unlink(missing_ok=True)
        raise StartError(f"address {bind}: {error}") from None
    return one


def _set_rights(path: Path, file: SocketFile) -> None:
    if file.group:
        try:
            os.chown(path, -1, _group_number(file.group))
        except PermissionError:
            raise StartError(
                f"group {file.group!r}: only root and members of a group may assign files to it; add the gateway's "
                "user to the group"
            ) from None
    if file.mode is not None:
        path.chmod(file.mode)


def _group_number(group: str) -> int:
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartError(f"group {group!r}: this machine has no group with this name (see `getent group`)") from None


def _remove_stale(path: Path, setting: str) -> None:
    """Remove a socket file without a listener; refuse to remove any other file."""
    bind = f"{UNIX_PREFIX}{path}"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"address {bind}: the path is a file that is not a socket; change {setting}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            asking.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass  # its queue is full: another process listens
    except OSError as error:
        raise bind_error(bind, error, setting) from error
    raise in_use(bind, holder_of_socket(path), setting)


def _address_of(one: socket.socket) -> str:
    name = one.getsockname()
    if one.family == socket.AF_UNIX:
        return f"{UNIX_PREFIX}{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if one.family == socket.AF_INET6 else f"{host}:{port}"
