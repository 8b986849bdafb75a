"""What do requests cost that only wait? CPU of the others beside them, and memory for each.

    python -m bench.questions.parked fastgw go                            # 10,000 over HTTP/1.1, against 100
    python -m bench.questions.parked fastgw go --http2 --count 100000     # 100,000 streams over HTTP/2, against 100

Each gateway runs twice at the same time, once with `--few` and once with `--count` requests parked in it, and rounds of
ordinary load (HTTP/1.1, 64 connections) go to the two in turn; the figure is their ratio. The parked requests wait in a
topic that nobody reads, and the number of records in it is checked. Memory a parked request is the growth of the
tree's memory (PSS) while they are parked, divided by their number.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from bench.rig import gateways
from bench.rig.commands import run
from bench.rig.gateways import FastgwSettings, Gateway
from bench.rig.lineup import Lineup, available, empty_stage, topics_for
from bench.rig.load import closed_loop
from bench.rig.native import program
from bench.rig.processes import BenchError, Running, memory
from bench.rig.progress import say
from bench.rig.rounds import Subject, compare, interleaved, median_of

CONNECTIONS = 64
PARK_TIMEOUT_S = 240.0
SETTLE_S = 2.0  # after parking: delivery reports, allocators
SLOTS = 262_144  # a route can have three quarters of them beside another one
HTTP1_MAX = 18000  # file descriptors: a connection is two of them on this machine


def park(on_stage: Lineup, gateway: Gateway, count: int, http2: bool, ended: ExitStack | None = None) -> Running:
    """Park `count` requests in a gateway; returns when as many records are in its park topic.

    Args:
        ended: ends the client. None: the stage does, at its own end.
    """
    stage = on_stage.stage
    client = [sys.executable, "-m", "bench.rig.park_http2"] if http2 else [str(program("park"))]
    port = gateway.http2_port if http2 else gateway.port
    command = [*client, str(port), "/park", str(on_stage.body_file), str(count)]
    before = stage.record_count(gateway.topics.park)
    client_running = stage.start(Running(command, stage.folder / f"park-{gateway.name}-{count}-{port}.log"))
    if ended is not None:
        ended.callback(stage.end, client_running)
    client_running.wait_until(
        lambda: "sent" in client_running.log.read_text(), PARK_TIMEOUT_S, f"{count} requests are sent to {gateway.name}"
    )
    client_running.wait_until(
        lambda: stage.record_count(gateway.topics.park) - before >= count,
        PARK_TIMEOUT_S,
        f"{count} records of {gateway.name} are in its park topic",
    )
    time.sleep(SETTLE_S)
    return client_running


def start(on_stage: Lineup, name: str, http2: bool) -> Gateway:
    """A gateway that is allowed to park many."""
    topics = topics_for(on_stage, name)
    if name not in gateways.VARIANTS:
        return gateways.start(on_stage.stage, name, topics)
    known = gateways.variant(name)
    settings = FastgwSettings(slots=SLOTS, http2=http2, listen=known.listen, kafka=known.kafka)
    return gateways.start_fastgw(on_stage.stage, name, settings, topics)


def measure(
    on_stage: Lineup, name: str, few: int, count: int, http2: bool, rounds: int, seconds: float
) -> dict[str, Any]:
    """One gateway, twice at the same time: with few and with many parked requests."""
    with ExitStack() as ended:  # whatever fails, nobody is left beside the next gateway
        return _measure(on_stage, name, few, count, http2, rounds, seconds, ended)


def _measure(
    on_stage: Lineup, name: str, few: int, count: int, http2: bool, rounds: int, seconds: float, ended: ExitStack
) -> dict[str, Any]:
    stage = on_stage.stage
    pair = []
    for _ in range(2):
        pair.append(start(on_stage, name, http2))
        ended.callback(stage.end, pair[-1].running)
    for gateway in pair:
        closed_loop(gateway.port, CONNECTIONS, max(1.0, gateway.warm_up_s), on_stage.body_file)
    before = memory(pair[1].pid).pss_mb
    say(f"parking {few} and {count} requests in {name}, HTTP/{2 if http2 else 1}")
    clients = [
        park(on_stage, gateway, number, http2, ended) for gateway, number in zip(pair, (few, count), strict=True)
    ]
    parked_mb = memory(pair[1].pid).pss_mb
    labels = [f"{name}, {few} parked", f"{name}, {count} parked"]
    subjects = [
        Subject(label, one, on_stage.service, on_stage.body_file) for label, one in zip(labels, pair, strict=True)
    ]
    done = interleaved(stage, subjects, [CONNECTIONS], rounds, seconds)
    unexpected = [line for client in clients for line in client.log.read_text().splitlines() if "unexpected" in line]
    ratio = compare(done, "gateway_cpu_us", labels[0])[labels[1], CONNECTIONS]
    return {
        "gateway": name, "http": 2 if http2 else 1, "few": few, "parked": count,
        "cpu_us_few": median_of(done, "gateway_cpu_us", labels[0], CONNECTIONS),
        "cpu_us_parked": median_of(done, "gateway_cpu_us", labels[1], CONNECTIONS),
        "cpu_ratio": ratio.rounded,
        "pss_mb_before": round(before, 1), "pss_mb_parked": round(parked_mb, 1),
        "kb_a_parked_request": round((parked_mb - before) / count * 1000, 3),
        "errors": sum(one.load.errors for one in done), "unexpected": len(unexpected),
    }  # fmt: skip


def can_park(names: Sequence[str], http2: bool) -> list[str]:
    """Those that have what it takes, with a line about the others."""
    peers, able = gateways.peers(), []
    for name in names:
        peer = peers.get(name)
        if peer and not (peer.http2 if http2 else peer.parks):
            say(f"SKIPPED {name}: its program has no /park{' over HTTP/2' if http2 else ''}")
        else:
            able.append(name)
    return able


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="GATEWAY...", help="Default: fastgw go.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Parked requests.")] = 10_000,
    few: Annotated[int, typer.Option(min=1, help="Parked requests that it is compared with.")] = 100,
    http2: Annotated[bool, typer.Option("--http2", help="Park them as HTTP/2 streams.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of ordinary load.")] = 7,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a round.")] = 3.0,
) -> None:
    if not http2 and count > HTTP1_MAX:
        raise BenchError(f"--count {count}: over HTTP/1.1 at most {HTTP1_MAX}, each is a connection")
    able, _ = available(can_park(names or ["fastgw", "go"], http2))
    with empty_stage() as on_stage:
        for name in able:
            line = measure(on_stage, name, few, count, http2, rounds, seconds)
            print(json.dumps({"bench": "parked", **line}), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
