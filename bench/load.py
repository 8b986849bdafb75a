"""The load generators.

- Closed loop, wrk: a connection sends when its answer has come. For cost and throughput; its latencies leave out
  everybody who would have come while the gateway stalled.
- Open loop, `native/openloop.c`: requests start by a schedule. For latency.
- Parked, `native/park.c` and `parked_http2`: requests that wait, and nothing else.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.native import SOURCES, program
from bench.processes import BenchError, json_line, run_to_end

SLACK_S = 30.0  # the generators wait for their last answers
OPEN_LOOP_CONNECTIONS = 512  # more than wait at once, below capacity
SETTLE_S = 0.5  # sent, not recorded: connections are new, batches small
LATENCY_MAX_US = 60_000_000
LATENCY_DIGITS = 3  # significant, of each recorded latency


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


def closed_loop(port: int, connections: int, seconds: float, body_file: Path, path: str = "/orders") -> ClosedLoop:
    """POST the same body over `connections` connections for `seconds`, each as fast as its answers come.

    Raises:
        BenchError: wrk failed.
    """
    whole_s = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", "-s", str(SOURCES / "post.lua")]
    url = f"http://127.0.0.1:{port}{path}"
    printed = run_to_end([*command, url], whole_s + SLACK_S, BENCH_BODY_FILE=str(body_file))
    told = [line for line in printed.splitlines() if line.startswith("bench:")]
    if not told:
        raise BenchError(f"wrk told nothing:\n{printed}")
    return ClosedLoop(**json.loads(told[0].removeprefix("bench:")))


@dataclass(frozen=True)
class OpenLoop:
    """What the open-loop client counted: latencies from the intended start."""

    rate: float  # requests a second that were asked for
    seconds: float
    sent: int
    answered: int
    bad_status: int
    wrong_size: int
    lost: int  # no answer within eight seconds of the end
    broken: int  # connections that the gateway closed
    lag_p99_us: int  # how late the client itself was
    histogram: HdrHistogram

    @property
    def errors(self) -> int:
        return self.bad_status + self.wrong_size + self.lost + self.broken

    @property
    def percentiles(self) -> dict[str, int]:
        return percentiles(self.histogram)


def open_loop(port: int, rate: float, seconds: float, body_file: Path, path: str = "/orders") -> OpenLoop:
    """POST `rate` times a second at random moments, for `seconds` after a short settling.

    Raises:
        BenchError: the client failed, for example on an answer that it cannot read.
    """
    latencies = body_file.with_suffix(".latencies")
    numbers = [OPEN_LOOP_CONNECTIONS, rate, SETTLE_S, seconds]
    command = [str(program("openloop")), str(port), path, str(body_file), *map(str, numbers), str(latencies)]
    told = json_line(run_to_end(command, seconds + SLACK_S))
    values = array("I", latencies.read_bytes())
    latencies.unlink()
    return OpenLoop(rate=round(rate, 1), seconds=seconds, histogram=histogram_of(values), **told)


def histogram_of(values: Iterable[int]) -> HdrHistogram:
    """A histogram of latencies in microseconds."""
    histogram = HdrHistogram(1, LATENCY_MAX_US, LATENCY_DIGITS)
    for value, count in Counter(values).items():
        histogram.record_value(max(1, min(value, LATENCY_MAX_US)), count)
    return histogram


def merged(encoded: Iterable[str]) -> HdrHistogram:
    """One histogram of several that `encode` has written."""
    total = HdrHistogram(1, LATENCY_MAX_US, LATENCY_DIGITS)
    for one in encoded:
        total.add(HdrHistogram.decode(one))
    return total


def percentiles(histogram: HdrHistogram) -> dict[str, int]:
    """The usual percentiles, in microseconds."""
    wanted: dict[str, Any] = {"p50_us": 50, "p99_us": 99, "p999_us": 99.9}
    found = {name: int(histogram.get_value_at_percentile(share)) for name, share in wanted.items()}
    return found | {"max_us": int(histogram.get_max_value())}
