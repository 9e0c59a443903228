"""The sweep: latency of the forward pass and of a training step, and a training step's peak extra memory."""

from __future__ import annotations

import pytest

from benchmarks.conditions import conditions
from benchmarks.gate import facts
from benchmarks.measure import Outcome
from benchmarks.memory import usage_in_fresh_process
from benchmarks.plan import Case
from benchmarks.recorded import Recording, recorded_time

pytestmark = [pytest.mark.usefixtures("usable"), pytest.mark.benchmark(timer=recorded_time)]


def record(benchmark, case: Case, verdict, samples: list[float]) -> None:
    """Hand the samples to pytest-benchmark, with all that the report states beside them."""
    benchmark.group = f"{case.measured} {case.point.label}"
    benchmark.extra_info |= conditions(case.point) | {
        "measured": case.measured,
        "variant": case.variant,
        "gate": verdict and facts(verdict),
    }
    recording = Recording(samples)
    benchmark.pedantic(recording.play, rounds=recording.rounds)


def test_latency(benchmark, case, results, refuse):
    """Forward pass or training step: the samples of the point's interleaved rounds."""
    outcome = results.timed(case)
    if outcome.status != "ok":
        refuse(outcome)
    record(benchmark, case, outcome.verdict, outcome.samples)


def test_memory(benchmark, case, results, refuse):
    """A training step's peak extra memory, in a fresh process; the time is that of the step there."""
    outcome = results.training(case)
    if outcome.status != "ok":
        refuse(outcome)
    try:
        usage = usage_in_fresh_process(case.variant, case.point)
    except RuntimeError as error:
        refuse(Outcome("failed", str(error)))
    benchmark.extra_info |= {"memory": usage.peak, "memory_method": usage.method}
    record(benchmark, case, outcome.verdict, [usage.seconds])
