"""What does a front cost by itself? Run `python bench/bench_fronts.py` (needs wrk); it prints JSON lines.

Each front answers at once, from the real routes and limits but without Kafka. wrk is a closed loop on the same machine,
so requests per second say little; CPU time of the server process a request (user and system, from the kernel's
accounting) is the figure. Rounds of the fronts alternate, because machines change their speed for all alike.

`--profile` runs the express front alone in this process, under cProfile.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

import fastgw
from fastgw import config
from fastgw.admission import Admission, Refusal
from fastgw.errors import Ending
from fastgw.http_express import ExpressFront
from fastgw.http_granian import GranianFront
from fastgw.intake import Intake
from fastgw.messages import Answer, Head, HeaderList

FRONTS: dict[str, type[ExpressFront | GranianFront]] = {"express": ExpressFront, "granian": GranianFront}
CONNECTIONS = (1, 16, 64, 256)
ROUNDS = 5
ROUND_S = 2
BODY = "x" * 256
FEW = {"Content-Type": "application/json"}
MANY = {  # as from a browser behind a proxy
    "Content-Type": "application/json",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0",
    "Accept": "application/json, text/plain, */*",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Authorization": "Bearer " + "x" * 300,
    "X-Forwarded-For": "10.1.2.3",
    "X-Forwarded-Proto": "https",
    "X-Request-Id": "7f3b1c2d-5e6f-4a8b-9c0d-1e2f3a4b5c6d",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
CONFIG = config.loads(
    '[gateway]\nname = "bench"\n[kafka]\nbootstrap = "none:1"\n'
    '[[route]]\nmethod = ["GET", "POST"]\npath = "/orders"\ntopic = "orders"\n'
)
ANSWER_HEADERS: HeaderList = [("fastgw-outcome", "recorded"), ("content-type", "application/json")]
FORWARDED = ("content-type", "traceparent", "tracestate")  # what the core asks for on every request


class InstantDoor:
    """Takes what the routes take and answers before it returns."""

    def __init__(self) -> None:
        self._admit = Intake(CONFIG.routes, CONFIG.limits, ()).admit

    def admit(self, head: Head) -> Admission | Refusal:
        return self._admit(head)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        answer(refusal.ending.status, [], refusal.detail.encode())

    def abandon(self, _admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        if answer is not None:
            answer(ending.status, [], detail.encode())

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        get = admission.headers.get
        for name in FORWARDED:
            get(name)
        answer(200, list(ANSWER_HEADERS), body)
        return -1

    def cut(self, _why: object) -> None:
        """Nobody counts."""

    def gone(self, _token: int) -> None:
        return None


async def serve(front_name: str) -> None:
    """Serve until SIGTERM; the first line of output is the port."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with socket.socket() as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        port = listening.getsockname()[1]
        listen = config.Listen(bind=f"127.0.0.1:{port}", http="1", front=front_name)
        front = FRONTS[front_name](listening.fileno(), listen, CONFIG.limits, InstantDoor())
        await front.start()
        print(port, flush=True)
        await stopped.wait()
        front.drain()
        await asyncio.wait_for(front.closed(), 5)


class Server:
    """A front in a process of its own."""

    def __init__(self, front_name: str) -> None:
        command = [sys.executable, __file__, "--serve", front_name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cpu_s(self) -> float:
        """CPU time of the process so far, all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def load(port: int, connections: int, script: str) -> int:
    """Runs wrk for one round; how many requests were answered 200."""
    command = ["wrk", f"-c{connections}", "-t1", f"-d{ROUND_S}s", "-s", script, f"http://127.0.0.1:{port}/orders"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in printed, printed
    found = re.search(r"(\d+) requests in", printed)
    assert found, printed
    return int(found[1])


def script_of(headers: dict[str, str]) -> str:
    lines = ['wrk.method = "POST"', f'wrk.body = "{BODY}"']
    return "\n".join(lines + [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()])


def measure(servers: dict[str, Server], connections: int, headers: str, script: str) -> None:
    """Alternating rounds, then one line for each front."""
    costs: dict[str, list[float]] = {name: [] for name in servers}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            before_s = server.cpu_s()
            count = load(server.port, connections, script)
            costs[name].append((server.cpu_s() - before_s) / count * 1e6)
            rates[name].append(count / ROUND_S)
    for name in servers:
        line = {
            "bench": "fronts",
            "front": name,
            "connections": connections,
            "headers": headers,
            "cpu_us_median": round(statistics.median(costs[name]), 1),
            "cpu_us_best": round(min(costs[name]), 1),
            "rps_median": round(statistics.median(rates[name])),
            "fastgw": fastgw.__version__,
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--serve", choices=FRONTS, help="be the server")
    arguments.add_argument("--profile", action="store_true", help="serve express under cProfile until SIGTERM")
    arguments.add_argument("--fronts", nargs="+", default=list(FRONTS))
    arguments.add_argument("--connections", nargs="+", type=int, default=CONNECTIONS)
    given = arguments.parse_args()
    if given.serve or given.profile:
        profile = cProfile.Profile() if given.profile else None
        if profile:
            profile.enable()
        uvloop.run(serve(given.serve or "express"))
        if profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
        return
    if shutil.which("wrk") is None:
        print("fastgw: bench_fronts.py is left out, there is no wrk (Debian: apt-get install wrk)", file=sys.stderr)
        return
    servers = {name: Server(name) for name in given.fronts}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, headers in (("few", FEW), ("many", MANY)):
                script = Path(folder, f"{name}.lua")
                script.write_text(script_of(headers))
                for connections in given.connections:
                    measure(servers, connections, name, str(script))
    finally:
        for server in servers.values():
            server.stop()


if __name__ == "__main__":
    main()
