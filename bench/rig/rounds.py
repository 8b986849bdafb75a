"""Short rounds, interleaved between gateways, and what is concluded from them.

Shared machines change speed by half within minutes, for all processes alike. So no figure is compared with one of
another time: every round measures each gateway once, in a random order, and only ratios within a round count. The
figure is the median of those ratios. Its spread is the interval between two of the sorted ratios that holds the true
median with at least 90 % confidence, whatever the distribution (binomial order statistics); with fewer than five
rounds that is not possible, and the spread is all of them. A ratio whose spread holds 1 is a tie.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.rig.gateways import Gateway
from bench.rig.load import ClosedLoop, closed_loop
from bench.rig.processes import Running, cpu_us
from bench.rig.progress import say
from bench.rig.stage import Stage

CONFIDENCE = 0.9
# Of the p99 of a round in an open loop: a client that was itself later than that has measured itself.
LAG_SHARE_MAX = 0.25


@dataclass(frozen=True)
class Round:
    """One gateway under one load for a few seconds. CPU in microseconds a request, whole process trees."""

    number: int
    gateway: str
    connections: int
    gateway_cpu_us: float
    broker_cpu_us: float
    service_cpu_us: float
    load: ClosedLoop

    @property
    def rps(self) -> float:
        return self.load.requests / self.load.seconds

    @property
    def ok(self) -> bool:
        """The round counts: every answer was right, and there was at least one on each connection."""
        return not self.load.errors and self.load.requests >= self.connections

    @property
    def as_json(self) -> dict[str, Any]:
        flat = asdict(self)
        return {**flat.pop("load"), **flat, "rps": round(self.rps, 1), "errors": self.load.errors, "ok": self.ok}


@dataclass(frozen=True)
class Subject:
    """What is measured: a gateway under a name, with the service behind it and the body that is sent to it."""

    name: str
    gateway: Gateway
    service: Running
    body_file: Path
    path: str = "/orders"


def measure(stage: Stage, subject: Subject, connections: int, seconds: float, number: int = 0) -> Round:
    """One round. The broker's and the service's idle turning for the other gateways is in their figures."""
    roots = subject.gateway.pid, subject.service.pid
    before = [*map(cpu_us, roots), stage.broker_cpu_us()]
    load = closed_loop(subject.gateway.port, connections, seconds, subject.body_file, subject.path)
    after = [*map(cpu_us, roots), stage.broker_cpu_us()]
    each = [round((end - start) / max(1, load.requests), 2) for start, end in zip(before, after, strict=True)]
    return Round(number, subject.name, connections, each[0], each[2], each[1], load)


def interleaved(
    stage: Stage, subjects: Sequence[Subject], connections: Sequence[int], rounds: int, seconds: float
) -> list[Round]:
    """`rounds` rounds of every subject at each number of connections, in an order that is drawn for each round."""
    drawn = random.Random(4)
    done = []
    for number in range(rounds):
        for count in connections:
            order = list(subjects)
            drawn.shuffle(order)
            for subject in order:
                done.append(measure(stage, subject, count, seconds, number))
                tell(done[-1])
    return done


def tell(done: Round) -> None:
    """A line of progress."""
    wrong = f", {done.load.errors} ERRORS" if done.load.errors else "" if done.ok else ", TOO FEW to count"
    say(
        f"round {done.number + 1}, {done.connections:4} connections, {done.gateway:14} "
        f"gateway {done.gateway_cpu_us:7.1f} broker {done.broker_cpu_us:6.1f} us, {done.rps:6.0f} req/s{wrong}"
    )


# --- conclusions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """A figure against the reference's, over all rounds."""

    median: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """The difference is inside the spread."""
        return self.low <= 1.0 <= self.high

    @property
    def rounded(self) -> list[float]:
        """Median, low, high for a result file."""
        return [round(value, 3) for value in (self.median, self.low, self.high)]

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f}{', tie' if self.tie else ''})"


def ratio_of(pairs: Iterable[tuple[float, float]]) -> Ratio | None:
    """The ratio of pairs (figure, reference's figure of the same round); None without a pair."""
    ratios = sorted(figure / reference for figure, reference in pairs if reference > 0)
    if not ratios:
        return None
    low, high = spread(ratios)
    return Ratio(statistics.median(ratios), low, high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the true median with at least 90 % confidence, or all values where there are too few."""
    values, count = sorted(values), len(values)
    left_out, tail = 0, 0.5**count
    # Without the k smallest and the k largest it misses the median when at most k of n coin throws are heads, or tails.
    while left_out + 1 < count / 2 and 1 - 2 * (tail + math.comb(count, left_out + 1) * 0.5**count) >= CONFIDENCE:
        left_out += 1
        tail += math.comb(count, left_out) * 0.5**count
    return values[left_out], values[count - 1 - left_out]


def compare(rounds: Sequence[Round], figure: str, reference: str) -> dict[tuple[str, int], Ratio]:
    """The ratios of `figure` (a field of a round's JSON) by gateway and connections, of rounds that count."""
    clean = [one.as_json for one in rounds if one.ok]
    by_place = {(one["gateway"], one["connections"], one["number"]): one[figure] for one in clean}
    found = {}
    for gateway, connections in sorted({(one["gateway"], one["connections"]) for one in clean}):
        numbers = {one["number"] for one in clean if one["connections"] == connections}
        pairs = [
            (by_place[gateway, connections, number], by_place[reference, connections, number])
            for number in sorted(numbers)
            if (gateway, connections, number) in by_place and (reference, connections, number) in by_place
        ]
        if ratio := ratio_of(pairs):
            found[gateway, connections] = ratio
    return found


def median_of(rounds: Sequence[Round], figure: str, gateway: str, connections: int) -> float | None:
    """The median of a figure itself, for orientation only: it belongs to the hour in which it was measured."""
    here = [one for one in rounds if (one.gateway, one.connections) == (gateway, connections) and one.ok]
    values = [one.as_json[figure] for one in here]
    return statistics.median(values) if values else None


def in_time(one: Mapping[str, Any]) -> bool:
    """Whether an open-loop round, as JSON, says something of its gateway: its client was not itself late."""
    return bool(one["lag_p99_us"] <= LAG_SHARE_MAX * one["p99_us"])


def p99_pairs(
    rounds: Sequence[Mapping[str, Any]], gateway: str, share: int, reference: str
) -> list[tuple[float, float]]:
    """The p99 of both in each round that both have."""
    p99 = {(one["gateway"], one["number"]): one["p99_us"] for one in rounds if one["share"] == share}
    numbers = sorted({number for _, number in p99})
    return [
        (p99[gateway, number], p99[reference, number])
        for number in numbers
        if (gateway, number) in p99 and (reference, number) in p99
    ]
