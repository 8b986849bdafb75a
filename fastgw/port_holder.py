"""Finds the process that listens on an address that we cannot bind, for error messages.

/proc/net lists the listening sockets by inode, and /proc/<pid>/fd shows which process has that inode open. Descriptors
of other users are hidden; then the message names only the user. Searching never raises: it only improves a message.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from fastgw.errors import StartError

UNIX_PREFIX = "unix:"
PRIVILEGED_BELOW = 1024
PROC = Path("/proc")
LISTENS = "0A"  # TCP_LISTEN in /proc/net/tcp
ACCEPTS = 1 << 16  # __SO_ACCEPTCON, the flag of a listening socket in /proc/net/unix
TITLE_CHARS_MAX = 60


def bind_error(bind: str, error: OSError, setting: str) -> StartError:
    """The error for an operator if `bind`, the value of `setting`, cannot be listened on."""
    is_tcp = not bind.startswith(UNIX_PREFIX)
    if error.errno == errno.EADDRINUSE:
        return in_use(bind, holder_of_port(port_of(bind)) if is_tcp else "", setting)
    why = f"address {bind}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno == errno.EACCES and is_tcp and port_of(bind) < PRIVILEGED_BELOW:
        # ip_unprivileged_port_start can change this limit, but 1024 is the usual one.
        return StartError(f"{why}; ports below {PRIVILEGED_BELOW} need CAP_NET_BIND_SERVICE, or change {setting}")
    if error.errno == errno.EAFNOSUPPORT:
        return StartError(f"{why}; this machine has no IPv6, change {setting} (0.0.0.0 is every IPv4 address)")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{why}; this machine does not have it (see `ip address`), change {setting}")
    return StartError(f"{why}; change {setting}")


def in_use(bind: str, holder: str, setting: str) -> StartError:
    if holder.startswith(f"process {os.getpid()} "):
        return StartError(f"address {bind} in use by another address of this gateway; change {setting}")
    by, what = (f" by {holder}", "end that process") if holder else ("", "end the process that listens there")
    return StartError(f"address {bind} in use{by}; {what}, or change {setting}")


def port_of(bind: str) -> int:
    try:
        return int(bind.rpartition(":")[2])
    except ValueError as error:
        raise StartError(f"address {bind}: expected host:port of this machine ({error})") from error


def holder_of_port(port: int, proc: Path = PROC) -> str:
    """The process that listens on a TCP port, such as "process 7 (nginx: master process)"; empty if unknown."""
    found = {inode: uid for name in ("tcp", "tcp6") for inode, uid in _listening(proc / "net" / name, port)}
    return _holder(set(found), proc) or next((f"a process of user {_user(uid)}" for uid in found.values()), "")


def holder_of_socket(path: Path, proc: Path = PROC) -> str:
    """The process that listens on a Unix socket; empty if unknown."""
    inodes = set()
    for line in _lines(proc / "net" / "unix"):
        # Num: RefCount Protocol Flags Type St Inode Path
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path) and int(fields[3], 16) & ACCEPTS:
            inodes.add(fields[6])
    return _holder(inodes, proc)


def _listening(table: Path, port: int) -> Iterator[tuple[str, int]]:
    """Inode and user of each socket that listens on `port`."""
    for line in _lines(table):
        # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
        fields = line.split()
        if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9], int(fields[7])


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []


def _holder(inodes: set[str], proc: Path) -> str:
    links = {f"socket:[{inode}]" for inode in inodes}
    if links:
        for process in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
            if _has_open(proc / str(process) / "fd", links):
                title = _title(proc / str(process))
                return f"process {process} ({title})" if title else f"process {process}"
    return ""


def _has_open(directory: Path, links: set[str]) -> bool:
    try:
        for descriptor in os.scandir(directory):
            try:
                if os.readlink(descriptor.path) in links:
                    return True
            except OSError:
                continue  # closed meanwhile
    except OSError:
        pass  # the process belongs to another user, or has ended
    return False


def _title(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    return "".join(letter for letter in words if letter.isprintable())[:TITLE_CHARS_MAX]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
