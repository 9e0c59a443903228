"""A short sweep, as `pytest benchmarks` measures, without its plugin: python -m benchmarks.card.sweep ENTRIES ...

The variants of a point are judged, and timed in the same rounds; each point's outcomes are noted before the next.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.card.record import AGAIN, BAD, GOOD, LOST, MISSING, STARTED, done, entries, note
from benchmarks.conditions import conditions
from benchmarks.gate import facts
from benchmarks.measure import Effort, Outcome, measure
from benchmarks.memory import usage_in_fresh_process
from benchmarks.plan import MEASURED, Case
from benchmarks.points import Point
from benchmarks.variants import unusable

TINY = Point(num_ops=2, num_steps=1, visual_tokens=9, language_tokens=5, batch=2, dim=16)
POINTS = {
    "cpu": [TINY],
    "cuda": [Point(batch=batch, dtype=dtype, device="cuda") for dtype in ("bfloat16", "float32") for batch in (64, 1)],
}
"""By device. On a card one batch that fills it and one that does not; on the processor what shows the form."""
EFFORT = {"cpu": Effort(fewest=3, most=3, seconds=0.1), "cuda": Effort(fewest=11, most=51, seconds=4.0)}


def statistics_of(samples: list[float]) -> dict[str, Any]:
    """Seconds, under the names of pytest-benchmark."""
    q1, _, q3 = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    extremes = {"min": min(samples), "max": max(samples)}
    return {"median": median(samples), "q1": q1, "q3": q3, "rounds": len(samples), **extremes}


def noted(path: Path, case: Case, outcome: Outcome, gate: dict | None, **more: Any) -> None:
    """The entry of a case: as pytest-benchmark would hold it, or refused."""
    if outcome.status != "ok":
        shown = {"measured": case.measured, "variant": case.variant, "sizes": case.point.as_dict()}
        note(path, case.label, outcome.status, status=outcome.status, message=outcome.message, **shown)
        return
    info = conditions(case.point) | {"measured": case.measured, "variant": case.variant, "gate": gate} | more
    note(path, case.label, GOOD[1], extra_info=info, stats=statistics_of(outcome.samples))


def timed(path: Path, cases: list[Case]) -> list[str]:
    """Measure the cases of a point and step together; what was said of each."""
    point, step = cases[0].point, cases[0].measured
    try:
        outcomes = measure([case.variant for case in cases], point, step, EFFORT[point.device])
    except Exception as error:  # of one variant between judged ones
        outcomes = {case.variant: Outcome(BAD[0], f"{type(error).__name__}: {error}") for case in cases}
    for case in cases:
        outcome = outcomes[case.variant]
        noted(path, case, outcome, outcome.verdict and facts(outcome.verdict))
    return [outcomes[case.variant].message for case in cases]


def weighed(path: Path, cases: list[Case]) -> list[str]:
    """The memory of those whose training step was found right, each in a process of its own."""
    known = entries(path)
    for case in cases:
        training = known.get(Case(case.point, "training", case.variant).label, {})
        if training.get("outcome") != GOOD[1]:
            noted(path, case, Outcome(BAD[0], "its training step was not measured"), None)
            continue
        try:
            usage = usage_in_fresh_process(case.variant, case.point)
        except RuntimeError as error:
            noted(path, case, Outcome(BAD[0], str(error).strip().splitlines()[-1]), None)
            continue
        taken = Outcome("ok", "", samples=[usage.seconds])
        noted(path, case, taken, training["extra_info"]["gate"], memory=usage.peak, memory_method=usage.method)
    return []  # this process has lost nothing


def groups(device: str, variants: list[str], measured: list[str]) -> Iterator[list[Case]]:
    """Cases that are measured together."""
    for point in POINTS[device]:
        usable = [name for name in variants if unusable(name, point) is None]
        for step in measured:
            yield [Case(point, step, name) for name in usable]


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.sweep", description=__doc__)
    parser.add_argument("entries", type=Path)
    parser.add_argument("--device", choices=POINTS, required=True)
    parser.add_argument("--variants", required=True, help="joined by commas; the last must be able to run")
    parser.add_argument("--measured", default=",".join(MEASURED))
    options = parser.parse_args(given)
    variants = options.variants.split(",")
    if reason := unusable(variants[-1], POINTS[options.device][0]):
        print(f"{variants[-1]}: {reason}")
        return MISSING
    for cases in groups(options.device, variants, options.measured.split(",")):
        known = entries(options.entries)
        if all(done(known, case.label) for case in cases):
            continue
        for case in cases:
            note(options.entries, case.label, STARTED)
        said = (weighed if cases[0].measured == "memory" else timed)(options.entries, cases)
        if LOST.search("\n".join(said)):
            return AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
