"""From pytest-benchmark's JSON to a page: `python -m benchmarks.report results/benchmark.json`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import goals as goals_module
from benchmarks.plan import AXES
from benchmarks.plots import draw_group
from benchmarks.records import grouped, load, loads
from benchmarks.tables import page


def write(source: Path, folder: Path, over: str = "num_ops") -> tuple[Path, bool]:
    """Write `benchmark.md` and its plots.

    Args:
        source: the JSON.  folder: made where it is missing.  over: the axis that tables and plots run over.
    Returns:
        the page, and whether all goals that it could check are met.
    Raises:
        ValueError: the file holds no record of these sweeps.
    """
    records = load(source)
    if not records:
        raise ValueError(f"{source}: expected results of `pytest benchmarks`, found none")
    folder.mkdir(parents=True, exist_ok=True)
    groups = grouped(records, over)
    plots = {}
    for index, (point, group) in enumerate(groups.items(), 1):
        suffix = f"-{index}" if len(groups) > 1 else ""
        plots[point] = draw_group(group, point, over, folder, suffix)
    goals = goals_module.goals_of(records)
    target = folder / "benchmark.md"
    target.write_text(page(records, over, loads(source), goals_module.goals_table(goals), plots))
    return target, all(goal.met for found in goals.values() for goal in found)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", type=Path, help="what pytest wrote to --benchmark-json")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the page and plots")
    parser.add_argument("--over", choices=list(AXES), default="num_ops", help="axis of tables and plots")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    options = parser.parse_args(arguments)
    target, met = write(options.json, options.out, options.over)
    print(target)
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
