"""How does the cost of a request grow? One question a run; `all` asks every one of them.

    python -m bench.questions.growth workers                       # 1, 2 and 4 workers
    python -m bench.questions.growth misrouted --values 0,50,100   # percent of the replies that go to the other worker

Questions: parked (requests that wait), workers, owners (of the response topic; ids only, no load), partitions (of the
response topic), routes, body (KiB), misrouted (percent), old-replies (in the response topic). A fastgw for each value
runs at the same time, and rounds go to them in turn; the figure is the ratio to the first value. Prints JSON lines,
and leaves a result file and a plot in bench/results/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from confluent_kafka import Producer

from bench.questions import ids, parked
from bench.report import plots, result, targets
from bench.rig.commands import run
from bench.rig.gateways import FastgwSettings, Gateway, Topics, order_body, start_fastgw
from bench.rig.lineup import Lineup, empty_stage, topics_for
from bench.rig.load import closed_loop
from bench.rig.processes import BenchError
from bench.rig.progress import say
from bench.rig.rounds import Subject, compare, interleaved, median_of
from bench.rig.stage import PARTITIONS
from fastgw.ids import Partitioner
from tests.brokers.kafka_server import kafka_version

BODY_BYTES_MIN = 64


@dataclass(frozen=True)
class Question:
    """What grows, through which values, and how a fastgw for one value is made."""

    text: str
    values: str
    make: Callable[[Lineup, float], Subject]
    connections: int = 64


def _fastgw(on_stage: Lineup, settings: FastgwSettings, value: float, topics: Topics | None = None) -> Subject:
    gateway = start_fastgw(on_stage.stage, "fastgw", settings, topics or topics_for(on_stage, "fastgw"))
    return Subject(_label(value), gateway, on_stage.service, on_stage.body_file)


def _label(value: float) -> str:
    return f"{value:g}"


def _parked(on_stage: Lineup, value: float) -> Subject:
    settings = FastgwSettings(slots=parked.SLOTS, http2=True)
    subject = _fastgw(on_stage, settings, value)
    parked.park(on_stage, subject.gateway, int(value), http2=True)
    return subject


def _workers(on_stage: Lineup, value: float) -> Subject:
    topics = topics_for(on_stage, "fastgw", reply_partitions=16)
    return _fastgw(on_stage, FastgwSettings(workers=int(value)), value, topics)


def _partitions(on_stage: Lineup, value: float) -> Subject:
    topics = topics_for(on_stage, "fastgw", reply_partitions=int(value))
    return _fastgw(on_stage, FastgwSettings(), value, topics)


def _routes(on_stage: Lineup, value: float) -> Subject:
    others = (
        f'[[route]]\nmethod = "GET"\npath = "/things/{{id}}/part-{number}"\ntopic = "{on_stage.request_topic}"\n'
        for number in range(int(value) - 1)
    )
    return _fastgw(on_stage, FastgwSettings(extra="".join(others)), value)


def _body(on_stage: Lineup, value: float) -> Subject:
    body_file = on_stage.stage.folder / f"body-{value:g}.json"
    body_file.write_bytes(order_body(max(BODY_BYTES_MIN, int(value * 1024))))
    subject = _fastgw(on_stage, FastgwSettings(), value)
    return Subject(subject.name, subject.gateway, subject.service, body_file)


def _misrouted(on_stage: Lineup, value: float) -> Subject:
    # Two workers with one partition each: the partition that is not asked for is always the other worker's.
    stage, partitions = on_stage.stage, 2
    request = stage.topic("bench.misrouted")
    service = stage.echo([request], "--misroute", str(int(value)))
    topics = Topics(request, stage.topic("fastgw.park"), stage.topic("fastgw.replies", partitions))
    subject = _fastgw(on_stage, FastgwSettings(workers=2), value, topics)
    return Subject(subject.name, subject.gateway, service, subject.body_file)


def _old_replies(on_stage: Lineup, value: float) -> Subject:
    stage = on_stage.stage
    forever = {"retention.bytes": "-1", "retention.ms": "-1"}
    topics = Topics(on_stage.request_topic, stage.topic("fastgw.park"), stage.topic("fastgw.replies", config=forever))
    settings = {"bootstrap.servers": stage.bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000}
    producer = Producer(settings)
    body = on_stage.body_file.read_bytes()
    for number in range(int(value)):
        producer.produce(topics.reply, body, b"%032x" % number, partition=number % PARTITIONS)
    producer.flush(120)
    return _fastgw(on_stage, FastgwSettings(), value, topics)


QUESTIONS = {
    "parked": Question("requests that wait", "1,100,10000,100000", _parked),
    # Four share what one has otherwise, batches too: with so many that each of them has as much as one elsewhere.
    "workers": Question("worker processes", "1,2,4", _workers, connections=256),
    "partitions": Question("partitions of the response topic", "1,4,16,64,256", _partitions),
    "routes": Question("routes", "1,10,100,1000", _routes),
    "body": Question("KiB in a body", "0.1,1,8,64,512", _body, connections=16),
    "misrouted": Question("percent of replies that reach the other worker", "0,10,50,100", _misrouted),
    "old-replies": Question("old replies in the response topic", "0,1000000", _old_replies),
}
OWNERS = "1,2,4,8,16,32,64"


def ask(
    question: str, values: Sequence[float], connections: int, rounds: int, seconds: float, warm: float
) -> list[dict[str, Any]]:
    """Ask one question; the lines of its answer, first value first. 0 connections: as many as are its own."""
    asked = QUESTIONS[question]
    connections = connections or asked.connections
    with empty_stage() as on_stage:
        subjects = []
        for value in values:
            say(f"starting fastgw with {value:g} {asked.text}")
            subjects.append(asked.make(on_stage, value))
        for subject in subjects:
            closed_loop(subject.gateway.port, connections, warm / len(subjects), subject.body_file)
        done = interleaved(on_stage.stage, subjects, [connections], rounds, seconds)
        fates = {subject.name: replies_by_fate(subject.gateway) for subject in subjects}
    reference = _label(values[0])
    ratios = {figure: compare(done, figure, reference) for figure in ("gateway_cpu_us", "broker_cpu_us", "rps")}
    lines = []
    for value in values:
        place = (_label(value), connections)
        line: dict[str, Any] = {"question": question, "text": asked.text, "value": value, "connections": connections}
        for figure, by_place in ratios.items():
            line[figure] = median_of(done, figure, *place)
            if ratio := by_place.get(place):
                line[f"{figure}_ratio"] = ratio.rounded
        line["replies"] = fates[_label(value)]
        line["errors"] = sum(one.load.errors for one in done if one.gateway == _label(value))
        lines.append(line)
    return lines


def replies_by_fate(gateway: Gateway) -> dict[str, int]:
    """What became of a fastgw's replies so far: proof that a case was what it is called."""
    counts: dict[str, int] = {}
    for sample in gateway.samples("fastgw_replies_total"):
        if sample.value:
            fate = sample.labels["fate"]
            counts[fate] = counts.get(fate, 0) + int(sample.value)
    return counts


