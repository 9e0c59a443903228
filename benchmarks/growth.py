"""How cost grows with each size: `pytest benchmarks --growth`, then `python -m benchmarks.growth`.

Along an axis, the others held, the time or memory of a variant is fitted as c · size^p by least squares of logarithms:
p = 1 where twice the size costs twice as much; small sizes, where the size decides less, count as well. Beside the
measured memory of a fused training step stands what `iprm_kernels.memory_estimate` says. `make bench-growth` makes
these tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.plan import GROWN_FROM, GROWTH
from benchmarks.records import MEASURED, Record, load, loads, variants_in
from benchmarks.tables import HEADS, SYMBOLS, UNITS, aligned_table, conditions_list, number, sizes
from benchmarks.variants import fast_options
from iprm import fast


def along(records: Iterable[Record], axis: str, measured: str, variant: str) -> list[Record]:
    """The records of a variant on an axis, by size."""
    rest = {name: value for name, value in GROWN_FROM.items() if name != axis}
    found = (
        r
        for r in records
        if (r.measured, r.variant) == (measured, variant)
        and r.value
        and all(getattr(r.point, name) == value for name, value in rest.items())
    )
    return sorted(found, key=lambda r: getattr(r.point, axis))


def exponent(line: list[Record], axis: str) -> float | None:
    """p of cost ~ size^p; None of fewer than three sizes, zero among which is left out."""
    points = [(getattr(r.point, axis), r.value) for r in line if getattr(r.point, axis) and r.value]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def estimate(record: Record) -> int | None:
    """The bytes that a training step of a fused variant is estimated to take; None of other variants."""
    options, point = fast_options(record.variant), record.point
    if options is None or options.pop("cuda_graph"):
        return None
    with torch.device("meta"):
        module = fast.IPRM(point.config, **options).to(point.stored_dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(point.threads)
    try:
        return module.memory_estimate(point.batch, point.language_tokens, point.visual_tokens).training
    finally:
        torch.set_num_threads(threads)


def axis_table(records: list[Record], axis: str, measured: str) -> str | None:
    """A row a variant: what it costs at each size, and the exponent. None where the axis was not walked."""
    lines = {variant: along(records, axis, measured, variant) for variant in variants_in(records)}
    values = sorted({getattr(r.point, axis) for line in lines.values() for r in line})
    if len(values) < 2:
        return None
    rows = []
    for variant, line in lines.items():
        if not line:
            continue
        found = {getattr(r.point, axis): r for r in line}
        p = exponent(line, axis)
        cells = [number(found[value].value * UNITS[measured]) if value in found else "" for value in values]
        rows.append([HEADS[measured], f"`{variant}`", *cells, "" if p is None else f"{p:.2f}"])
        estimates = {value: estimate(r) for value, r in found.items()} if measured == "memory" else {}
        if any(estimates.values()):
            cells = [f"{estimates[value] / found[value].value:.2f}x" if value in found else "" for value in values]
            rows.append(["estimated / measured", f"`{variant}`", *cells, ""])
    return aligned_table(["", "variant", *(f"{SYMBOLS[axis]} = {value}" for value in values), "exponent"], rows)


def page(records: list[Record], load: tuple[float, float] | None) -> str:
    """The report."""
    parts = ["# How cost grows", conditions_list(records, load), (__doc__ or "").split("\n\n", 1)[1].strip()]
    for axis in GROWTH:
        base = dataclasses.replace(records[0].point, **GROWN_FROM)
        tables = [axis_table(records, axis, measured) for measured in MEASURED]
        if any(tables):
            parts += [f"## {SYMBOLS[axis]}, at {sizes(base, axis)}", *filter(None, tables)]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "json", type=Path, nargs="?", default=Path("results/benchmark.json"),
        help="what pytest wrote to --benchmark-json; default %(default)s",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/growth.md"), help="the page; default %(default)s")
    options = parser.parse_args(arguments)
    try:
        records = load(options.json)
        if not records:
            raise ValueError("none")
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {options.json}: expected results of `pytest benchmarks --growth`, got {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(records, loads(options.json)))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
