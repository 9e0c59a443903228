"""The goals of the fused kernels at K = 6, and whether a run meets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.plan import GROWN_OPS
from benchmarks.points import Point
from benchmarks.records import Record, best_compiled, find, ratio

OPS = 6
AT_LEAST = {
    ("forward", "reference"): 2.2,
    ("forward", "compiled"): 1.2,
    ("training", "reference"): 1.8,
    ("training", "compiled"): 1.0,
    ("memory", "reference"): 10.0,
}
GROWTH_BELOW = 4.0
WORDS = {
    "forward": "forward, times faster",
    "training": "training, times faster",
    "memory": "memory, times smaller",
}


@dataclass(frozen=True)
class Goal:
    """One goal and what was measured for it."""

    text: str
    wanted: str
    measured: float
    met: bool


def _ratios(records: list[Record], point: Point, variant: str) -> Iterator[Goal]:
    for (measured, against), least in AT_LEAST.items():
        if against == "reference":
            baseline = find(records, point, measured, "reference")
        else:
            baseline = best_compiled(records, point, measured)
        found = ratio(baseline, find(records, point, measured, variant))
        if found is not None:
            name = "the reference" if against == "reference" else f"`{baseline.variant}`"
            yield Goal(f"{WORDS[measured]} than {name}", f">= {least:g}", found, found >= least)


def _growth(records: list[Record], point: Point, variant: str) -> Iterator[Goal]:
    grown = Point(**point.as_dict() | {"num_ops": GROWN_OPS})
    found = ratio(find(records, grown, "memory", variant), find(records, point, "memory", variant))
    if found is not None:
        text = f"memory, growth from K = {OPS} to {GROWN_OPS}"
        yield Goal(text, f"< {GROWTH_BELOW:g}", found, found < GROWTH_BELOW)


def goals_of(records: list[Record]) -> dict[tuple[Point, str], list[Goal]]:
    """For each point with K = 6, the goals that can be checked there, for the backend that comes first.

    Only where torch.compile was measured too: a goal against a missing baseline would be met too easily.
    """
    found = {}
    for point in dict.fromkeys(r.point for r in records if r.point.num_ops == OPS):
        here = [record for record in records if record.point == point]
        variant = next((record.variant for record in here if record.fused), None)
        if variant and any(record.compiled_baseline for record in here):
            found[point, variant] = [
                *_ratios(records, point, variant),
                *_growth(records, point, variant),
            ]
    return found


def goals_table(goals: dict[tuple[Point, str], list[Goal]]) -> str:
    """The goals in Markdown; empty where there are none."""
    parts = []
    for (_, variant), found in goals.items():
        rows = [
            f"| {goal.text} | {goal.wanted} | {goal.measured:.2f} | {'yes' if goal.met else '**no**'} |"
            for goal in found
        ]
        head = [f"| `{variant}`, K = {OPS} | goal | measured | met |", "| :-- | --: | --: | :-- |"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n" if parts else ""
