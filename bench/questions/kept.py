"""What does a request with an `Idempotency-Key` cost, what does its replay, and what a `GET` of a finished ticket?

    python -m bench.questions.kept                        # 64 connections, 7 rounds of 3 s of each kind
    python -m bench.questions.kept --connections 1,64 --kinds plain,first --rounds 9

Four kinds of requests go to one gateway with one worker, in turn: `plain` (a POST without a key), `first` (each with a
key of its own), `replay` (a key whose answer is kept), and `ticket` (a GET of a status URL whose answer is there).
Prints a JSON line for each kind: the p50, requests a second, and the CPU of a request in µs for the worker, the store
and the broker, all as medians of the rounds; then what the kind adds to `plain` within a round, and each target. They
are about the CPU of worker and store together.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from bench.rig import facts
from bench.rig.commands import run
from bench.rig.gateways import BODY_BYTES, FastgwSettings, Gateway, order_body, start_fastgw
from bench.rig.lineup import Lineup, empty_stage, topics_for
from bench.rig.load import ClosedLoop, closed_loop
from bench.rig.native import SOURCES
from bench.rig.processes import BenchError, cpu_us, parts, wait_for
from bench.rig.progress import say
from bench.rig.rounds import ratio_of, spread

KINDS = ("plain", "first", "replay", "ticket")
LANES = 8
FILLED = 500  # keys that replays use, and as many tickets
TICKET_S = 30.0

EXTRA = """
[store]
dir = "{dir}"
[later]
topic = "{later}"
lanes = {lanes}
[[route]]
name = "keyed"
method = "POST"
path = "/keyed"
topic = "{requests}"
timeout = "5s"
idempotency = "accept"
max_kept = 100000000
[[route]]
name = "later"
method = "POST"
path = "/later"
topic = "{requests}"
timeout = "5s"
later = true
"""

# What must be reached: a figure of a kind, and by how much or how many times it may exceed that of `plain`.
P50_MORE_MS = {"first": 3.0}
CPU_TIMES = {"first": 3.0, "ticket": 1.0}


class Round(NamedTuple):
    """One kind of request under load for a few seconds. CPU in µs a request."""

    number: int
    kind: str
    connections: int
    load: ClosedLoop
    worker_us: float
    store_us: float
    broker_us: float

    @property
    def cpu_us(self) -> float:
        return self.worker_us + self.store_us


class Setup(NamedTuple):
    """A gateway that knows keys and tickets, and what was kept for the rounds."""

    on_stage: Lineup
    gateway: Gateway
    pids: dict[str, int]  # "worker", "store"
    variables: dict[str, str]  # of kept.lua

    def cpu(self) -> list[float]:
        return [cpu_us(self.pids["worker"]), cpu_us(self.pids["store"]), self.on_stage.stage.broker_cpu_us()]


def set_up(on_stage: Lineup, lanes: int = LANES) -> Setup:
    stage = on_stage.stage
    later = stage.topic("bench.later", lanes, {"message.timestamp.type": "LogAppendTime"})
    extra = EXTRA.format(dir=stage.folder / "store", later=later, lanes=lanes, requests=on_stage.request_topic)
    settings = FastgwSettings(gateway={"secrets": ["of a benchmark, which has nothing to hide"]}, extra=extra)
    gateway = start_fastgw(stage, "fastgw", settings, topics_for(on_stage, "fastgw"))
    say(f"filling the store with {FILLED} answers to keys and {FILLED} tickets")
    tickets = stage.folder / "tickets"
    fill(gateway.port, tickets)
    variables = {"BENCH_SCRIPTS": str(SOURCES), "BENCH_COUNT": str(FILLED), "BENCH_TICKETS_FILE": str(tickets)}
    return Setup(on_stage, gateway, parts(gateway.pid), variables)


def fill(port: int, tickets: Path) -> None:
    """Have answers kept: for the keys that replays use, and for tickets, whose paths are written to a file.

    Raises:
        BenchError: the gateway gave another answer than that.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TICKET_S)
    body = order_body(BODY_BYTES)
    wait_for(lambda: ask(connection, "POST", "/keyed", body, {"Idempotency-Key": '"first"'})[0] == 200, TICKET_S, "key")
    for number in range(FILLED):
        expect_200(ask(connection, "POST", "/keyed", body, {"Idempotency-Key": f'"filled-{number}"'}))
    paths: list[str] = []
    while len(paths) < FILLED:
        _, location = ask(connection, "POST", "/later", body, {"Prefer": "respond-async"})
        paths += [location] if location else []  # none, if the answer was there before the report of its record
    for path in paths:
        expect_200(ask(connection, "GET", path, b"", {"Prefer": "wait=5"}))
    tickets.write_text("\n".join(paths))
    connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, str]:
    """One request: the status of its answer, and its Location."""
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers.get("location", "")


