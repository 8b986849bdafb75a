"""The protocol with systemd: state notifications, the watchdog, inherited sockets. Needs no library.

Without systemd's environment variables nothing here has any effect.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

import structlog

FIRST_FD = 3  # SD_LISTEN_FDS_START

# Meant for the process that systemd started, not for its children.
OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

log = structlog.get_logger("fastgw.systemd")


class Notifier:
    """Notifies systemd of the state of this service (sd_notify): one datagram per message, never blocking."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]

    def tell(self, *assignments: str) -> None:
        """Send `assignments` ("READY=1", "STATUS=..."); a failure is only logged."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sending:
            try:
                sending.connect(self._address)
                sending.sendall("\n".join(assignments).encode())
            except OSError as error:
                log.warning("systemd not notified", message=assignments[0], error=str(error))


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """The longest interval between two WATCHDOG=1 messages, in seconds; None if the watchdog is off."""
    with contextlib.suppress(KeyError, ValueError):
        if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            return int(environ["WATCHDOG_USEC"]) / 1e6
    return None


def inherited_sockets(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd opened for this process (socket activation), in its order; often empty.

    Children no longer inherit them automatically. Call it only once: the sockets own the descriptors.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    sockets = []
    for fd in range(FIRST_FD, FIRST_FD + int(environ.get("LISTEN_FDS", "0"))):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets
