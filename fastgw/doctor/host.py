"""What this machine and the gateway that runs on it show: limits, kernel settings, and what the admin port says."""

from __future__ import annotations

import http.client
import re
import resource
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
    """The machine; a setting that this kernel does not have is None."""

    cores: int
    somaxconn: int | None
    tcp_migrate_req: int | None


class Node(NamedTuple):
    """The gateway on the admin port; `trouble` says why it does not answer, empty when it does."""

    trouble: str
    ready: bool = False
    reasons: Sequence[str] = ()
    status: Mapping[str, Any] = {}
    fates: Mapping[str, int] = {}  # of the records on the response topic, since the node's start

    @property
    def worker_pids(self) -> list[int]:
        return [int(worker["pid"]) for worker in self.status.get("workers", ())]


def look_at_host(sysctls: Path = SYSCTLS) -> Host:
    """The machine that this runs on."""
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


def open_files(pids: Sequence[int], proc: Path = PROC) -> tuple[int, bool]:
    """How many descriptors a worker may open, and whether that was read from a running one.

    Without one that may be looked at it is the hard limit of this shell: what a gateway started from here would get.
    """
    for pid in pids:
        try:
            title, limits = (proc / str(pid) / "cmdline").read_bytes(), (proc / str(pid) / "limits").read_text()
        except OSError:
            continue  # it has just ended, or belongs to somebody else
        found = _OPEN_FILES.search(limits)
        if found and _IS_WORKER(title):  # in a container the same number is another process
            return _no_limit_is_large(-1 if found[1] == "unlimited" else int(found[1])), True
    return _no_limit_is_large(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), False


def _no_limit_is_large(limit: int) -> int:
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit


def look_at_node(address: str) -> Node:
    """What the admin port at `address` ("host:port") says."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # An address to listen on is not always one to connect to.
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
        return Node(f"no answer of a fastgw: {error!r}")


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=ADMIN_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
