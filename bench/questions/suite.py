"""Every gateway against every other: cost, throughput, latency, memory. `make bench` runs this.

    python -m bench.questions.suite                      # about 80 minutes
    python -m bench.questions.suite --quick              # under five minutes, once the peers are built
    python -m bench.questions.suite --parts closed,latency --gateways fastgw,go --rounds 15

Parts: closed (CPU a request and throughput, closed loop), latency (open loop), parked (10,000 requests over HTTP/1.1
and 100,000 over HTTP/2). Leaves result.json, report.md and plots in a folder of bench/results/ and prints the report.
Ctrl-C ends everything that was started; parts that are complete are kept.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.questions import latency, parked
from bench.report import plots, result, tables
from bench.rig import gateways, rounds
from bench.rig.commands import run
from bench.rig.lineup import Lineup, available, empty_stage, lineup, warm_up
from bench.rig.processes import BenchError, memory
from bench.rig.progress import say
from tests.brokers.kafka_server import kafka_version

PARTS = ("closed", "latency", "parked")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    connections: tuple[int, ...] = (1, 16, 64, 256, 1024)
    rounds: int = 9
    seconds: float = 4
    shares: tuple[int, ...] = (30, 50, 70, 90)
    latency_rounds: int = 5
    latency_seconds: float = 6
    parked: tuple[tuple[int, bool], ...] = ((10_000, False), (100_000, True))  # how many, over HTTP/2?
    parked_rounds: int = 7
    broker_warm_s: float = 40
    warm_share: float = 1.0  # of the time that each gateway wants
    body_bytes: int = gateways.BODY_BYTES
    reference: str = "go"
    quick: bool = False


QUICK = Plan(
    connections=(64, 256), rounds=3, seconds=2, shares=(50, 70), latency_rounds=1, latency_seconds=2,
    parked=((1000, False),), parked_rounds=3, broker_warm_s=12, warm_share=0.3, quick=True,
)  # fmt: skip
QUICK_WARM_UP_MAX_S = 20  # who wants more would be shown cold, which is not fair
QUICK_PARKING = ("fastgw", "go")  # the others' warm-up alone would take the time


def measure(plan: Plan, names: list[str], parts: list[str], document: dict[str, Any]) -> None:
    """Everything that the plan says, into `document`; what is complete is in it when this is interrupted."""
    if {"closed", "latency"} & set(parts):
        with lineup(names, plan.body_bytes) as on_stage:
            document["skipped"] += [line for line in on_stage.skipped if line not in document["skipped"]]
            document["rest"] = {one.name: memory(one.pid).as_figures for one in on_stage.gateways}
            warm_up(on_stage, plan.broker_warm_s, plan.warm_share, patience=1 if plan.quick else 4)
            if "closed" in parts:
                _closed(plan, on_stage, document)
            if "latency" in parts:
                _latency(plan, on_stage, document)
    if "parked" in parts:
        _parked(plan, names, document)


def _closed(plan: Plan, on_stage: Lineup, document: dict[str, Any]) -> None:
    done = rounds.interleaved(on_stage.stage, on_stage.subjects, plan.connections, plan.rounds, plan.seconds)
    document["closed_loop"] = [one.as_json for one in done]


def _latency(plan: Plan, on_stage: Lineup, document: dict[str, Any]) -> None:
    capacity = latency.capacities(on_stage, min(3, plan.latency_rounds), min(3, plan.latency_seconds))
    done, failures = latency.interleaved(on_stage, capacity, plan.shares, plan.latency_rounds, plan.latency_seconds)
    document["skipped"] += failures
    document["capacity"] = {name: round(value, 1) for name, value in capacity.items()}
    document["open_loop"] = [one.as_json for one in done]
    document["latency"] = latency.report(document["open_loop"], plan.reference)


def _parked(plan: Plan, names: list[str], document: dict[str, Any]) -> None:
    document["parked"] = []
    for count, http2 in plan.parked:
        with empty_stage(plan.body_bytes) as on_stage:
            for name in parked.can_park([name for name in names if not plan.quick or name in QUICK_PARKING], http2):
                try:
                    line = parked.measure(on_stage, name, 100, count, http2, plan.parked_rounds, min(3, plan.seconds))
                except BenchError as error:
                    say(f"FAILED {name} with {count} parked: {error}")
                    document["skipped"].append(f"{name} with {count} parked: {str(error).splitlines()[0]}")
                else:
                    document["parked"].append(line)


def _warm_in_time(names: list[str], plan: Plan) -> tuple[list[str], list[str]]:
    """Those that a quick run can show fairly, and a line about each of the others."""
    if not plan.quick:
        return names, []
    peers = gateways.peers()
    slow = [name for name in names if name in peers and peers[name].warm_up_s > QUICK_WARM_UP_MAX_S]
    lines = [
        f"{name}: wants {peers[name].warm_up_s:g} s of load before it is itself; not in a quick run" for name in slow
    ]
    for line in lines:
        say(f"SKIPPED {line}")
    return [name for name in names if name not in slow], lines


def write(document: dict[str, Any]) -> Path:
    """Result file, report and plots; gives their folder."""
    folder = result.save(document)
    (folder / "report.md").write_text(tables.markdown(document))
    if closed := document.get("closed_loop"):
        title = "Gateway CPU a request, us (whole process tree, less is better)"
        plots.closed(closed, "gateway_cpu_us", title, folder / "cpu.png")
        plots.closed(closed, "rps", "Throughput, requests a second (more is better)", folder / "throughput.png")
    if lines := document.get("latency"):
        plots.latency(lines, folder / "latency.png")
    return folder


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few short rounds: for a look, not for a claim.")] = False,
    wanted: Annotated[str, typer.Option("--gateways", help="Names with commas; default: every one.")] = "",
    parts: Annotated[str, typer.Option(help="Parts with commas; default: all of them.")] = ",".join(PARTS),
    rounds_wanted: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Rounds; of latency and parked no more than usual.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Length of a closed-loop round.")] = None,
    connections: Annotated[str, typer.Option(help="Numbers of connections, with commas.")] = "",
    reference: Annotated[str, typer.Option(help="The gateway that ratios refer to.")] = "go",
) -> None:
    plan = replace(QUICK if quick else Plan(), reference=reference)
    if rounds_wanted:
        latency_rounds = min(plan.latency_rounds, rounds_wanted)
        parked_rounds = min(plan.parked_rounds, rounds_wanted)
        plan = replace(plan, rounds=rounds_wanted, latency_rounds=latency_rounds, parked_rounds=parked_rounds)
    plan = replace(plan, seconds=seconds or plan.seconds)
    if connections:
        plan = replace(plan, connections=tuple(int(count) for count in connections.split(",")))
    chosen = [part for part in parts.split(",") if part]
    if unknown := set(chosen) - set(PARTS):
        raise BenchError(f"no part {', '.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    names, cold = _warm_in_time(wanted.split(",") if wanted else gateways.known_names(), plan)
    started_s = time.monotonic()
    names, skipped = available(names)
    skipped += cold
    document = result.envelope("suite", names, kafka_version(), {**asdict(plan), "parts": chosen})
    document["skipped"] = skipped
    try:
        measure(plan, names, chosen, document)
    finally:
        if any(document.get(part) for part in ("closed_loop", "latency", "parked")):
            folder = write(document)
            print((folder / "report.md").read_text())
            say(f"written after {(time.monotonic() - started_s) / 60:.1f} minutes: {folder}")


if __name__ == "__main__":
    run(main, __doc__)
