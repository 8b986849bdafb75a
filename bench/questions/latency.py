"""How long does a request take when requests do not wait for each other? An open loop at shares of each capacity.

    python -m bench.questions.latency fastgw go --shares 30,50,70,90 --rounds 5 --seconds 6

Capacity is measured first, in a closed loop with 256 connections. Prints one JSON line a gateway and share: p50, p99
and p99.9 over all rounds in microseconds from the intended start, and the ratio of the rounds' p99 to the reference's.
Rounds in which the client itself was late do not count. A gateway that fails takes no further part.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bench.rig.commands import run
from bench.rig.gateways import Gateway
from bench.rig.lineup import Lineup, lineup, warm_up
from bench.rig.load import closed_loop
from bench.rig.openloop import OpenLoop, merged, open_loop, percentiles
from bench.rig.processes import BenchError, cpu_us
from bench.rig.progress import say
from bench.rig.rounds import in_time, p99_pairs, ratio_of

CAPACITY_CONNECTIONS = 256


@dataclass(frozen=True)
class LatencyRound:
    """One gateway at one offered load."""

    number: int
    gateway: str
    share: int  # percent of capacity
    gateway_cpu_us: float
    load: OpenLoop

    @property
    def as_json(self) -> dict[str, Any]:
        load = {name: value for name, value in vars(self.load).items() if name != "histogram"}
        return {
            "number": self.number,
            "gateway": self.gateway,
            "share": self.share,
            "gateway_cpu_us": self.gateway_cpu_us,
            **load,
            **self.load.percentiles,
            "errors": self.load.errors,
            "histogram": self.load.histogram.encode().decode(),
        }


def capacities(on_stage: Lineup, rounds: int, seconds: float) -> dict[str, float]:
    """Requests a second of each gateway in a closed loop with many connections, median of rounds."""
    found: dict[str, list[float]] = {gateway.name: [] for gateway in on_stage.gateways}
    for _ in range(rounds):
        for gateway in on_stage.gateways:
            load = closed_loop(gateway.port, CAPACITY_CONNECTIONS, seconds, on_stage.body_file)
            found[gateway.name].append(load.requests / load.seconds)
            say(f"capacity of {gateway.name}: {found[gateway.name][-1]:.0f} req/s")
    return {name: statistics.median(values) for name, values in found.items()}


def interleaved(
    on_stage: Lineup, capacity: Mapping[str, float], shares: Sequence[int], rounds: int, seconds: float
) -> tuple[list[LatencyRound], list[str]]:
    """Every gateway at every share, `rounds` times, in an order that is drawn for each round.

    Returns:
        The rounds, and a line about each gateway that failed in one of them: it takes no further part.
    """
    drawn = random.Random(7)
    taking_part = list(on_stage.gateways)
    done: list[LatencyRound] = []
    failures: list[str] = []
    for number in range(rounds):
        for share in shares:
            order = list(taking_part)
            drawn.shuffle(order)
            for gateway in order:
                try:
                    done.append(_measure(on_stage, gateway, capacity, share, seconds, number))
                except BenchError as error:
                    say(f"FAILED {gateway.name} at {share} %: {error}")
                    failures.append(f"{gateway.name} from {share} % of its capacity on: {str(error).splitlines()[0]}")
                    taking_part.remove(gateway)
    return done, failures


def _measure(
    on_stage: Lineup, gateway: Gateway, capacity: Mapping[str, float], share: int, seconds: float, number: int
) -> LatencyRound:
    before = cpu_us(gateway.pid)
    load = open_loop(gateway.port, capacity[gateway.name] * share / 100, seconds, on_stage.body_file)
    each = (cpu_us(gateway.pid) - before) / max(1, load.answered)
    found = load.percentiles
    wrong = f", {load.errors} ERRORS" if load.errors else ""
    late = "" if in_time({**found, "lag_p99_us": load.lag_p99_us}) else f", the client was late by {load.lag_p99_us} us"
    say(
        f"round {number + 1}, {share:3} % of capacity = {load.rate:6.0f} req/s, {gateway.name:14} p50 "
        f"{found['p50_us']:6} p99 {found['p99_us']:7} p99.9 {found['p999_us']:7} us{wrong}{late}"
    )
    return LatencyRound(number, gateway.name, share, round(each, 2), load)


def report(every: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """One line a gateway and share, from the rounds as JSON; none where no round counts."""
    rounds = [one for one in every if in_time(one)]
    lines = []
    for gateway, share in sorted({(one["gateway"], one["share"]) for one in rounds}, key=lambda place: place[::-1]):
        mine = [one for one in rounds if (one["gateway"], one["share"]) == (gateway, share)]
        line: dict[str, Any] = {"gateway": gateway, "share": share, "rounds": len(mine)}
        line["left_out"] = sum((one["gateway"], one["share"]) == (gateway, share) for one in every) - len(mine)
        line["rate"] = round(statistics.median(one["rate"] for one in mine), 1)
        line |= percentiles(merged(one["histogram"] for one in mine))
        line["gateway_cpu_us"] = round(statistics.median(one["gateway_cpu_us"] for one in mine), 2)
        line["errors"] = sum(one["errors"] for one in mine)
        line["client_lag_p99_us"] = max(one["lag_p99_us"] for one in mine)
        ratio = ratio_of(p99_pairs(rounds, gateway, share, reference)) if gateway != reference else None
        if ratio is not None:
            line["p99_to_reference"] = ratio.rounded
        lines.append(line)
    return lines


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="GATEWAY...", help="Default: fastgw go.")] = None,
    shares: Annotated[str, typer.Option(help="Percents of each gateway's capacity, with commas.")] = "30,50,70,90",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each share.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a round, after half a second of settling.")] = 6.0,
    warm: Annotated[int, typer.Option(min=1, help="Seconds of load before, for the broker's compiler.")] = 30,
    reference: Annotated[str, typer.Option(help="The gateway that ratios refer to.")] = "go",
) -> None:
    with lineup(names or ["fastgw", "go"]) as on_stage:
        warm_up(on_stage, warm)
        capacity = capacities(on_stage, min(3, rounds), min(3.0, seconds))
        percents = [int(share) for share in shares.split(",")]
        done, _ = interleaved(on_stage, capacity, percents, rounds, seconds)
    for line in report([one.as_json for one in done], reference):
        print(json.dumps({"bench": "latency", **line}), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
