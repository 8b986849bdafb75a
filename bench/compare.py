"""Has a change made anything slower? Compares two result files of the same kind, before and after.

    python -m bench.compare before.json after.json              # micro-benchmarks (make micro)
    python -m bench.compare bench/results/A bench/results/B     # suites or growth curves

Micro-benchmarks: slower means that both the minimum and the median grew by more than --threshold percent. Suites and
growth: absolute figures of two hours cannot be compared, so it is the ratios to the reference (or to the first value)
that are; slower means that the whole spread lies above the other's, and the median by more than --threshold percent.
Exit status 0: nothing is slower; 1: something is; 2: the files cannot be compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import result
from bench.rig.commands import run
from bench.rig.processes import BenchError
from bench.rig.rounds import ratio_of

SLOWER, FASTER, SAME, UNSURE, NEW, GONE = "SLOWER", "faster", "same", "unsure", "new", "gone"
UNUSABLE = 2
LESS_IS_BETTER = ("gateway_cpu_us", "broker_cpu_us", "p50_us")


@dataclass(frozen=True)
class Figure:
    """One figure of one file: its middle and how far it may be trusted. Less is better."""

    middle: float
    low: float
    high: float
    unit: str

    @property
    def has_spread(self) -> bool:
        """False for a ratio of one round, of which nobody knows how far it may be trusted."""
        return not self.unit.startswith("x ") or self.low < self.high


def figures_of(path: Path) -> dict[str, Figure]:
    """Every figure of a file by name.

    Raises:
        BenchError: it is neither a result file nor one of pytest-benchmark.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{file}: {error}") from None
    if isinstance(document, dict) and "benchmarks" in document:
        return dict(_micro(document))
    return dict(_measured(result.load(file)))


def _micro(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for one in document["benchmarks"]:
        stats = one["stats"]
        yield one["fullname"], Figure(stats["median"] * 1e9, stats["min"] * 1e9, stats["median"] * 1e9, "ns")


def _measured(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    reference = document["settings"].get("reference", "")
    yield from _closed(document.get("closed_loop", []), reference)
    for line in document.get("latency", []):
        if line["gateway"].startswith("fastgw") and "p99_to_reference" in line:
            name = f"p99 of {line['gateway']} at {line['share']} % to {reference}"
            yield name, _spread(line["p99_to_reference"], f"x {reference}")
    for line in document.get("parked", []):
        if line["gateway"].startswith("fastgw"):
            name = f"{line['gateway']}, {line['parked']} parked over HTTP/{line['http']}"
            yield f"{name}: CPU", _spread(line["cpu_ratio"], "x few")
            kilobytes = line["kb_a_parked_request"]
            yield f"{name}: memory", Figure(kilobytes, kilobytes, kilobytes, "kB")
    for line in document.get("growth", []):
        name = f"{line['question']} {line['value']:g}"
        if "connections" in line:
            name += f" at {line['connections']} connections"
        if "us" in line:
            yield f"{name} {line['partitioner']}", Figure(line["us"], line["us"], line["us"], "us")
        elif "gateway_cpu_us_ratio" in line:
            yield name, _spread(line["gateway_cpu_us_ratio"], "x first")


def _closed(rounds: list[dict[str, Any]], reference: str) -> Iterator[tuple[str, Figure]]:
    clean = [one for one in rounds if one["ok"]]
    by_place = {(one["gateway"], one["connections"], one["number"]): one for one in clean}
    places = sorted({(one["gateway"], one["connections"]) for one in clean if one["gateway"].startswith("fastgw")})
    for gateway, count in places:
        numbers = [number for name, at, number in by_place if (name, at) == (reference, count)]
        pairs = [
            (by_place[gateway, count, number], by_place[reference, count, number])
            for number in sorted(numbers)
            if (gateway, count, number) in by_place
        ]
        for figure in (*LESS_IS_BETTER, "rps"):
            # Turned round where more is better, so that less is better everywhere.
            turned = figure == "rps"
            values = [
                (theirs[figure], mine[figure]) if turned else (mine[figure], theirs[figure]) for mine, theirs in pairs
            ]
            if ratio := ratio_of(values):
                name = "time a request" if turned else figure
                yield f"{gateway} {name} at {count} to {reference}", _spread(ratio.rounded, f"x {reference}")


def _spread(ratio: list[float], unit: str) -> Figure:
    median, low, high = ratio
    return Figure(median, low, high, unit)


def judge(before: Figure, after: Figure, threshold: float) -> str:
    """SLOWER, FASTER, SAME, or UNSURE where one round has no spread; `threshold` as a share."""
    if not (before.has_spread and after.has_spread) and before.middle != after.middle:
        return UNSURE
    if _above(after, before, threshold):
        return SLOWER
    return FASTER if _above(before, after, threshold) else SAME


def _above(one: Figure, other: Figure, threshold: float) -> bool:
    middle_above = one.middle > other.middle * (1 + threshold)
    if one.unit == "ns":  # of a micro-benchmark: `low` is its minimum, which noise can only raise
        return middle_above and one.low > other.low * (1 + threshold)
    return middle_above and one.low > other.high


def compared(
    before: Mapping[str, Figure], after: Mapping[str, Figure], threshold: float
) -> list[tuple[str, str, str, str]]:
    """A row for each figure: verdict, name, before, after; what is slower first."""
    rows = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            rows.append((GONE, name, _shown(before[name]), "-"))
        elif name not in before:
            rows.append((NEW, name, "-", _shown(after[name])))
        else:
            verdict = judge(before[name], after[name], threshold)
            rows.append((verdict, name, _shown(before[name]), _shown(after[name])))
    order = (SLOWER, FASTER, SAME, UNSURE, NEW, GONE)
    return sorted(rows, key=lambda row: order.index(row[0]))


def _shown(figure: Figure) -> str:
    if figure.low == figure.high or figure.unit == "ns":
        return f"{figure.middle:,.4g} {figure.unit}"
    return f"{figure.middle:.2f} ({figure.low:.2f}-{figure.high:.2f}) {figure.unit}"


def main(
    before: Annotated[Path, typer.Argument(help="A result file, or the folder that holds it.")],
    after: Annotated[Path, typer.Argument(help="The same, of the changed version.")],
    threshold: Annotated[float, typer.Option(min=0, help="Percent below which a difference is none.")] = 10.0,
) -> None:
    try:
        old, new = figures_of(before), figures_of(after)
        if not set(old) & set(new):
            raise BenchError(f"{before} and {after} have no figure in common")
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(UNUSABLE)
    rows = compared(old, new, threshold / 100)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    slower = sum(row[0] == SLOWER for row in rows)
    print(f"{slower} of {len(rows)} figures are slower by more than {threshold:g} %")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    run(main, __doc__)
