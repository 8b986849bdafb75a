"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import struct

_UCRED = struct.Struct("3i")  # pid, uid, gid of the peer


def check(connected: socket.socket) -> None:
    """Check that the process at the other end runs as the same user.

    Raises:
        PermissionError: it does not.
    """
    _pid, uid, _gid = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        raise PermissionError(f"peer: expected uid {os.geteuid()}, got {uid}")
