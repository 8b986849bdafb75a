"""A result file as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.report import targets
from bench.rig.rounds import LAG_SHARE_MAX, ratio_of

Rounds = Sequence[Mapping[str, Any]]


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report."""
    reference = document["settings"]["reference"]
    rounds: Rounds = document.get("closed_loop", [])
    parts = [_head(document)]
    if rounds:
        parts += [
            _closed(
                "Gateway CPU, us a request (user + system, whole process tree)", rounds, "gateway_cpu_us", reference
            ),
            _closed("Broker CPU, us a request", rounds, "broker_cpu_us", reference),
            _closed("Throughput, requests a second (closed loop)", rounds, "rps", reference),
            _closed("p50 in the closed loop, us", rounds, "p50_us", reference),
        ]
    parts += [
        _latency(document.get("latency", [])),
        _rest(document.get("rest", {})),
        _parked(document.get("parked", [])),
    ]
    parts += [_targets(document), _settings(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def order(name: str) -> tuple[bool, str]:
    """fastgw's variants first, then the peers by name."""
    return not name.startswith("fastgw"), name


def _head(document: Mapping[str, Any]) -> str:
    machine, versions, settings = document["machine"], document["versions"], document["settings"]
    lines = [
        f"# Benchmark of {document['started']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Linux {machine['kernel']}; load "
        f"before: {machine['load_before']}. fastgw {versions['fastgw']} at {versions['commit'] or 'no commit'}, "
        f"Apache Kafka {versions['kafka']}, Python {versions['python']}. Broker, service, load and gateway share the "
        "machine.",
        f"{settings['rounds']} rounds of {settings['seconds']:g} s each, {settings['body_bytes']}-byte POST. Figures "
        f"are medians of this hour; what counts is the ratio to {settings['reference']} within a round, in brackets "
        "with its spread. Where the spread holds 1 it is a tie.",
    ]
    lines += [f"- skipped: {line}" for line in document.get("skipped", [])]
    return "\n\n".join(lines)


def _closed(title: str, rounds: Rounds, figure: str, reference: str) -> str:
    counts = sorted({one["connections"] for one in rounds})
    names = sorted({one["gateway"] for one in rounds}, key=order)
    rows = [[name, *(_cell(rounds, name, count, figure, reference) for count in counts)] for name in names]
    return f"## {title}\n\n" + table(["gateway", *(f"{count} conn." for count in counts)], rows)


def _cell(rounds: Rounds, name: str, count: int, figure: str, reference: str) -> str:
    here = [one for one in rounds if one["connections"] == count]
    mine = {one["number"]: one for one in here if one["gateway"] == name}
    if not mine:
        return "-"
    errors = sum(one["errors"] for one in mine.values())
    clean = {number: one[figure] for number, one in mine.items() if one["ok"]}
    if not clean:
        return f"{errors} errors" if errors else "too few answers"
    text = f"{statistics.median(clean.values()):,.0f}"
    theirs = {one["number"]: one[figure] for one in here if one["gateway"] == reference and one["ok"]}
    ratio = ratio_of((clean[number], theirs[number]) for number in clean if number in theirs)
    if ratio is not None and name != reference:
        text += f" [{ratio}]"
    return text + (f" ({errors} errors in other rounds)" if errors else "")


def _latency(lines: Rounds) -> str:
    if not lines:
        return ""
    percentiles = ["p50 ms", "p99 ms", "p99.9 ms"]
    titles = ["gateway", "% of its capacity", "req/s", *percentiles, "p99 to reference", "rounds", "errors"]
    rows = [
        [
            line["gateway"], line["share"], f"{line['rate']:,.0f}",
            *(f"{line[name] / 1000:.1f}" for name in ("p50_us", "p99_us", "p999_us")),
            "{:.2f} ({:.2f}-{:.2f})".format(*line["p99_to_reference"]) if "p99_to_reference" in line else "",
            f"{line['rounds']} of {line['rounds'] + line['left_out']}", line["errors"],
        ]
        for line in sorted(lines, key=lambda line: (line["share"], line["p99_us"]))
    ]  # fmt: skip
    late = max(line["client_lag_p99_us"] for line in lines) / 1000
    return (
        "## Latency, open loop, from the intended start\n\n" + table(titles, rows)
        + f"\n\nThe client itself was late by at most {late:.1f} ms (p99 of its worst round). Rounds in which that was "
        f"more than {LAG_SHARE_MAX:.0%} of the p99 that it found do not count."
    )  # fmt: skip


def _rest(rest: Mapping[str, Mapping[str, float]]) -> str:
    if not rest:
        return ""
    rows = [
        [name, *(f"{figures[one]:.1f}" for one in ("rss_mb", "pss_mb", "largest_rss_mb"))]
        for name, figures in rest.items()
    ]
    titles = ["gateway", "RSS of all processes, MB", "PSS, MB", "largest process, RSS MB"]
    return "## Memory at rest\n\n" + table(titles, rows)


def _parked(lines: Rounds) -> str:
    if not lines:
        return ""
    titles = ["gateway", "HTTP", "parked", "CPU of the others, to few parked", "kB a parked request", "errors"]
    rows = [
        [
            line["gateway"], line["http"], f"{line['parked']:,}", "{:.2f} ({:.2f}-{:.2f})".format(*line["cpu_ratio"]),
            line["kb_a_parked_request"], line["errors"] + line["unexpected"],
        ]
        for line in lines
    ]  # fmt: skip
    return "## Parked requests\n\n" + table(titles, rows)


def _targets(document: Mapping[str, Any]) -> str:
    rows = targets.verdicts(document)
    return "## Targets\n\n" + table(["target", "ratio", "measured (spread)", "verdict"], rows)


def _settings(document: Mapping[str, Any]) -> str:
    versions = document["versions"]
    rows = [[name, versions.get(name, ""), text] for name, text in document["peers"].items()]
    return "## Peers\n\n" + table(["peer", "made of", "settings"], rows) if rows else ""
