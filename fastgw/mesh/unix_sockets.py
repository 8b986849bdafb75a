"""Unix sockets between the processes of a node, and a check of who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_UCRED = struct.Struct("3i")  # pid, uid, gid of the peer


def listening(path: Path) -> socket.socket:
    """A non-blocking socket that has this path, for this user alone. Replaces the file that a dead process has left.

    Raises:
        OSError: it cannot be made (path too long, directory missing or not writable).
    """
    bound = _unix_socket()
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


def connected(path: Path) -> socket.socket:
    """A non-blocking socket that is connected to the process that listens at this path. Does not wait.

    Raises:
        OSError: nobody listens there, too many wait to be accepted, or it is a process of another user.
    """
    connecting = _unix_socket()
    try:
        connecting.connect(str(path))
        check_peer(connecting)
    except OSError:
        connecting.close()
        raise
    return connecting


def check_peer(stream: socket.socket) -> None:
    """Check that the process at the other end runs as the same user.

    Raises:
        PermissionError: it does not.
    """
    _pid, uid, _gid = _UCRED.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        raise PermissionError(f"peer: expected uid {os.geteuid()}, got {uid}")


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