def ask_owners(values: Sequence[float]) -> list[dict[str, Any]]:
    """Microseconds of an id against the number of workers that share a response topic; no load, no Kafka."""
    lines = []
    for value in values:
        for partitioner in (Partitioner.ANY, Partitioner.MURMUR2):
            runs_us, missed = ids.make_runs(partitioner, int(value))
            line: dict[str, Any] = {"question": "owners", "text": "owners of the response topic", "value": value}
            line |= {"partitioner": partitioner.name.lower(), "us": round(min(runs_us), 3), "missed": missed}
            lines.append(line)
    return lines


def main(
    question: Annotated[str, typer.Argument(help="One of the questions above, or all.")],
    values: Annotated[str, typer.Option(help="Other values than the question's own, with commas.")] = "",
    connections: Annotated[int, typer.Option(min=0, help="Other than the question's own; 0: its own.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each value.")] = 7,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a round.")] = 3.0,
    warm: Annotated[float, typer.Option(min=1, help="Seconds of load before, shared by the values.")] = 40.0,
) -> None:
    every = [*QUESTIONS, "owners"]
    if question not in [*every, "all"]:
        raise BenchError(f"no question {question!r}: known are {', '.join(every)}, all")
    for one in every if question == "all" else [question]:
        own = OWNERS if one == "owners" else QUESTIONS[one].values
        wanted = [float(value) for value in (values or own).split(",")]
        settings = {"rounds": rounds, "seconds": seconds, "values": wanted, "connections": connections}
        document = result.envelope(f"growth-{one}", ["fastgw"], kafka_version(), settings)
        document["growth"] = (
            ask_owners(wanted) if one == "owners" else ask(one, wanted, connections, rounds, seconds, warm)
        )
        for line in document["growth"]:
            print(json.dumps({"bench": "growth", **line}), flush=True)
        folder = result.save(document)
        plots.growth(document["growth"], folder / "growth.png")
        for verdict in targets.growth_verdicts(document["growth"]):
            say(f"target: {verdict.text}: {verdict.measured}, {verdict.limit}: {verdict.verdict}")
        say(f"written: {folder}")


if __name__ == "__main__":
    run(main, __doc__)
