"""From pytest-benchmark's JSON to a page: `python -m benchmarks.report results/benchmark.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.plan import AXES
from benchmarks.records import grouped, load, loads
from benchmarks.tables import page
from iprm_kernels.extras import extra

with extra("bench", __name__):
    from benchmarks.plots import draw_group


def write(source: Path, folder: Path, over: str = "num_ops", training: Path | None = None) -> Path:
    """Write `benchmark.md` and its plots.

    Args:
        source: the JSON.  folder: made where it is missing.  over: the axis that tables and plots run over.
        training: the record of the side-by-side training, shown beside; None for none.
    Returns:
        the page.
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
    trained = json.loads(training.read_text()) if training else None
    target = folder / "benchmark.md"
    target.write_text(page(records, over, loads(source), trained, plots))
    return target


OVER = f"axis of tables and plots: {', '.join(AXES)}; default %(default)s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", type=Path, help="what pytest wrote to --benchmark-json")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of the page and plots; default %(default)s"
    )
    parser.add_argument("--over", choices=list(AXES), default="num_ops", metavar="AXIS", help=OVER)
    parser.add_argument("--training", type=Path, help="record of the side-by-side training; default train.json beside")
    options = parser.parse_args(arguments)
    beside = options.json.with_name("train.json")
    training = options.training or (beside if beside.exists() else None)
    print(write(options.json, options.out, options.over, training))
    return 0


if __name__ == "__main__":
    sys.exit(main())
