"""Facts about this machine and the gateway on it: limits, kernel settings, and the pages of the admin port."""

from __future__ import annotations

import http.client
import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from fastgw.config import cores

ADMIN_TIMEOUT_S = 3.0
PROC, SYSCTLS = Path("/proc"), Path("/proc/sys")
_FATE = re.compile(r'^fastgw_replies_total\{fate="(\w+)"\} (\d+)$', re.MULTILINE)
_IS_WORKER = re.compile(rb"fastgw: \S+ worker \d").match
_OPEN_FILES = re.compile(r"^Max open files +(\d+|unlimited) ", re.MULTILINE)


class Host(NamedTuple):
    """The machine. A setting that this kernel does not have is None."""

    cores: int
    somaxconn: int | None
    tcp_migrate_req: int | None


class Room(NamedTuple):
    """The room for a folder."""

    free_bytes: int  # of its file system, for users without privileges
    used_bytes: int | None  # of its files; None: this user may not look at them


class Node(NamedTuple):
    """The gateway behind the admin port. `trouble` says why it does not answer; it is empty if it does."""

    trouble: str
    ready: bool = False
    reasons: Sequence[str] = ()
    status: Mapping[str, Any] = {}
    fates: Mapping[str, int] = {}  # what happened to records on the response topic since the node's start: counts

    @property
    def worker_pids(self) -> list[int]:
        return [int(worker["pid"]) for worker in self.status.get("workers", ())]


def look_at_host(sysctls: Path = SYSCTLS) -> Host:
    """Facts about this machine."""
    return Host(
        cores(),
        _sysctl(sysctls / "net/core/somaxconn"),
        _sysctl(sysctls / "net/ipv4/tcp_migrate_req"),
    )


def _sysctl(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None


def room_for(folder: Path) -> Room:
    """The room for a folder, which need not exist yet."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.access(place, os.F_OK))
    free_bytes = shutil.disk_usage(existing).free
    try:
        files = [path.stat() for path in folder.iterdir()]
    except FileNotFoundError:
        return Room(free_bytes, 0)
    except PermissionError:
        return Room(free_bytes, None)
    return Room(free_bytes, sum(file.st_blocks * 512 for file in files))  # unit of st_blocks: see stat(2)


def open_files(pids: Sequence[int], proc: Path = PROC) -> tuple[int, bool]:
    """How many descriptors a worker may open, and whether the number is that of a running worker.

    If no running worker can be inspected, it is the hard limit of this shell, which a gateway started here would get.
    """
    for pid in pids:
        try:
            title, limits = (proc / str(pid) / "cmdline").read_bytes(), (proc / str(pid) / "limits").read_text()
        except OSError:
            continue  # the process has just ended, or belongs to another user
        found = _OPEN_FILES.search(limits)
        if found and _IS_WORKER(title):  # for a gateway in a container this pid may be another process
            return _no_limit_is_large(-1 if found[1] == "unlimited" else int(found[1])), True
    return _no_limit_is_large(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), False


def _no_limit_is_large(limit: int) -> int:
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit


def look_at_node(address: str) -> Node:
    """Facts from the admin port at `address` ("host:port")."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # A wildcard address can be listened on, but not connected to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # nothing is bound here
    try:
        ready_status, ready = _get(host, int(port), "/readyz")
        _, status = _get(host, int(port), "/status")
        _, metrics = _get(host, int(port), "/metrics")
        reasons = orjson.loads(ready)["reasons"]
        return Node(
            "",
            ready_status == 200,
            reasons,
            orjson.loads(status),
            {name: int(count) for name, count in _FATE.findall(metrics.decode())},
        )
    except OSError as error:
        return Node(error.strerror or str(error))
    except (http.client.HTTPException, ValueError, KeyError) as error:
        return Node(f"the answer is not from fastgw: {error!r}")


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=ADMIN_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
