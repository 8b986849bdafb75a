"""What does one slow client of a large stream cost the others, and how much memory does it take?

    python -m bench.questions.slow_reader
    python -m bench.questions.slow_reader --streams 100 --rounds 3

1,000 streams of 10 items a second each, first alone, then beside a client that reads 1 kB a second from a stream of 100
MB (server-sent events that can be resumed, so it is not cut off). Prints a JSON line for each round: the delay of an
item from `yield` to the client in ms, and by how much worker and store grew meanwhile, in MB. The last line compares
the medians of the rounds: the p99 beside the slow client to the p99 without one.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from bench.questions.streams import RATE, READY_S, Reader, Setup, set_up
from bench.rig.commands import run
from bench.rig.processes import BenchError, wait_for
from bench.rig.stage import Stage

SLOW_BYTES = 1000  # that the slow client reads each second
ITEM_BYTES = 200
LARGE_BYTES = 100_000_000

_AT = re.compile(rb'"at":(\d{19})').findall


class Watcher(Reader):
    """A reader that notes the delay of each item; of an item that two reads cut in two it may miss the time."""

    def __init__(self, port: int, path: str, streams: int) -> None:
        super().__init__(port, path, streams)
        self.delays_ms: list[float] = []

    def took(self, piece: bytes) -> None:
        now_ns = time.time_ns()
        self.delays_ms += [(now_ns - int(at)) / 1e6 for at in _AT(piece)]


@contextmanager
def slow_client(setup: Setup) -> Iterator[None]:
    """A client that reads slowly until the end of the context; it must not be cut off before."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(("127.0.0.1", setup.port))
    path = f"/lasting/{LARGE_BYTES // ITEM_BYTES}"
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode())
    is_over, was_cut = threading.Event(), threading.Event()
    got = 0

    def read() -> None:
        nonlocal got
        while not is_over.wait(1.0):
            data = one.recv(SLOW_BYTES)
            got += len(data)
            if not data:
                was_cut.set()
                return

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        yield
    finally:
        is_over.set()
        reading.join(5)
        one.close()
    if was_cut.is_set():
        raise BenchError("the slow client was cut off")
    if not got:
        raise BenchError("the slow client has got nothing")


def measured(setup: Setup, streams: int, items: int, beside: str, before_kb: float) -> dict[str, Any]:
    """One round. `before_kb`: the memory before the slow client came."""
    watcher = Watcher(setup.port, f"/many/{items}", streams)
    most_kb = watcher.run(setup.memory_kb)
    if watcher.bad:
        raise BenchError(f"{watcher.bad} of {streams} streams broke off")
    hundredths = statistics.quantiles(watcher.delays_ms, n=100)
    return {
        "beside": beside,
        "streams": streams,
        "items": watcher.items,
        "p50_ms": round(hundredths[49], 1),
        "p99_ms": round(hundredths[98], 1),
        "grown_mb": round((most_kb - before_kb) / 1000, 1),
    }


def compared(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The p99 beside the slow client, to the one without."""
    alone, beside = (statistics.median(one["p99_ms"] for one in found if one["beside"] == name) for name in BESIDE)
    return {
        "compared": "p99, median",
        "alone_ms": round(alone, 1),
        "beside_ms": round(beside, 1),
        "ratio": round(beside / alone, 2),
    }


BESIDE = ("nobody", "a slow client")


def main(
    streams: Annotated[int, typer.Option(min=1, help="How many streams at once.")] = 1000,
    seconds: Annotated[int, typer.Option(min=1, help="How long each of them lasts.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each.")] = 3,
) -> None:
    with Stage() as stage:
        setup = set_up(stage)
        wait_for(lambda: len(setup.pids) == 3, READY_S, "worker and store are known")
        items = seconds * RATE
        measured(setup, streams, items, BESIDE[0], 0.0)  # warms up
        found = []
        for _ in range(rounds):
            found.append(measured(setup, streams, items, BESIDE[0], setup.memory_kb()))
            print(json.dumps(found[-1]), flush=True)
            before_kb = setup.memory_kb()
            with slow_client(setup):
                found.append(measured(setup, streams, items, BESIDE[1], before_kb))
            print(json.dumps(found[-1]), flush=True)
        print(json.dumps(compared(found)), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
