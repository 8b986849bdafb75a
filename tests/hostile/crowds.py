"""What a crowd costs a client that behaves: `python -m tests.hostile.crowds`, some minutes.

A gateway with one worker on a real Kafka, an echo service, and one good client that asks at a steady rate. Its p99 is
taken in turn without and with each kind of crowd, several rounds, in the same run: only the ratio of the two means
anything on a machine that does other things as well. Ends with exit code 1 when a good request failed or, with
`--limit`, when the ratio is above it.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AdminClient, NewTopic

from tests.actors.raw_http import RawConnection
from tests.actors.repliers import replier
from tests.brokers.choice import KafkaForTests
from tests.gateway.gateways import Gateway
from tests.ports import free_port

# Nobody: what the ratio is worth on this machine.
CROWDS = {"nobody": 0, "idle": 10_000, "silent": 10_000, "slow-headers": 2000, "slow-bodies": 2000, "slow-readers": 100}
RATE = 200.0  # good requests a second
GATHER_TIMEOUT_S = 120
CONFIG = """
[limits]
header_timeout = "60s"
idle_timeout = "10m"
body_timeout = "60s"
write_timeout = "60s"
[[listen]]
bind = "127.0.0.1:{express}"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
http = "1"
"""


class Round(NamedTuple):
    """p99 of the good client in ms, without and with the crowd, and how many of its requests failed."""

    quiet_ms: float
    crowded_ms: float
    failed: int

    @property
    def ratio(self) -> float:
        return self.crowded_ms / self.quiet_ms


@contextmanager
def crowd(port: int, kind: str, count: int, path: str) -> Iterator[None]:
    """The crowd in a process of its own: it is there, all of it, until the end of the block."""
    command = [sys.executable, "-m", "tests.hostile.crowd", str(port), kind, str(count), path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    impatience = threading.Timer(GATHER_TIMEOUT_S, process.kill)
    impatience.start()
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        impatience.cancel()
        assert said == "here\n", f"the crowd of {count} {kind} did not gather"
        yield
    finally:
        impatience.cancel()
        process.communicate(timeout=30)


def good_client(port: int, path: str, seconds: float) -> tuple[float, int]:
    """p99 in ms of a client that asks at a steady rate on one connection, and how often it did not get its answer."""
    took_ms, failed = [], 0
    with RawConnection(port) as client:
        for number in range(int(seconds * RATE)):
            body = b"%06d" % number
            began = time.perf_counter()
            answer = client.request("POST", path, body)
            took_ms.append((time.perf_counter() - began) * 1000)
            failed += (answer.status, answer.body) != (200, body)
            threading.Event().wait(max(0.0, 1 / RATE - took_ms[-1] / 1000))
    return statistics.quantiles(took_ms, n=100)[98], failed


def measure(port: int, kind: str, count: int, path: str, seconds: float) -> Round:
    """One round."""
    quiet_ms, failed_before = good_client(port, path, seconds)
    with crowd(port, kind, count, path):
        crowded_ms, failed = good_client(port, path, seconds)
    return Round(quiet_ms, crowded_ms, failed_before + failed)


@contextmanager
def gateway(bootstrap: str, front: str) -> Iterator[tuple[int, str]]:
    """A running gateway, fresh for each crowd: the port of this front, and a path that is echoed."""
    name = f"crowd-{secrets.token_hex(4)}"
    replies, echo = f"{name}.replies", f"{name}.echo"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    ports = {"express": free_port(), "granian": free_port()}
    for future in admin.create_topics([NewTopic(replies, 4, 1), NewTopic(echo, 4, 1)]).values():
        future.result(30)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            replier(bootstrap, "header", [echo]),
            Gateway(Path(folder), bootstrap, replies, [echo], workers=1, more=CONFIG.format(**ports)),
        ):
            yield ports[front], f"/{echo}"
    finally:
        for future in admin.delete_topics([replies, echo]).values():
            future.result(30)


def row(bootstrap: str, front: str, kind: str, options: argparse.Namespace) -> tuple[float, int]:
    """All rounds with one kind of crowd, printed; the ratio of the two p99 and the failed requests."""
    count = int(CROWDS[kind] * options.share)
    with gateway(bootstrap, front) as (port, path):
        rounds = [measure(port, kind, count, path, options.seconds) for _ in range(options.rounds)]
    quiet_ms = statistics.median(one.quiet_ms for one in rounds)
    crowded_ms = statistics.median(one.crowded_ms for one in rounds)
    ratio, failed = statistics.median(one.ratio for one in rounds), sum(one.failed for one in rounds)
    cells = [front, f"{count:,} {kind}", f"{quiet_ms:.1f} ms", f"{crowded_ms:.1f} ms", f"{ratio:.2f}", str(failed)]
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratio, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each half of a round")
    parser.add_argument("--crowds", nargs="+", choices=CROWDS, default=list(CROWDS))
    parser.add_argument("--fronts", nargs="+", choices=["express", "granian"], default=["express", "granian"])
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers, for a look in between")
    parser.add_argument("--limit", type=float, default=inf, help="the largest ratio of the two p99 that is taken")
    options = parser.parse_args()
    kafka = KafkaForTests()
    kafka.start()
    assert kafka.bootstrap, kafka.told
    print("| front | crowd | p99 without | p99 with | ratio, median | failed |\n| --- | --- | --- | --- | --- | --- |")
    try:
        rows = [row(kafka.bootstrap, front, kind, options) for front in options.fronts for kind in options.crowds]
    finally:
        kafka.stop()
    return int(any(failed or ratio > options.limit for ratio, failed in rows))


if __name__ == "__main__":
    sys.exit(main())
