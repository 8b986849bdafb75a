"""What does an item of a streamed answer cost the worker and the store, and how many come in a second?

    python -m bench.questions.streams                       # one stream of 100,000 items, then 1,000 slow ones
    python -m bench.questions.streams --streams 100 --rounds 3
    python -m bench.questions.streams --no-go               # without the Go program to compare with

The service is one of `fastgw.service` that yields JSON items of about 200 bytes. `one`: a single stream, as fast as it
goes. `many`: streams of 10 items a second each, all at once. Prints a JSON line for each round: items a second, the CPU
of an item in µs for the worker, the store and the service, the kernel's share included, and what the memory of worker
and store grew by, in kB for each stream. Everything runs on this machine, the broker and the clients as well.

A Go program (net/http and franz-go, `bench/peers/go/streams`) passes on the streams of the same service, in turn with
the gateway. The last lines compare the two: the CPU of an item, medians of the rounds, gateway to Go.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from bench.rig.commands import run
from bench.rig.gateways import build_peer, free_port, peers
from bench.rig.processes import BenchError, Running, cpu_us, memory, parts, wait_for
from bench.rig.stage import Stage

READY_S = 60.0
STREAM_S = 120.0
RATE = 10  # items a second of each of many streams
PIECE = 1 << 20

SERVICE = """
import asyncio, sys, time
from fastgw.service import Service
service = Service(sys.argv[2], bootstrap=sys.argv[1], concurrency=100_000, client={"fetch.wait.max.ms": 10})
NOTE = "x" * 170
@service.handle("GET /one/{count}")
def one(request):
    for number in range(int(request.params["count"])):
        yield {"number": number, "note": NOTE}
@service.handle("GET /many/{count}")
async def many(request):
    for number in range(int(request.params["count"])):
        yield {"number": number, "at": time.time_ns(), "note": NOTE}
        await asyncio.sleep(1 / 10)
@service.handle("GET /lasting/{count}")
def lasting(request):
    return one(request)
service.run()
"""

CONFIG = """
[gateway]
name = "bench"
secrets = ["the secret of all positions in streams"]
listen = ["127.0.0.1:{port}"]
response_topic = "{replies}"
workers = 1
[admin]
listen = "127.0.0.1:{admin}"
[kafka]
bootstrap = "{bootstrap}"
[streams]
topic = "{streams}"
[[route]]
method = "GET"
path = "/one/{{count}}"
topic = "{requests}"
reply = "stream"
timeout = "60s"
[[route]]
method = "GET"
path = "/many/{{count}}"
topic = "{requests}"
reply = "stream"
timeout = "60s"
[[route]]
method = "GET"
path = "/lasting/{{count}}"
topic = "{requests}"
reply = "stream"
resume = true
timeout = "60s"
"""


class Setup(NamedTuple):
    """A gateway, and the service behind it."""

    name: str  # "fastgw", "go"
    port: int
    pids: dict[str, int]  # "service", and those of the gateway: "worker" and "store", or "go"
    requests: str  # the request topic

    @property
    def own(self) -> list[str]:
        """Its processes."""
        return sorted(self.pids.keys() - {"service"})

    def cpu(self) -> dict[str, float]:
        return {name: cpu_us(pid) for name, pid in self.pids.items()}

    def memory_kb(self) -> float:
        """Of its processes together."""
        return sum(memory(self.pids[name]).rss_mb * 1000 for name in self.own)


def set_up(stage: Stage) -> Setup:
    topics = {name: stage.topic(name) for name in ("replies", "requests", "streams")}
    port, admin = free_port(), free_port()
    file = stage.folder / "streams.toml"
    file.write_text(CONFIG.format(port=port, admin=admin, bootstrap=stage.bootstrap, **topics))
    command = [sys.executable, "-c", SERVICE, stage.bootstrap, topics["requests"]]
    service = stage.start(Running(command, stage.folder / "service.log"))
    gateway = stage.start(Running([sys.executable, "-m", "fastgw", "run", str(file)], file.with_suffix(".log")))
    gateway.wait_until(lambda: len(read_stream(port, "/one/1", 5.0)) == 1, READY_S, "a stream has come")
    return Setup("fastgw", port, {"service": service.pid, **parts(gateway.pid)}, topics["requests"])


def set_up_go(stage: Stage, fastgw: Setup) -> Setup:
    """The Go program, in front of the same service.

    Raises:
        Unavailable: it cannot be built here.
    """
    peer = peers()["go"]
    build_peer(peer)
    port = free_port()
    told = {
        "BENCH_BOOTSTRAP": stage.bootstrap,
        "BENCH_PORT": str(port),
        "BENCH_REQUEST_TOPIC": fastgw.requests,
        "BENCH_REPLY_TOPIC": stage.topic("go.streams"),
        "BENCH_REPLY_PARTITION": "0",
    }
    program = str(peer.build_folder / "streams")
    running = stage.start(Running([program], stage.folder / "go-streams.log", peer.variables | told))
    running.wait_until(lambda: len(read_stream(port, "/one/1", 5.0)) == 1, READY_S, "a stream has come")
    return Setup("go", port, {"service": fastgw.pids["service"], "go": running.pid}, fastgw.requests)


def read_stream(port: int, path: str, timeout_s: float) -> list[bytes]:
    """The lines of one whole stream; fewer if the gateway is not there yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as one:
            one.sendall(request(path))
            return [line for line in _until_end(one).split(b"\n") if b"note" in line]
    except OSError:
        return []


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()


