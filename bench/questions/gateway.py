"""What does a request cost in the whole gateway, and what does it hold in memory at rest?

    python -m bench.questions.gateway                         # fastgw, one worker, 64 connections, against the Go peer
    python -m bench.questions.gateway fastgw go --connections 16,64,256 --rounds 9 --seconds 4

Prints one JSON line a gateway and number of connections: CPU microseconds a request (user + system of the whole process
tree), requests a second and memory, each the median of the rounds; and the ratio to the reference within rounds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bench.rig import facts
from bench.rig.commands import run
from bench.rig.lineup import lineup, warm_up
from bench.rig.processes import Memory, memory
from bench.rig.progress import say
from bench.rig.rounds import Round, compare, interleaved, median_of

FIGURES = ("gateway_cpu_us", "broker_cpu_us", "rps", "p50_us")


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="GATEWAY...", help="Default: fastgw go.")] = None,
    connections: Annotated[str, typer.Option(help="Numbers of connections, with commas.")] = "64",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each number of connections.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, help="Length of a round.")] = 3,
    warm: Annotated[int, typer.Option(min=1, help="Seconds of load before, for the broker's compiler.")] = 30,
    reference: Annotated[str, typer.Option(help="The gateway that ratios refer to.")] = "go",
) -> None:
    chosen = names or ["fastgw", "go"]
    counts = [int(count) for count in connections.split(",")]
    with lineup(chosen) as on_stage:
        at_rest = {gateway.name: memory(gateway.pid) for gateway in on_stage.gateways}
        warm_up(on_stage, warm)
        done = interleaved(on_stage.stage, on_stage.subjects, counts, rounds, seconds)
        names_here = [gateway.name for gateway in on_stage.gateways]
        details = {"versions": facts.versions(names_here, on_stage.stage.kafka_version), "machine": facts.machine()}
    say(f"ratios to {reference}: median (spread), a tie where the spread holds 1")
    for line in report(done, at_rest, reference):
        print(json.dumps(line), flush=True)
    print(json.dumps(details))
    if not all(one.ok for one in done):
        sys.exit("bench: some rounds went wrong, see above; they do not count")


def report(done: Sequence[Round], at_rest: dict[str, Memory], reference: str) -> list[dict[str, object]]:
    """One line a gateway and number of connections."""
    ratios = {figure: compare(done, figure, reference) for figure in FIGURES}
    lines: list[dict[str, object]] = []
    for gateway, count in sorted({(one.gateway, one.connections) for one in done}, key=lambda place: place[::-1]):
        line: dict[str, object] = {"bench": "gateway", "gateway": gateway, "connections": count}
        for figure in FIGURES:
            line[figure] = median_of(done, figure, gateway, count)
            ratio = ratios[figure].get((gateway, count))
            if ratio is not None and gateway != reference:
                line[f"{figure}_to_{reference}"] = str(ratio)
        line |= {f"{name}_at_rest": value for name, value in at_rest[gateway].as_figures.items()}
        lines.append(line)
    return lines


if __name__ == "__main__":
    run(main, __doc__)
