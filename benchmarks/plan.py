"""Which points, steps and variants a run measures, from its command-line options."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmarks.measure import Effort
from benchmarks.peers import PEERS
from benchmarks.points import Point
from benchmarks.variants import default_variants, fast_variants
from benchmarks.workload import STEPS

AXES = {
    "num_ops": ("K, parallel operations", "1,2,4,6,8,12,16,32"),
    "num_steps": ("T, reasoning steps", "9"),
    "window": ("W, lookback window", "2"),
    "visual_tokens": ("N, visual tokens", "196"),
    "language_tokens": ("L, language tokens", "24"),
    "batch": ("B, batch size", "8"),
    "dim": ("D, model width", "512"),
    "reduction": ("r, the visual keys have width D / r", "2"),
    "dtype": ("float32, bfloat16, float16, float64, amp-bfloat16 or amp-float16", "float32"),
    "dropout": ("off, or on in training steps at the default rates", "off"),
    "threads": ("CPU threads", str(os.cpu_count() or 1)),
}
"""Each axis of the sweep: its help and its default values. Every combination of values is a point."""
GROWTH = {
    "num_ops": (1, 4, 16, 64),
    "num_steps": (1, 2, 4, 8, 16),
    "window": (0, 2, 8),
    "visual_tokens": (16, 64, 256, 1024, 4096),
    "reduction": (1, 2, 4),
    "batch": (1, 4, 16, 64),
}
"""By `--growth` each of these axes is walked alone, from sizes that the reference can hold at their ends."""
GROWN_FROM = {"num_ops": 4, "num_steps": 4, "window": 2, "visual_tokens": 64, "batch": 2, "dim": 256, "reduction": 2}
TITLE = "sweeps over the mechanism's sizes (comma-separated lists)"
MEASURED = (*STEPS, "memory")
SHORT_OPS, HEADLINE_OPS, GROWN_OPS = "1,6,16", "6", 32


@dataclass(frozen=True)
class Case:
    """One row of the results."""

    point: Point
    measured: str  # "forward", "training" or "memory"
    variant: str

    @property
    def test(self) -> str:
        """The test that measures it."""
        return "test_memory" if self.measured == "memory" else "test_latency"

    @property
    def label(self) -> str:
        return f"{self.measured}-{self.point.label}-{self.variant}"


def add_options(add: Callable) -> None:
    """The sweep's options, by the `addoption` of a group of pytest's parser, or the `add_argument` of argparse's."""
    for axis, (help_text, default) in AXES.items():
        flag = "--" + axis.replace("_", "-")
        add(flag, dest=f"iprm_{axis}", metavar="LIST", help=f"{help_text}; default {default}")
    add("--device", dest="iprm_device", help="cpu or cuda; default cuda where there is one")
    add("--variants", dest="iprm_variants", metavar="LIST", help="default: all that can run")
    add("--growth", dest="iprm_growth", action="store_true", help="one axis at a time, see python -m benchmarks.growth")
    add("--peers", dest="iprm_peers", action="store_true", help="also what one might take in IPRM's place")
    add("--measured", dest="iprm_measured", default=",".join(MEASURED), metavar="LIST")
    add("--rounds", dest="iprm_rounds", type=int, default=7, help="fewest timed rounds")
    add("--seconds", dest="iprm_seconds", type=float, help="time for a point's rounds; default 20, short 5")
    add("--short", dest="iprm_short", action="store_true", help="K = 1, 6, 16; no torch.compile, no eager")
    add(
        "--headline",
        dest="iprm_headline",
        action="store_true",
        help="K = 6 with torch.compile, and the memory of K = 32 without",
    )


def effort_of(options, step: str) -> Effort:
    """The rounds of a step; in the short form a slow training step may have fewer."""
    seconds = options.iprm_seconds or (5.0 if options.iprm_short else 20.0)
    hurried = {"patience": 30.0} if options.iprm_short and step == "training" else {}
    return Effort(fewest=options.iprm_rounds, seconds=seconds, **hurried)


def _values(options, axis: str) -> list:
    """The values of an axis, in the type of the field of Point."""
    default = AXES[axis][1]
    if options.iprm_growth and axis in GROWN_FROM:
        default = str(GROWN_FROM[axis])
    if axis == "num_ops" and (options.iprm_short or options.iprm_headline):
        default = SHORT_OPS if options.iprm_short else HEADLINE_OPS
    values = (getattr(options, f"iprm_{axis}") or default).split(",")
    if axis == "dtype":
        return values
    if axis == "dropout":
        return [{"off": False, "on": True}[value] for value in values]
    return [int(value) for value in values]


def points_of(options) -> list[Point]:
    """Every combination of the axes' values; or with `--growth` those of one axis at a time."""
    device = options.iprm_device or ("cuda" if torch.cuda.is_available() else "cpu")
    lists = [_values(options, axis) for axis in AXES]
    points = [Point(**dict(zip(AXES, values, strict=True)), device=device) for values in itertools.product(*lists)]
    if not options.iprm_growth:
        return points
    grown = (
        dataclasses.replace(point, **GROWN_FROM | {axis: value})
        for point in points
        for axis, values in GROWTH.items()
        for value in values
    )
    return list(dict.fromkeys(grown))


def variants_of(options, point: Point) -> list[str]:
    if options.iprm_variants:
        return options.iprm_variants.split(",")
    variants = short_variants(point) if options.iprm_short else default_variants(point)
    return [*variants, *(PEERS if options.iprm_peers else ())]


def short_variants(point: Point) -> list[str]:
    """What the short benchmark compares at the point."""
    variants = default_variants(point, compiled=False)
    fallback = "fast[eager]"  # slow, and only of interest where nothing else runs
    return [name for name in variants if name != fallback or fast_variants(point)[0] == fallback]


def cases_of(options) -> Iterator[Case]:
    """All that is to be measured, a point at a time, so that its variants are interleaved."""
    for point in points_of(options):
        for measured in options.iprm_measured.split(","):
            for variant in variants_of(options, point):
                yield Case(point, measured, variant)
        if options.iprm_headline and "memory" in options.iprm_measured:
            grown = Point(**point.as_dict() | {"num_ops": GROWN_OPS})
            for variant in fast_variants(grown)[:1]:
                yield Case(grown, "memory", variant)
