"""What must be reached, as data, and whether a result reaches it.

A ratio is reached when its median is at or below the target, and only `perhaps` when the target lies inside its spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.rig.rounds import Ratio, in_time, p99_pairs, ratio_of

LATENCY_SHARE = 70
REACHED, MISSED, PERHAPS, UNMEASURED = "reached", "missed", "perhaps", "not measured"

Rounds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """One target: `figure` of `gateway` is at most (or at least) `limit` times that of `other`."""

    text: str
    gateway: str
    other: str
    figure: str
    connections: int
    limit: float
    at_least: bool = False


class Verdict(NamedTuple):
    """A target and what became of it."""

    text: str
    limit: str
    measured: str
    verdict: str


def _cpu(gateway: str, other: str, connections: int, limit: float) -> Target:
    text = f"gateway CPU a request, {gateway} against {other}, {connections} connections"
    return Target(text, gateway, other, "gateway_cpu_us", connections, limit)


TARGETS = [
    _cpu("fastgw", "go", 16, 0.6),
    _cpu("fastgw", "go", 64, 0.6),
    _cpu("fastgw", "go", 256, 0.75),
    *(_cpu("fastgw", other, count, 0.2) for other in ("aiokafka", "nest") for count in (64, 256)),
    *(_cpu("fastgw", "faststream", count, 0.05) for count in (64, 256)),
    *(_cpu("fastgw", other, 64, 0.25) for other in ("spring", "quarkus")),
    *(_cpu("fastgw", other, 256, 0.333) for other in ("spring", "quarkus")),
    _cpu("fastgw-granian", "go", 64, 1.2),
    _cpu("fastgw-granian", "go", 256, 1.5),
    Target("throughput, 64 connections", "fastgw", "go", "rps", 64, 1.2, at_least=True),
    _cpu("fastgw", "go", 1, 0.6),
    Target("p50 of one request alone", "fastgw", "go", "p50_us", 1, 1.0),
]


GROWTH_TARGETS = {
    ("workers", 4): ("gateway CPU a request, 4 workers against 1", 1.15),
    ("misrouted", 100): ("gateway CPU a request, all replies misrouted against none", 2.0),
    ("old-replies", 1_000_000): ("gateway CPU a request, 1,000,000 old replies against none", 1.0),
}


def verdicts(document: Mapping[str, Any]) -> list[Verdict]:
    """Every target that this result file can say something about, and those that it cannot."""
    rounds: Rounds = document.get("closed_loop", [])
    return [
        *(judge_target(target, rounds) for target in TARGETS),
        *_best_peer(rounds, "broker_cpu_us", "broker CPU a request", (64, 256), at_least=False),
        *_best_peer(rounds, "rps", "throughput", (64, 256), at_least=True),
        _latency(document.get("open_loop", [])),
        *_parked(document.get("parked", [])),
    ]


def growth_verdicts(lines: Rounds) -> list[Verdict]:
    """What a growth curve has to reach, where there is something: the cost of its value against that of its first."""
    by_value = {(line["question"], line["value"]): line for line in lines}
    found = []
    for (question, value), (text, limit) in GROWTH_TARGETS.items():
        line = by_value.get((question, value))
        if line is not None and (ratio := line.get("gateway_cpu_us_ratio")) is not None:
            found.append(_judged(text, Ratio(*ratio), limit, at_least=False))
    return found


def judge_target(target: Target, rounds: Rounds) -> Verdict:
    """One target, from the rounds in which both took part."""
    ratio = _ratio(rounds, target.gateway, target.other, target.figure, target.connections)
    return _judged(target.text, ratio, target.limit, target.at_least)


def _ratio(rounds: Rounds, gateway: str, other: str, figure: str, connections: int) -> Ratio | None:
    clean = [one for one in rounds if one["connections"] == connections and one["ok"]]
    by_place = {(one["gateway"], one["number"]): one[figure] for one in clean}
    numbers = sorted({one["number"] for one in clean})
    both = [number for number in numbers if (gateway, number) in by_place and (other, number) in by_place]
    return ratio_of((by_place[gateway, number], by_place[other, number]) for number in both)


def _judged(text: str, ratio: Ratio | None, limit: float, at_least: bool) -> Verdict:
    sign = ">=" if at_least else "<="
    if ratio is None:
        return Verdict(text, f"{sign} {limit:g}", "-", UNMEASURED)
    within: Callable[[float], bool] = (lambda value: value >= limit) if at_least else (lambda value: value <= limit)
    sure = within(ratio.low) == within(ratio.high)
    verdict = (REACHED if within(ratio.median) else MISSED) if sure else PERHAPS
    return Verdict(text, f"{sign} {limit:g}", str(ratio), verdict)


def _best_peer(rounds: Rounds, figure: str, text: str, counts: Sequence[int], *, at_least: bool) -> Iterator[Verdict]:
    for count in counts:
        peers = {one["gateway"] for one in rounds if not one["gateway"].startswith("fastgw")}
        ratios = [(ratio, peer) for peer in peers if (ratio := _ratio(rounds, "fastgw", peer, figure, count))]
        name = f"{text} against the best peer, {count} connections"
        if not ratios:
            yield _judged(name, None, 1.0, at_least)
            continue
        hardest = min if at_least else max
        ratio, peer = hardest(ratios, key=lambda pair: pair[0].median)
        yield _judged(f"{name} ({peer})", ratio, 1.0, at_least)


def _latency(rounds: Rounds) -> Verdict:
    counting = [one for one in rounds if in_time(one)]
    peers = {one["gateway"] for one in counting if not one["gateway"].startswith("fastgw")}
    ratios = [
        (ratio, peer) for peer in peers if (ratio := ratio_of(p99_pairs(counting, "fastgw", LATENCY_SHARE, peer)))
    ]
    text = f"p99 at {LATENCY_SHARE} % of capacity, open loop, against the best peer"
    if not ratios:
        return _judged(text, None, 1.0, at_least=False)
    ratio, peer = max(ratios, key=lambda pair: pair[0].median)
    return _judged(f"{text} ({peer})", ratio, 1.0, at_least=False)


def _parked(lines: Rounds) -> Iterator[Verdict]:
    for http, count in ((1, 10_000), (2, 100_000)):
        found = {line["gateway"]: line for line in lines if line["http"] == http and line["parked"] == count}
        text = f"{count:,} parked over HTTP/{http}"
        mine, go = found.get("fastgw"), found.get("go")
        ratio = Ratio(*mine["cpu_ratio"]) if mine else None
        yield _judged(f"{text}: CPU a request of the others, against 100 parked", ratio, 1.1, False)
        text += ": memory a parked request, against go"
        if not mine or not go:
            yield Verdict(text, "<= 1", "-", UNMEASURED)
            continue
        share = mine["kb_a_parked_request"] / go["kb_a_parked_request"]
        yield Verdict(text, "<= 1", f"{share:.2f}", REACHED if share <= 1 else MISSED)
