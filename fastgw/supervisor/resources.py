"""Resources that the supervisor owns and its children share: sockets, table, run directory, life pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import secrets
import shutil
import tempfile
from pathlib import Path

from fastgw import table
from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.state_file import RUN_DIR_PREFIX
from fastgw.supervisor import systemd
from fastgw.supervisor.listeners import SocketFile, open_listeners

_ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class SupervisorResources:
    """Opened once, closed at the end of the service.

    Attributes:
        listeners, admin: the sockets of the gateway and of the admin port.
        run_dir: a new directory of mode 0700 for the sockets between the workers.
        table, table_fd: the shared correlation table.
        life_fd: read end of the life pipe; children read EOF from it when this process ends, for any reason.
    """

    def __init__(self, settings: Config) -> None:
        """
        Raises:
            StartError: an address is in use, or the run directory cannot be made. Nothing stays open.
        """
        with contextlib.ExitStack() as opening:
            _raise_file_limit()
            gateway = settings.gateway
            binds = [listen.bind for listen in gateway.listens]
            files = {listen.bind: SocketFile(listen.mode, listen.group) for listen in gateway.listens}
            self.listeners = open_listeners(binds, gateway.workers, inherited=systemd.inherited_sockets(), files=files)
            opening.callback(self.listeners.close)
            admin = [settings.admin.listen] if settings.admin.listen else []
            self.admin = open_listeners(admin, 1, reuse_port=False, setting="admin.listen")
            opening.callback(self.admin.close)
            self.run_dir = _make_run_dir(gateway.run_dir)
            opening.callback(shutil.rmtree, self.run_dir, ignore_errors=True)
            self.table_fd, self.table = table.create(secrets.randbits(24), gateway.workers, gateway.slots)
            opening.callback(os.close, self.table_fd)
            self.life_fd, write_end = os.pipe2(os.O_CLOEXEC)
            opening.callback(os.close, self.life_fd)
            opening.callback(os.close, write_end)
            self._closing = opening.pop_all()

    def close(self) -> None:
        self._closing.close()


def in_memory(data: bytes, sealed: bool) -> int:
    """A file without a name that contains `data`; if sealed, it cannot be changed. Returns its fd."""
    fd = os.memfd_create("fastgw-config", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rewrite(fd, data)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return fd


def rewrite(fd: int, data: bytes) -> None:
    """Replace the content of the file."""
    os.ftruncate(fd, 0)
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], written)


def opened_anew(fd: int) -> int:
    """Another read-only fd of the same file with its own offset, so that readers do not disturb each other."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _make_run_dir(configured: str) -> Path:
    under_systemd = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    places = (configured, under_systemd, os.environ.get("XDG_RUNTIME_DIR", ""))
    place = next(filter(None, places), tempfile.gettempdir())
    try:
        Path(place).mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=place))
    except OSError as error:
        raise StartError(f"run directory in {place}: {error.strerror}") from error


def _raise_file_limit() -> None:
    """Raise the soft limit for the children: the usual 1024 would allow only about a thousand connections."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
