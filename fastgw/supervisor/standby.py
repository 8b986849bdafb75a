"""The standby: a process that has imported everything and becomes a worker when one is needed.

Most of a worker's start time is Python importing libraries. It takes longest on a loaded machine, where workers are
most likely to die. So the supervisor keeps one process that has finished its imports. Until it is needed, it holds no
sockets, no table and no Kafka client. It waits on a socket for one message with the options and descriptors of a
worker, and then runs as that worker.

    supervisor                              standby
      started ──── exec, one socket ────────> imports, then reads
      take_over ── options, descriptors ────> is worker 2.5 from here on
      closed ───── EOF ─────────────────────> ends
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

MESSAGE_BYTES_MAX = 65_536
FDS_MAX = 250  # the kernel's limit for one message is 253


class Standby:
    """The supervisor's side of one waiting process."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start `command`, which gets the option `--standby-fd`.

        Raises:
            OSError: the process could not be started.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [*command, "--standby-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environ,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def __repr__(self) -> str:
        return f"<Standby pid={self.pid}>"

    def take_over(self, arguments: Sequence[str], fds: Mapping[str, Sequence[int]]) -> subprocess.Popen[bytes]:
        """Make it the worker with these options; from now on the process belongs to the caller.

        Raises:
            OSError: the standby has died. It is reaped.
        """
        message = json.dumps({"arguments": list(arguments), "fds": {name: len(fds[name]) for name in fds}}).encode()
        flat = [fd for numbers in fds.values() for fd in numbers]
        try:
            socket.send_fds(self._socket, [message], flat)
        except OSError:
            self.end()
            raise
        self._forget()
        return self._process

    def end(self) -> None:
        """Kill and reap it: it holds nothing that needs an orderly end."""
        self._process.kill()
        self._process.wait()
        self._forget()

    def _forget(self) -> None:
        os.close(self.pidfd)
        self._socket.close()


def await_role(standby_fd: int) -> list[str] | None:
    """In the standby: wait for the options of the worker to become; None if the supervisor has ended."""
    with socket.socket(fileno=standby_fd) as waiting:
        message, received, _, _ = socket.recv_fds(waiting, MESSAGE_BYTES_MAX, FDS_MAX)
    if not message:
        return None
    role = json.loads(message)
    options: list[str] = role["arguments"]
    rest = iter(received)
    for name, count in role["fds"].items():
        options += [name, ",".join(str(next(rest)) for _ in range(count))]
    return options
