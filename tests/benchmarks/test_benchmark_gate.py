"""The gate passes what is the mechanism and refuses what is not, NaN included."""

from __future__ import annotations

import dataclasses
import functools
from unittest import mock

import pytest
import slightly_wrong  # noqa: F401  adds the wrong variants
import torch
from planted import every_mistake
from seeds import SEED

from benchmarks.gate import exact, sample
from benchmarks.measure import Effort, judged, measure
from benchmarks.plan import SHORT_OPS, short_variants
from benchmarks.points import Point
from benchmarks.variants import fast_variants
from benchmarks.workload import STEPS, Workload

EFFORT = Effort(fewest=3, most=3, seconds=0.1)


@pytest.mark.parametrize("step", STEPS)
def test_all_variants_pass(small, step):
    names = ["reference", "algebra", *fast_variants(small)]
    outcomes = measure(names, small, step, EFFORT)
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys(names, "ok")
    assert all(len(outcome.samples) == 3 for outcome in outcomes.values())


def test_compiled_variants_are_whole_graphs_and_pass(small, monkeypatch):
    """Through torch.compile's front end alone: generating code takes too long for a test."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    point = dataclasses.replace(small, num_steps=1)
    for step in STEPS:
        outcomes = measure(["reference+compile", "algebra+compile"], point, step, EFFORT)
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}, outcomes


def test_compiled_variants_draw_the_same_masks(small, inductor):
    """With dropout, through the compiler that generates code."""
    point = dataclasses.replace(small, num_steps=1, dropout=True)
    outcome = measure(["algebra+compile"], point, "training", EFFORT)["algebra+compile"]
    assert outcome.status == "ok", outcome.message


def test_algebra_runs_no_registered_core(small):
    """It is a baseline of its own: what autograd and torch.compile can do without the fused cores."""
    with mock.patch.object(torch.ops.iprm, "recurrence", side_effect=AssertionError("called")):
        Workload("algebra", small, "training")()
        with pytest.raises(AssertionError):
            Workload("fast[eager]", small, "training")()


def test_wrong_result_is_caught_and_not_timed(small):
    outcomes = measure(["reference", "wrong-result"], small, "forward", EFFORT)
    wrong = outcomes["wrong-result"]
    assert (wrong.status, wrong.samples) == ("wrong", [])
    assert wrong.verdict.error == pytest.approx(1e-3, rel=0.05)
    assert "result: error 0.001 is" in wrong.message
    assert outcomes["reference"].status == "ok"


def test_wrong_gradient_is_caught_in_training_only(small):
    assert measure(["wrong-gradient"], small, "forward", EFFORT)["wrong-gradient"].status == "ok"
    wrong = measure(["wrong-gradient"], small, "training", EFFORT)["wrong-gradient"]
    assert (wrong.status, wrong.samples) == ("wrong", [])
    assert wrong.verdict.where.startswith("gradient of ")


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "amp-bfloat16", "float64"])
@pytest.mark.parametrize("dropout", [False, True])
def test_every_format_is_judged(small, dropout, dtype):
    point = dataclasses.replace(small, dtype=dtype, dropout=dropout)
    names = ["reference", "algebra", *fast_variants(point)]
    sharp = dropout and "bfloat16" not in dtype  # which has three digits: too few to tell 0.14 from 0.15
    _, outcomes = judged([*names, "wrong-rate" if sharp else "wrong-bias"], point, "training")
    assert {name: outcome.status for name, outcome in outcomes.items() if name in names} == dict.fromkeys(names, "ok")
    assert list(outcomes.values())[-1].status == "wrong"


# The points have no masks, full execution, and of the cores' rates the default that is 0.15.
PLANTED = [
    mistake
    for mistake in every_mistake()
    if mistake.op.removesuffix("_backward") in ("formation", "execution", "composition")
    and (mistake.kind not in ("shifted", "another rate") or mistake.op + mistake.argument == "executionp_product")
]


@pytest.mark.numerical
@pytest.mark.parametrize("mistake", PLANTED, ids=str)
def test_every_planted_mistake_is_refused(small, mistake, backend, monkeypatch):
    mistake.plant(monkeypatch, backend)
    name = f"fast[{backend}]"
    outcome = judged([name], dataclasses.replace(small, dropout=True), "training")[1][name]
    assert outcome.status == "wrong", outcome.message


def test_truth_is_the_same_in_parts(small, monkeypatch):
    values = sample(small)
    whole = exact(small, "training", values)
    monkeypatch.setattr("benchmarks.gate.PAIR_ELEMENTS", 1)
    parts = exact(small, "training", values)
    assert parts.keys() == whole.keys() == Workload("reference", small, "training").outputs().keys()
    largest = max(value.norm() for value in whole.values())
    assert max((parts[name] - whole[name]).norm() for name in whole) < 1e-12 * largest


def test_what_is_timed_runs_on_the_same_numbers(small):
    """Each on the weights and inputs of the first draw, however many it was judged on."""
    names = ["reference", "algebra", *fast_variants(small)]
    workloads, _ = judged(names, small, "training")
    results = [workload() for workload in workloads.values()]
    assert len(results) == len(names)
    assert all(torch.allclose(result, results[0], rtol=1e-3, atol=1e-3) for result in results)


# What the short benchmark judges, but for the batch (2 samples of 8): all its variants, at its K, T, N and D.
SHORT = {"batch": 2, "threads": torch.get_num_threads(), "device": "cpu"}


@pytest.mark.numerical
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("num_ops", [int(K) for K in SHORT_OPS.split(",")])
def test_no_variant_of_the_short_benchmark_is_refused(num_ops, step, monkeypatch):
    monkeypatch.setattr("benchmarks.gate.SEED", 1000 * SEED)
    point = Point(num_ops=num_ops, **SHORT)
    names = short_variants(point)
    _, outcomes = judged(names, point, step)
    assert {name: o.message for name, o in outcomes.items() if o.status != "ok"} == {}
    assert len(outcomes) == len(names) >= 3


def test_failure_does_not_stop_the_others(small):
    outcomes = measure(["no-such-variant", "reference"], small, "forward", EFFORT)
    assert outcomes["no-such-variant"].status == "failed"
    assert "expected one of reference, algebra" in outcomes["no-such-variant"].message
    assert outcomes["reference"].status == "ok"
