"""Open-loop load by `native/openloop.c`: requests start by a schedule, latency counts from the intended start."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.rig.native import program
from bench.rig.processes import json_line, run_to_end

SLACK_S = 30.0  # the client waits for its last answers
OPEN_LOOP_CONNECTIONS = 512  # more than wait at once, below capacity
SETTLE_S = 0.5  # sent, not recorded: connections are new, batches small
LATENCY_MAX_US = 60_000_000
LATENCY_DIGITS = 3  # significant, of each recorded latency


@dataclass(frozen=True)
class OpenLoop:
    """What the open-loop client counted: latencies from the intended start."""

    rate: float  # requests a second that were asked for
    seconds: float
    sent: int
    answered: int  # in whatever way
    refused: int  # with 503
    bad_status: int
    wrong_size: int
    lost: int  # no answer within eight seconds of the end
    broken: int  # connections that the gateway closed on a request
    refused_p99_us: int
    lag_p99_us: int  # how late the client itself was
    histogram: HdrHistogram

    @property
    def errors(self) -> int:
        return self.refused + self.bad_status + self.wrong_size + self.lost + self.broken

    @property
    def good(self) -> int:
        """Requests that came back right."""
        return self.answered - self.refused - self.bad_status - self.wrong_size

    @property
    def percentiles(self) -> dict[str, int]:
        return percentiles(self.histogram)


def open_loop(
    port: int,
    rate: float,
    seconds: float,
    body_file: Path,
    path: str = "/orders",
    connections: int = OPEN_LOOP_CONNECTIONS,
) -> OpenLoop:
    """POST `rate` times a second at random moments, for `seconds` after a short settling.

    Raises:
        BenchError: the client failed, for example on an answer that it cannot read.
    """
    latencies = body_file.with_suffix(f"{path.replace('/', '.')}.latencies")
    numbers = [connections, rate, SETTLE_S, seconds]
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
