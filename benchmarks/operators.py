"""How many operators a forward and a training step call, those that other operators call among them.

    python -m benchmarks.operators --variants "reference,fast[cpu]"

Small inputs will do: the number depends on the options and on T, not on the sizes.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.points import Point
from benchmarks.workload import STEPS, Workload

OPERATORS = ("aten::", "iprm::")
SMALL = Point(batch=2, visual_tokens=16, dropout=True)


def forget(workload: Workload) -> None:
    """No gradients, as a training loop begins its step."""
    for leaf in workload.leaves().values():
        leaf.grad = None


def operators(workload: Workload) -> Counter:
    """The operators that one run calls, by name; of autograd's nodes those alone that are operators."""
    forget(workload)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        workload()
    return Counter(event.name for event in seen.events() if event.name.startswith(OPERATORS))


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variants",
        default="reference,fast[cpu]",
        help="of benchmarks.variants, joined by commas; default %(default)s",
    )
    parser.add_argument("--by-name", type=int, default=0, metavar="N", help="the N that are called most")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {SMALL.label}")
    for variant in options.variants.split(","):
        for step in STEPS:
            workload = Workload(variant, SMALL, step)
            workload()
            found = operators(workload)
            print(f"{variant:<16} {step:<9} {found.total():>7} operators")
            for name, number in found.most_common(options.by_name):
                print(f"{'':<26} {number:>7} {name}")


if __name__ == "__main__":
    main()
