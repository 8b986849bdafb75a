"""What do the two halves of a gateway cost by themselves? HTTP without Kafka, and Kafka without HTTP.

    python -m bench.questions.floors --connections 16,64,256 --rounds 5

HTTP: POSTs that are answered at once with their own body, by fastgw's fronts, by plain granian and by Go's net/http.
Kafka: `native/pingpong.c`, produce and consume with as many requests under way as there would be connections. Beside
them the whole gateway, in the same rounds. Prints one JSON line a subject and number of connections, and for fastgw
what is left when both floors are taken off: routing, id, table, headers, and threads waking each other. In the end one
line a gateway that nobody asks anything.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bench.rig import gateways
from bench.rig.commands import run
from bench.rig.gateways import BODY_BYTES, Gateway, Unavailable, free_port
from bench.rig.lineup import Lineup, empty_stage, topics_for, warm_up
from bench.rig.load import closed_loop
from bench.rig.native import program
from bench.rig.processes import Running, cpu_us, json_line, run_to_end
from bench.rig.progress import say
from bench.rig.rounds import Subject, measure

HTTP_FLOORS = {"http express": "express", "http granian": "granian", "http plain granian": "plain-granian"}
KAFKA_FLOOR = "kafka"
READY_TIMEOUT_S = 30.0
SETTLE_S = 1.0
AT_REST_S = 20.0


@dataclass(frozen=True)
class Cost:
    """One subject in one round."""

    number: int
    subject: str
    connections: int
    cpu_us: float
    rps: float


def start_http_floor(on_stage: Lineup, name: str) -> Subject:
    """An HTTP server that answers at once."""
    stage, port = on_stage.stage, free_port()
    command = [sys.executable, "-m", "bench.rig.noop_front", HTTP_FLOORS[name], str(port)]
    running = stage.start(Running(command, stage.folder / f"noop-{port}.log"))
    floor = Gateway(name, port, running, topics_for(on_stage, "noop"), warm_up_s=1.0)
    running.wait_until(floor.check, READY_TIMEOUT_S, f"{name} answers")
    return Subject(name, floor, on_stage.service, on_stage.body_file)


def start_all(on_stage: Lineup, names: Sequence[str]) -> list[Subject]:
    """The floors that can run, and the gateways to compare them with."""
    subjects = [start_http_floor(on_stage, name) for name in HTTP_FLOORS]
    for name in names:
        try:
            gateways.prepare(name)
        except Unavailable as reason:
            say(f"SKIPPED {reason}")
            continue
        gateway = gateways.start(on_stage.stage, name, topics_for(on_stage, name))
        on_stage.gateways.append(gateway)
        subjects.append(Subject(name, gateway, on_stage.service, on_stage.body_file))
        if name == "go":
            subjects.append(Subject("http go", gateway, on_stage.service, on_stage.body_file, path="/noop"))
    return subjects


def kafka_floor(on_stage: Lineup, reply_topic: str, in_flight: int, seconds: float, number: int) -> Cost:
    """One round of Kafka alone."""
    command = [str(program("pingpong")), on_stage.stage.bootstrap, on_stage.request_topic, reply_topic]
    numbers = [str(value) for value in (in_flight, BODY_BYTES, SETTLE_S, seconds)]
    told = json_line(run_to_end([*command, *numbers], seconds + SETTLE_S + READY_TIMEOUT_S))
    requests = max(1, told["requests"])
    return Cost(number, KAFKA_FLOOR, in_flight, told["cpu_us"] / requests, requests / told["seconds"])


def interleaved(
    on_stage: Lineup, subjects: Sequence[Subject], counts: Sequence[int], rounds: int, seconds: float
) -> list[Cost]:
    """Every subject and the Kafka floor at each number of connections, in turn."""
    drawn, reply_topic = random.Random(5), on_stage.stage.topic("pingpong.replies")
    done = []
    for number in range(rounds):
        for count in counts:
            order: list[Subject | None] = [*subjects, None]
            drawn.shuffle(order)
            for subject in order:
                if subject is None:
                    done.append(kafka_floor(on_stage, reply_topic, count, seconds, number))
                else:
                    one = measure(on_stage.stage, subject, count, seconds, number)
                    done.append(Cost(number, subject.name, count, one.gateway_cpu_us, one.rps))
                last = done[-1]
                say(
                    f"round {number + 1}, {count:4} at once, {last.subject:20} {last.cpu_us:7.1f} us, {last.rps:7.0f}/s"
                )
    return done


def at_rest(on_stage: Lineup) -> list[dict[str, Any]]:
    """What each gateway takes when there is nothing to do."""
    say(f"nobody asks anything for {AT_REST_S:.0f} s")
    time.sleep(SETTLE_S)
    before = {gateway.name: cpu_us(gateway.pid) for gateway in on_stage.gateways}
    time.sleep(AT_REST_S)
    return [
        {
            "subject": f"{gateway.name} at rest",
            "cpu_us_a_second": round((cpu_us(gateway.pid) - before[gateway.name]) / AT_REST_S),
        }
        for gateway in on_stage.gateways
    ]


def report(done: Sequence[Cost]) -> list[dict[str, Any]]:
    """A line a subject and number of connections, and the distance between fastgw and its two floors."""
    lines: list[dict[str, Any]] = []
    for count in sorted({one.connections for one in done}):
        here = [one for one in done if one.connections == count]
        medians: dict[str, float] = {}
        for name in dict.fromkeys(one.subject for one in here):
            medians[name] = statistics.median(one.cpu_us for one in here if one.subject == name)
            rps = statistics.median(one.rps for one in here if one.subject == name)
            line = {"subject": name, "connections": count, "cpu_us": round(medians[name], 2), "rps": round(rps)}
            lines.append(line)
        lines += _distances(medians, count)
    return lines


def _distances(medians: Mapping[str, float], count: int) -> list[dict[str, Any]]:
    pairs = (("fastgw", "http express"), ("fastgw-granian", "http granian"), ("go", "http go"))
    return [
        {
            "subject": f"{name} above its floors",
            "connections": count,
            "cpu_us": round(medians[name] - medians[front] - medians[KAFKA_FLOOR], 2),
        }
        for name, front in pairs
        if name in medians and front in medians
    ]


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="GATEWAY...")] = None,
    connections: Annotated[str, typer.Option(help="Numbers of connections, with commas.")] = "16,64,256",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each number of connections.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a round.")] = 3.0,
    warm: Annotated[int, typer.Option(min=1, help="Seconds of load before, for the broker's compiler.")] = 30,
) -> None:
    counts = [int(count) for count in connections.split(",")]
    with empty_stage() as on_stage:
        subjects = start_all(on_stage, names or ["fastgw", "fastgw-granian", "go"])
        warm_up(on_stage, warm)
        for subject in subjects:
            closed_loop(subject.gateway.port, max(counts), 1, on_stage.body_file, subject.path)
        done = interleaved(on_stage, subjects, counts, rounds, seconds)
        idle = at_rest(on_stage)
    for line in [*report(done), *idle]:
        print(json.dumps({"bench": "floors", **line}), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
