"""The plots of the report: latency and memory over one axis of the sweep."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.peers import PEERS
from benchmarks.points import Point
from benchmarks.records import MEASURED, Record, unique, variants_in
from benchmarks.tables import SYMBOLS, UNITS, number, sizes
from benchmarks.variants import COMPILED

TITLES = {
    "forward": "Forward pass",
    "training": "Training step",
    "memory": "Extra memory of a training step",
}
AXIS_LABELS = {"forward": "milliseconds", "training": "milliseconds", "memory": "megabytes"}
NAMES = {"num_ops": "parallel operations", "num_steps": "reasoning steps", "window": "lookback window"} | {
    "visual_tokens": "visual tokens", "language_tokens": "language tokens", "batch": "batch size",
    "dim": "width", "reduction": "reduction", "threads": "threads",
}  # fmt: skip
PLAIN = {"reference": "#7f7f7f", "algebra": "#d98032"}
FUSED = ("#1f5fa8", "#2a9d8f", "#8e4585", "#c0392b")
OTHERS = ("#b39b3e", "#a5673f", "#5b7f6b", "#7d6fa6")
"""Of other mechanisms."""
MARKERS = ("o", "s", "^", "D", "v", "P")


def _style(variant: str, fused: list[str]) -> dict:
    """Colour by what it is, dashed where compiled, heavier where fused."""
    base = variant.removesuffix(COMPILED)
    style = {"linestyle": "--" if variant.endswith(COMPILED) else "-", "linewidth": 1.6, "markersize": 5}
    if base in PLAIN:
        return style | {"color": PLAIN[base], "marker": "o" if base == "reference" else "s"}
    if base in PEERS:
        return style | {"color": OTHERS[list(PEERS).index(base) % len(OTHERS)], "marker": "x", "linewidth": 1.2}
    index = fused.index(base)
    weight = {"linewidth": 2.4, "markersize": 6, "zorder": 3}
    return style | weight | {"color": FUSED[index % len(FUSED)], "marker": MARKERS[2 + index % 4]}


def _logarithmic(axes, ticks: list[float]) -> None:
    """Both axes logarithmic, with plain numbers, and ticks where something was measured."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = axes.get_ylim()
    span = high / low
    steps = (1,) if span > 1000 else (1, 2, 5) if span > 8 else (1, 1.5, 2, 3, 4, 5, 7)
    decades = [step * 10.0**exponent for exponent in range(-6, 9) for step in steps]
    axes.set_yticks([tick for tick in decades if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _label_ends(axes, ends: list[tuple[float, float, str]]) -> None:
    """The last value of each line beside its end (x, y, colour), moved apart where they would overlap."""
    gap, lowest = 11.0, float("-inf")  # points
    for x, y, colour in sorted(ends, key=lambda end: end[1]):
        at = axes.transData.transform((x, y))[1] * 72 / axes.figure.dpi
        lowest = max(at, lowest + gap)
        axes.annotate(
            number(y),
            (x, y),
            xytext=(8, lowest - at),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
        )


def _head(axes, title: str, lines: list[str]) -> None:
    """The title, and under it what was held fixed."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=14 + 12 * len(lines))
    note = "\n".join(lines)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=8.5, color="#555555", va="bottom")


def draw(records: list[Record], point: Point, measured: str, over: str, path: Path) -> None:
    """One plot: a line for each variant.

    Args:
        records: of one group.  point: what they have in common.  measured: "forward", "training" or "memory".
        over: the axis.  path: of the PNG.
    """
    shown = [record for record in records if record.measured == measured and record.value]
    variants = variants_in(shown)
    fused = list(dict.fromkeys(v.removesuffix(COMPILED) for v in variants if v.startswith("fast[")))
    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    axes.margins(x=0.08)
    ends = []
    for variant in variants:
        line = sorted((getattr(r.point, over), r.value * UNITS[measured]) for r in shown if r.variant == variant)
        style = _style(variant, fused)
        axes.plot(*zip(*line, strict=True), label=variant, **style)
        ends.append((*line[-1], style["color"]))
    _logarithmic(axes, sorted({getattr(record.point, over) for record in shown}))
    symbol, name = SYMBOLS.get(over, over), NAMES.get(over, over)
    axes.set_xlabel(name if symbol == over else f"{name} {symbol}")
    axes.set_ylabel(AXIS_LABELS[measured])
    _head(axes, TITLES[measured], [sizes(point, over), unique(r.device for r in shown)])
    axes.grid(True, color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9.5)
    figure.draw_without_rendering()  # places the axes, which the labels are measured in
    _label_ends(axes, ends)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_group(records: list[Record], point: Point, over: str, folder: Path, suffix: str) -> list[str]:
    """All plots of one group that have something to show; their file names."""
    names = []
    for measured in MEASURED:
        found = [record for record in records if record.measured == measured and record.value]
        if found and isinstance(getattr(point, over), int) and over != "dropout":
            names.append(f"{measured}{suffix}.png")
            draw(records, point, measured, over, folder / names[-1])
    return names
