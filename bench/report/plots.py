"""The plots of a result file, as PNG. Every gateway keeps its colour in every plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only: no display is asked for
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

# By name, so that a gateway looks the same whoever else takes part. fastgw's variants share a hue.
COLOURS = {
    "fastgw": "#08519c",
    "fastgw-granian": "#3182bd",
    "fastgw-public": "#7fb1d9",
    "go": "#1b8a5a",
    "spring": "#d9660f",
    "quarkus": "#b8860b",
    "aiokafka": "#8c4a9e",
    "nest": "#c2185b",
    "faststream": "#6d6d6d",
}
OTHER = "#333333"
DPI = 130


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=DPI)
    plt.close(figure)


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _plain_log(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, written as numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def closed(rounds: Sequence[Mapping[str, Any]], figure: str, title: str, file: Path) -> None:
    """A figure of the closed-loop rounds: a panel for each number of connections, a dot for each gateway's median.

    The line through a dot goes from the smallest to the largest round.
    """
    rounds = [one for one in rounds if one["ok"]]
    counts = sorted({one["connections"] for one in rounds})
    names = _by_median(rounds, figure)
    canvas, panels = plt.subplots(
        1,
        len(counts),
        figsize=(3.2 * len(counts) + 1.4, 0.42 * len(names) + 1.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, count in zip(panels[0], counts, strict=True):
        for row, name in enumerate(names):
            values = sorted(one[figure] for one in rounds if (one["gateway"], one["connections"]) == (name, count))
            if not values:
                continue
            colour, middle = COLOURS.get(name, OTHER), statistics.median(values)
            axes.plot([values[0], values[-1]], [row, row], color=colour, linewidth=2, alpha=0.45)
            axes.plot(middle, row, "o", color=colour, markersize=7)
            axes.annotate(f"{middle:,.0f}", (middle, row), (0, 7), textcoords="offset points", ha="center", fontsize=7)
        axes.set_xscale("log")
        axes.margins(x=0.12)
        _plain_log(axes.xaxis)
        axes.set_title(f"{count} connection{'s' if count > 1 else ''}", fontsize=9)
        axes.tick_params(labelsize=7)
        _quiet(axes)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0][0].set_ylim(-0.6, len(names) - 0.2)
    canvas.suptitle(title, fontsize=11)
    _save(canvas, file)


def _by_median(rounds: Sequence[Mapping[str, Any]], figure: str) -> list[str]:
    found: dict[str, list[float]] = {}
    for one in rounds:
        found.setdefault(one["gateway"], []).append(one[figure])
    # Cheap ones on top where less is better: the axis grows upwards.
    return sorted(found, key=lambda name: statistics.median(found[name]), reverse=figure != "rps")


def latency(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Latency against offered load: a panel for each percentile, a line for each gateway."""
    wanted = (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9"))
    canvas, panels = plt.subplots(1, len(wanted), figsize=(13, 4.4), sharex=True, sharey=True, squeeze=False)
    for axes, (figure, title) in zip(panels[0], wanted, strict=True):
        for name in dict.fromkeys(line["gateway"] for line in lines):
            mine = sorted((line["rate"], line[figure] / 1000) for line in lines if line["gateway"] == name)
            colour = COLOURS.get(name, OTHER)
            axes.plot(*zip(*mine, strict=True), "o-", color=colour, linewidth=2, markersize=4, label=name)
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("offered load, requests a second", fontsize=9)
        _quiet(axes)
    panels[0][0].set_ylabel("ms from the intended start", fontsize=9)
    panels[0][-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    canvas.suptitle("Latency, open loop, at shares of each gateway's own capacity", fontsize=11)
    _save(canvas, file)


def growth(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One growth curve: CPU a request against what grows, as a ratio to the first value; for ids, microseconds."""
    canvas, axes = plt.subplots(figsize=(6.4, 4))
    if "us" in lines[0]:
        for partitioner in dict.fromkeys(line["partitioner"] for line in lines):
            mine = [(line["value"], line["us"]) for line in lines if line["partitioner"] == partitioner]
            axes.plot(*zip(*mine, strict=True), "o-", linewidth=2, label=f"partitioner {partitioner}")
        axes.set_yscale("log")
        axes.set_ylabel("us an id")
        axes.legend(frameon=False)
    else:
        spreads = [(line["value"], *line["gateway_cpu_us_ratio"]) for line in lines if "gateway_cpu_us_ratio" in line]
        if not spreads:  # every round had errors, which the lines say
            plt.close(canvas)
            return
        values, medians, lows, highs = zip(*spreads, strict=True)
        axes.fill_between(values, lows, highs, color=COLOURS["fastgw"], alpha=0.2, linewidth=0)
        axes.plot(values, medians, "o-", color=COLOURS["fastgw"], linewidth=2)
        axes.axhline(1, color="#999999", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"gateway CPU a request, times that with {lines[0]['value']:g}")
    linear = min(line["value"] for line in lines) <= 0 or len(lines) < 3
    axes.set_xscale("symlog" if linear else "log")
    axes.set_xlabel(lines[0]["text"])
    _quiet(axes)
    _save(canvas, file)
