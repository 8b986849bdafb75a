"""Closed-loop load by wrk: a connection sends when its answer has come. For cost and throughput.

Its latencies leave out everybody who would have come while the gateway stalled; `openloop` has the honest ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.rig.native import SOURCES
from bench.rig.processes import BenchError, run_to_end

SLACK_S = 30.0  # wrk waits for its last answers


@dataclass(frozen=True)
class ClosedLoop:
    """What wrk counted in one round. Its percentiles are of a closed loop: good for comparing, not for promises."""

    requests: int
    seconds: float
    bad_status: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int  # answers that took more than two seconds
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int

    @property
    def errors(self) -> int:
        """Requests that were not answered 2xx, and connections that broke."""
        return self.bad_status + self.connect_errors + self.read_errors + self.write_errors + self.timeouts


def require_wrk() -> None:
    """Raises:
    BenchError: wrk is not on this machine.
    """
    if shutil.which("wrk") is None:
        raise BenchError("wrk, the load generator, is missing (Debian: apt-get install wrk)")


def closed_loop(
    port: int,
    connections: int,
    seconds: float,
    body_file: Path,
    path: str = "/orders",
    script: str = "post.lua",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> ClosedLoop:
    """POST the same body over `connections` connections for `seconds`, each as fast as its answers come.

    Args:
        script: of `bench/native`; another one than the default decides what is sent, by its `environment`.

    Raises:
        BenchError: wrk failed.
    """
    whole_s = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", "-s", str(SOURCES / script)]
    url = f"http://127.0.0.1:{port}{path}"
    printed = run_to_end([*command, url], whole_s + SLACK_S, None, **environment, BENCH_BODY_FILE=str(body_file))
    told = [line for line in printed.splitlines() if line.startswith("bench:")]
    if not told:
        raise BenchError(f"wrk told nothing:\n{printed}")
    return ClosedLoop(**json.loads(told[0].removeprefix("bench:")))
