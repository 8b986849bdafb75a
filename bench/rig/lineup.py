"""Brings gateways on the stage: builds them, starts them behind one echo service, warms them up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rig import gateways
from bench.rig.gateways import Gateway, Topics, Unavailable
from bench.rig.load import closed_loop, require_wrk
from bench.rig.processes import BenchError, Running, cpu_us
from bench.rig.progress import say
from bench.rig.rounds import Subject
from bench.rig.stage import PARTITIONS, Stage

WARM_UP_CONNECTIONS = 64
WARM_UP_SLICES = 5
STILL_FALLING = 0.85  # CPU a request of a slice, against the slice before


@dataclass
class Lineup:
    """The gateways that serve, the service behind them, and the lines about those that are missing."""

    stage: Stage
    service: Running
    request_topic: str
    body_file: Path
    gateways: list[Gateway] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def subjects(self) -> list[Subject]:
        """The gateways as subjects of rounds."""
        return [Subject(one.name, one, self.service, self.body_file) for one in self.gateways]


def available(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Build what can be built; give the names that can start, and a line for each that cannot."""
    can, skipped = [], []
    for name in names:
        try:
            gateways.prepare(name)  # at once where it is built already
            can.append(name)
        except Unavailable as reason:
            skipped.append(str(reason))
            say(f"SKIPPED {reason}")
    return can, skipped


@contextmanager
def empty_stage(body_bytes: int = gateways.BODY_BYTES) -> Iterator[Lineup]:
    """Kafka and the echo service, no gateway yet.

    Raises:
        BenchError: Kafka, the service or wrk cannot start.
    """
    require_wrk()
    say("starting Apache Kafka and the echo service")
    with Stage() as stage:
        request = stage.topic("bench.requests")
        body_file = stage.folder / "body.json"
        body_file.write_bytes(gateways.order_body(body_bytes))
        yield Lineup(stage, stage.echo([request]), request, body_file)


@contextmanager
def lineup(names: Sequence[str], body_bytes: int = gateways.BODY_BYTES) -> Iterator[Lineup]:
    """Everything on stage and ready, in one context.

    Raises:
        BenchError: as `empty_stage`, or none of the gateways can run here.
    """
    can, skipped = available(names)
    if not can:
        raise BenchError("none of the gateways can run here")
    with empty_stage(body_bytes) as on_stage:
        on_stage.skipped += skipped
        for name in can:
            _bring(on_stage, name)
        if not on_stage.gateways:
            raise BenchError("none of the gateways started")
        yield on_stage


def _bring(on_stage: Lineup, name: str) -> None:
    say(f"starting {name}")
    try:
        on_stage.gateways.append(gateways.start(on_stage.stage, name, topics_for(on_stage, name)))
    except BenchError as error:
        on_stage.skipped.append(f"{name}: did not start: {str(error).splitlines()[0]}")
        say(f"SKIPPED {name}: did not start: {error}")


def topics_for(on_stage: Lineup, name: str, reply_partitions: int = PARTITIONS) -> Topics:
    """Topics of its own for a gateway; the request topic is everybody's."""
    stage, request = on_stage.stage, on_stage.request_topic
    peer = gateways.peers().get(name)
    if peer and peer.reply_suffix:
        reply = stage.topic_named(request + peer.reply_suffix, reply_partitions)
    else:
        reply = stage.topic(f"{name}.replies", reply_partitions)
    return Topics(request, stage.topic(f"{name}.park"), reply)


def warm_up(on_stage: Lineup, broker_s: float, share: float = 1.0, patience: float = 4.0) -> None:
    """Load everything until it is at its usual speed, because compilers work while they are watched.

    Args:
        on_stage: the gateways; the first one loads the broker.
        broker_s: seconds for the broker's JVM. Measured: its CPU a request falls from 150 to 30 us within a minute.
        share: of the time that each gateway wants.
        patience: how many times that it may take: on a busy machine a compiler gets little of the time.
    """
    say(f"warming up the broker for {broker_s:.0f} s")
    closed_loop(on_stage.gateways[0].port, WARM_UP_CONNECTIONS, broker_s, on_stage.body_file)
    for gateway in on_stage.gateways:
        least_s = max(1.0, gateway.warm_up_s * share)
        say(f"warming up {gateway.name} for {least_s:.0f} s")
        _warm_up(on_stage, gateway, least_s, patience * least_s)


def _warm_up(on_stage: Lineup, gateway: Gateway, least_s: float, most_s: float) -> None:
    """Load a gateway for `least_s`, and on until its CPU a request no longer falls."""
    slice_s = max(1.0, least_s / WARM_UP_SLICES)
    loaded_s, before_us, now_us = 0.0, 0.0, 0.0
    while loaded_s < least_s or (now_us < STILL_FALLING * before_us and loaded_s < most_s):
        start_us = cpu_us(gateway.pid)
        load = closed_loop(gateway.port, WARM_UP_CONNECTIONS, slice_s, on_stage.body_file)
        before_us, now_us = now_us, (cpu_us(gateway.pid) - start_us) / max(1, load.requests)
        loaded_s += slice_s
    if now_us < STILL_FALLING * before_us:
        say(f"{gateway.name} is still getting faster after {loaded_s:.0f} s: its figures will be too high")
