"""The Markdown of the report."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from benchmarks.points import Point
from benchmarks.records import (
    MEASURED,
    Record,
    best_compiled,
    find,
    grouped,
    ratio,
    unique,
    variants_in,
)
from iprm_kernels.testing import ALLOWED

SYMBOLS = {
    "num_ops": "K",
    "num_steps": "T",
    "window": "W",
    "visual_tokens": "N",
    "language_tokens": "L",
    "batch": "B",
    "dim": "D",
    "reduction": "r",
}
HEADS = {"forward": "forward, ms", "training": "training step, ms", "memory": "step's extra memory, MB"}
UNITS = {"forward": 1e3, "training": 1e3, "memory": 1e-6}


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sizes(point: Point, over: str) -> str:
    """The sizes that a table or plot holds fixed, as one line."""
    parts = [f"{letter} = {getattr(point, name)}" for name, letter in SYMBOLS.items() if name != over]
    parts += [point.dtype] if over != "dtype" else []
    parts += [f"dropout {'on' if point.dropout else 'off'}"] if over != "dropout" else []
    if over != "threads" and point.device == "cpu":
        parts += [f"{point.threads} thread{'s' if point.threads > 1 else ''}"]
    return ", ".join([*parts, point.device])


def aligned_table(head: list[str], rows: Iterable[list[str]]) -> str:
    aligned = [":--" if index < 2 else "--:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, aligned, *rows])


def _cells(records: list[Record], record: Record | None, point: Point, measured: str) -> list[str]:
    """Value, ratio to the reference, ratio to the best of torch.compile."""
    if record is None:
        return ["", "", ""]
    if record.value is None:
        return [f"**{record.status}**", "", ""]
    baselines = find(records, point, measured, "reference"), best_compiled(records, point, measured)
    ratios = [ratio(baseline, record) for baseline in baselines]
    return [number(record.value * UNITS[measured]), *("" if x is None else f"{x:.2f}x" for x in ratios)]


def _row(records: list[Record], point: Point, variant: str, over: str, shown: list[str]) -> list[str]:
    cells = [str(getattr(point, over)), f"`{variant}`"]
    found = [find(records, point, measured, variant) for measured in shown]
    for measured, record in zip(shown, found, strict=True):
        cells += _cells(records, record, point, measured)
    known = [record.error for record in found if record and record.error is not None]
    return [*cells, f"{max(known):.1g}" if known else ""]


def group_table(records: list[Record], over: str) -> str:
    """One table: a row for each value of the axis and variant."""
    shown = [measured for measured in MEASURED if any(r.measured == measured for r in records)]
    head = [SYMBOLS.get(over, over), "variant"]
    for measured in shown:
        head += [HEADS[measured], "vs reference", "vs compiled"]
    points = sorted({record.point for record in records}, key=lambda point: getattr(point, over))
    rows = [
        _row(records, point, variant, over, shown)
        for point in points
        for variant in variants_in(record for record in records if record.point == point)
    ]
    return aligned_table([*head, "error"], rows)


def refused_list(records: list[Record]) -> str:
    """What was not measured, and why."""
    lines = [
        f"- `{r.variant}`, {r.measured}, K = {r.point.num_ops}, {r.point.dtype}: **{r.status}**. {r.message}"
        for r in records
        if r.value is None
    ]
    return "## Not measured\n\n" + "\n".join(lines) + "\n\n" if lines else ""


def conditions_list(records: list[Record], load: tuple[float, float] | None) -> str:
    """What all figures were measured under."""
    names = dict.fromkeys(name for record in records for name, _ in record.context)
    lines = [f"- {name}: {unique(dict(r.context)[name] for r in records if r.context)}" for name in names]
    if load:
        lines.append(f"- Load average during the run: {load[0]} to {load[1]}")
    timed = [record for record in records if record.value and record.quartiles]
    if timed:
        counts, spreads = [r.rounds for r in timed], [(r.quartiles[1] - r.quartiles[0]) / r.value for r in timed]
        lines.append(f"- Times: medians of at least {min(counts)} rounds, variants interleaved")
        lines.append(
            f"- Spread: the middle half of the rounds spans {median(spreads):.0%} of the median (typical case), "
            f"{max(spreads):.0%} (worst case)"
        )
    return "\n".join(lines)


LEGEND = f"""\
Forward: evaluation, no gradients. Training step: forward and backward pass, gradients of all parameters and
of the three inputs. Memory: the peak of a training step above what is there before it, in a fresh process.
"vs reference" and "vs compiled" say how many times faster or smaller than the plain reference and than the
best that `torch.compile` made of PyTorch code (`reference+compile`, `algebra+compile`). Error: of the output or
gradient that is furthest from what rounding must make, against float64, relative to its norm, typical of several draws
of weights and inputs; a variant whose error is typically more than {ALLOWED:g} times that is **wrong** and not timed.
"""


def training_section(record: dict) -> str:
    """The side-by-side training end to end: accuracy, time and memory of both modules."""
    conditions, given, costs = record["conditions"], record["arguments"], record["cost"]
    rows = {
        "validation accuracy, %": [100 * record["accuracy"][variant]["overall"] for variant in costs],
        "mean loss of the last 20 steps": [cost["final_loss"] for cost in costs.values()],
        "seconds of all steps": [cost["seconds"] for cost in costs.values()],
    }
    for name in costs["reference"]["peak_memory"]:
        rows[f"a step's extra memory, {name}, MB"] = [cost["peak_memory"][name] / 1e6 for cost in costs.values()]
    lines = [f"| {' | '.join([name, *map(number, values)])} |" for name, values in rows.items()]
    head = [f"| end to end | {' | '.join(f'`{variant}`' for variant in costs)} |", f"| :-- |{' --: |' * len(costs)}"]
    text = (
        f"{given['steps']} steps of {given['batch_size']} questions, {record['sizes']['val_questions']} to validate; "
        f"{conditions['device_name']}, threads: {conditions['threads']}, {conditions['dtype']}, "
        f"{conditions['kernels']} kernels, torch {conditions['torch']}."
    )
    return "\n".join(["## Training side by side\n", f"{text}\n", *head, *lines]) + "\n"


def page(
    records: list[Record],
    over: str,
    load: tuple[float, float] | None,
    training: dict | None,
    plots: dict[Point, list[str]],
) -> str:
    """The whole report."""
    parts = ["# Benchmarks\n", conditions_list(records, load) + "\n", LEGEND]
    for point, group in grouped(records, over).items():
        pictures = "\n".join(f"![{name}]({name})" for name in plots.get(point, []))
        parts.append(f"## {sizes(point, over)}\n\n{group_table(group, over)}\n")
        parts += [pictures + "\n"] if pictures else []
    if training:
        parts.append(training_section(training))
    return "\n".join([*parts, refused_list(records)]).rstrip() + "\n"
