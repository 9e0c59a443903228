"""What a forward and a training step ask of a GPU, and the host's time to ask: no GPU is needed.

    python -m benchmarks.launches
    python -m benchmarks.launches --variants "fast[triton],fast[cuda]" --batch 1 --by-name 10

A stub stands in for the device (see benchmarks.stub_cuda): launches are counted, and nothing runs.
So the host time is that of Python, of PyTorch and of Triton's launcher, without the driver's own. A
product of cuBLAS counts as one launch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from benchmarks import stub_cuda
from benchmarks.conditions import cpu_model, version
from benchmarks.operators import forget, operators
from benchmarks.points import DTYPES, Point
from benchmarks.tables import SYMBOLS, sizes
from benchmarks.variants import unusable
from benchmarks.workload import STEPS, Workload

VARIANTS = "reference,fast[triton],fast[triton]+graph,fast[cuda],fast[cuda]+graph,fast[eager]"
POINT = Point(batch=64, device="cuda", dropout=True)
ROUNDS = 11
WARM_UP = 3
WIDTH = 120  # of a kernel's name


class Asked(NamedTuple):
    """What one run asked of the device, and the median of the rounds in seconds."""

    counts: stub_cuda.Counts
    seconds: float


def ask(workload: Workload, rounds: int = ROUNDS) -> Asked:
    """Run it so often after some rounds of warm-up, each time from no gradients; the counts are the last round's."""
    seconds = []
    for _ in range(WARM_UP + rounds):
        forget(workload)
        stub_cuda.reset()
        start = time.perf_counter()
        workload()
        seconds.append(time.perf_counter() - start)
    return Asked(stub_cuda.counts(), median(seconds[WARM_UP:]))


HEAD = ("launches", "memory operations", "synchronisations", "allocations", "host ms", "operators")


def row(name: str, step: str, cells: Sequence[str]) -> str:
    """One line, as wide as HEAD."""
    aligned = (f"{cell:>{len(head)}}" for cell, head in zip(cells, HEAD, strict=False))
    return "  ".join([f"{name:<18}", f"{step:<8}", *aligned])


def figures(asked: Asked) -> list[str]:
    """The cells of a row, less that of the operators."""
    counts = asked.counts
    memory = counts.copies.total() + counts.sets.total()
    whole = (counts.launches.total(), memory, counts.waits.total(), counts.memory["allocate"])
    return [*map(str, whole), f"{1e3 * asked.seconds:.1f}"]


def names(counts: stub_cuda.Counts, most: int) -> list[str]:
    """Lines of the kernels that are launched most, and of all else."""
    rest = counts.copies + counts.sets + counts.waits
    named = [*counts.launches.most_common(most), *rest.most_common()]
    return [f"{number:>36}  {name if len(name) <= WIDTH else name[:WIDTH] + '…'}" for name, number in named]


def conditions(point: Point, rounds: int) -> str:
    """Under which the figures hold."""
    versions = f"torch {torch.__version__}, triton {version('triton') or 'not installed'}, CUDA {torch.version.cuda}"
    return (
        f"{sizes(point, over='')}\n"
        f"no device: a stub driver counts launches and runs nothing; products of cuBLAS count as one launch each\n"
        f"host: {cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {rounds} rounds,"
        f" without the time of a driver; {versions}"
    )


def table(options: argparse.Namespace, point: Point) -> None:
    """Print it; to be called where the stub is loaded."""
    print(conditions(point, options.rounds))
    print(row("variant", "", HEAD if options.operators else HEAD[:-1]))
    for variant in options.variants.split(","):
        if reason := unusable(variant, point):
            print(f"{variant:<18}  {reason}")
            continue
        for step in STEPS:
            workload = Workload(variant, point, step)
            asked = ask(workload, options.rounds)
            called = [str(operators(workload).total())] if options.operators else []
            print(row(variant, step, [*figures(asked), *called]), flush=True)
            if options.by_name:
                print("\n".join(names(asked.counts, options.by_name)))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variants", default=VARIANTS, help="of benchmarks.variants, joined by commas; default %(default)s"
    )
    for name, symbol in SYMBOLS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(POINT, name), metavar=symbol, help="default %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default=POINT.dtype, help="default %(default)s")
    parser.add_argument(
        "--dropout", action=argparse.BooleanOptionalAction, default=POINT.dropout, help="default %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that are counted; default %(default)s")
    parser.add_argument("--by-name", type=int, default=0, metavar="N", help="the N kernels that are launched most")
    parser.add_argument("--operators", action="store_true", help="count the operators called, too")
    return parser


def main(given: Sequence[str]) -> int:
    """Print the table, in a process that has the stub."""
    options = arguments().parse_args(given)
    if stub_cuda.loaded():
        table(options, Point(device="cuda", **{n: getattr(options, n) for n in (*SYMBOLS, "dtype", "dropout")}))
        sys.stdout.flush()
        os._exit(0)  # in order, Python would end by abort where a thread of autograd still waits for it
    if reason := stub_cuda.obstacle():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        environment = stub_cuda.environment(stub_cuda.build(Path(folder)))
        return subprocess.run([sys.executable, "-m", "benchmarks.launches", *given], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