def _until_end(one: socket.socket) -> bytes:
    came = b""
    while piece := one.recv(PIECE):
        came += piece
    head, _, body = came.partition(b"\r\n\r\n")
    return body if b" 200 " in head[:20] else b""


class Reader:
    """Reads streams to their ends, and counts their items by the note that each has."""

    def __init__(self, port: int, path: str, streams: int) -> None:
        self.items = 0
        self.bad = 0
        self._selector = selectors.DefaultSelector()
        self._open = 0
        for _ in range(streams):
            one = socket.create_connection(("127.0.0.1", port), STREAM_S)
            one.sendall(request(path))
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ, bytearray())
            self._open += 1

    def run(self, memory_kb: Callable[[], float]) -> float:
        """Read everything; returns the most that `memory_kb` said meanwhile."""
        ends, most, look_s = time.monotonic() + STREAM_S, 0.0, 0.0
        while self._open:
            if time.monotonic() > look_s:
                look_s = time.monotonic() + 1
                most = max(most, memory_kb())
            if time.monotonic() > ends:
                raise BenchError(f"{self._open} streams have not ended within {STREAM_S:g} s")
            for key, _ in self._selector.select(1.0):
                self._read(key)
        return most

    def took(self, piece: bytes) -> None:
        """What was read; nothing is done with it here."""

    def _read(self, key: Any) -> None:
        one, tail = key.fileobj, key.data
        piece = one.recv(PIECE)
        if piece:
            self.items += piece.count(b'"note"')
            self.took(piece)
            tail[:] = (tail + piece)[-5:]
            return
        self.bad += bytes(tail) != b"0\r\n\r\n"
        self._selector.unregister(one)
        one.close()
        self._open -= 1


def measured(setup: Setup, question: str, path: str, streams: int, items: int) -> dict[str, Any]:
    """One round."""
    before, began = setup.cpu(), time.monotonic()
    small_kb = setup.memory_kb()
    reader = Reader(setup.port, path, streams)
    large_kb = reader.run(setup.memory_kb)
    took_s = time.monotonic() - began
    after = setup.cpu()
    if reader.bad:
        raise BenchError(f"{reader.bad} of {streams} streams broke off")
    if abs(reader.items - streams * items) > streams:  # a note may be cut in two by a read
        raise BenchError(f"expected {streams * items} items, got {reader.items}")
    cpu = {f"{name}_us": round((after[name] - before[name]) / (streams * items), 2) for name in sorted(setup.pids)}
    own_us = sum(after[name] - before[name] for name in setup.own) / (streams * items)
    return {
        "question": question,
        "gateway": setup.name,
        "streams": streams,
        "items_s": round(streams * items / took_s),
        **cpu,
        "own_us": round(own_us, 2),
        "grown_kb": round((large_kb - small_kb) / streams, 1),
    }


def compared(question: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The CPU of an item, gateway to Go."""
    medians = {
        name: statistics.median(one["own_us"] for one in rounds if one["gateway"] == name) for name in ("fastgw", "go")
    }
    ratio = round(medians["fastgw"] / medians["go"], 2)
    return {"question": question, "compared": "CPU of an item, median", **medians, "fastgw_to_go": ratio}


def main(
    items: Annotated[int, typer.Option(min=1, help="Items of the one stream.")] = 100_000,
    streams: Annotated[int, typer.Option(min=1, help="How many streams at once.")] = 1000,
    seconds: Annotated[int, typer.Option(min=1, help="How long each of many streams lasts.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each.")] = 3,
    go: Annotated[bool, typer.Option(help="Whether to compare with the Go program.")] = True,
) -> None:
    with Stage() as stage:
        setups = [set_up(stage)]
        wait_for(lambda: len(setups[0].pids) == 3, READY_S, "worker and store are known")
        if go:
            setups.append(set_up_go(stage, setups[0]))
        for question, at_once, each in (("one", 1, items), ("many", streams, seconds * RATE)):
            found = []
            for setup in setups * rounds:
                found.append(measured(setup, question, f"/{question}/{each}", at_once, each))
                print(json.dumps(found[-1]), flush=True)
            if go:
                print(json.dumps(compared(question, found)), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