def expect_200(answered: tuple[int, str]) -> None:
    if answered[0] != 200:
        raise BenchError(f"expected an answer with status 200, got {answered[0]}")


def measured(setup: Setup, kind: str, connections: int, seconds: int, number: int) -> Round:
    """One round of one kind."""
    told = {"BENCH_KIND": kind, "BENCH_RUN": "filled" if kind == "replay" else f"{time.monotonic_ns()}"}
    before = setup.cpu()
    load = closed_loop(
        setup.gateway.port, connections, seconds, setup.on_stage.body_file, "/", "kept.lua", setup.variables | told
    )
    each = [(after - start) / max(1, load.requests) for start, after in zip(before, setup.cpu(), strict=True)]
    done = Round(number, kind, connections, load, *each)
    say(
        f"round {number + 1}, {connections:4} connections, {kind:6} p50 {load.p50_us / 1000:6.2f} ms, "
        f"{load.requests / load.seconds:6.0f} req/s, worker {done.worker_us:6.1f} store {done.store_us:6.1f} "
        f"broker {done.broker_us:6.1f} us{f', {load.errors} ERRORS' if load.errors else ''}"
    )
    return done


def report(rounds: Sequence[Round], kind: str, connections: int) -> dict[str, Any]:
    """The line of one kind."""
    mine = {one.number: one for one in rounds if (one.kind, one.connections) == (kind, connections)}
    plain = {one.number: one for one in rounds if (one.kind, one.connections) == ("plain", connections)}
    line: dict[str, Any] = {"question": "kept", "kind": kind, "connections": connections}
    line["p50_ms"] = round(statistics.median(one.load.p50_us / 1000 for one in mine.values()), 2)
    line["rps"] = round(statistics.median(one.load.requests / one.load.seconds for one in mine.values()))
    for figure in ("worker_us", "store_us", "broker_us"):
        line[figure] = round(statistics.median(getattr(one, figure) for one in mine.values()), 1)
    both = sorted(mine.keys() & plain.keys())
    if kind != "plain" and both:
        line["p50_more_ms"] = more_ms(mine, plain, both)
        ratio = ratio_of((mine[number].cpu_us, plain[number].cpu_us) for number in both)
        line["cpu_ratio"] = ratio.rounded if ratio else None
    return line


def more_ms(mine: dict[int, Round], plain: dict[int, Round], both: Sequence[int]) -> list[float]:
    """By how much the p50 exceeds that of `plain` in the same round: median, low, high."""
    more = [(mine[number].load.p50_us - plain[number].load.p50_us) / 1000 for number in both]
    return [round(value, 2) for value in (statistics.median(more), *spread(more))]


def say_verdicts(line: dict[str, Any]) -> None:
    """Say what became of the targets of a kind. `perhaps`: the target is within the spread."""
    kind = line["kind"]
    for text, figure, limit in (
        ("p50, ms above plain", "p50_more_ms", P50_MORE_MS.get(kind)),
        ("CPU of worker and store, times plain", "cpu_ratio", CPU_TIMES.get(kind)),
    ):
        if limit is None or figure not in line:
            continue
        median, low, high = line[figure]
        verdict = "perhaps" if low <= limit < high else "reached" if median <= limit else "missed"
        say(f"target: {kind}: {text}: {median:g} ({low:g}-{high:g}), <= {limit:g}: {verdict}")


def main(
    connections: Annotated[str, typer.Option(help="Numbers of connections, with commas.")] = "64",
    kinds: Annotated[str, typer.Option(help="Kinds of requests, with commas.")] = ",".join(KINDS),
    lanes: Annotated[int, typer.Option(min=1, help="`later.lanes`.")] = LANES,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each kind.")] = 7,
    seconds: Annotated[int, typer.Option(min=1, help="Length of a round.")] = 3,
    warm: Annotated[int, typer.Option(min=1, help="Seconds of load before, for the broker's compiler.")] = 30,
) -> None:
    chosen = kinds.split(",")
    if unknown := set(chosen) - set(KINDS):
        raise BenchError(f"no kinds {', '.join(sorted(unknown))}: known are {', '.join(KINDS)}")
    counts = [int(count) for count in connections.split(",")]
    drawn = random.Random(4)
    done: list[Round] = []
    with empty_stage() as on_stage:
        setup = set_up(on_stage, lanes)
        say(f"warming up for {warm} s")
        for kind in KINDS:
            measured(setup, kind, counts[-1], max(1, warm // len(KINDS)), -1)
        for number in range(rounds):
            for count in counts:
                done += [measured(setup, kind, count, seconds, number) for kind in drawn.sample(chosen, len(chosen))]
    lines = [report(done, kind, count) for count in counts for kind in chosen]
    for line in lines:
        print(json.dumps(line), flush=True)
        say_verdicts(line)
    print(json.dumps(facts.machine()))
    if any(one.load.errors for one in done):
        sys.exit("bench: some answers were wrong, see above")


if __name__ == "__main__":
    run(main, __doc__)
