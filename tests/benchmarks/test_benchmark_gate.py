"""The gate passes what is the mechanism and refuses what is not, NaN included."""

from __future__ import annotations

import dataclasses
import functools
import math
from unittest import mock

import pytest
import slightly_wrong  # noqa: F401  adds the wrong variants
import torch

from benchmarks.gate import FLOORS, errors, exact, judge
from benchmarks.measure import Effort, measure
from benchmarks.variants import fast_variants
from benchmarks.workload import STEPS, Workload

EFFORT = Effort(fewest=3, most=3, seconds=0.1)


@pytest.mark.parametrize("step", STEPS)
def test_all_variants_pass(small, step):
    names = ["reference", "algebra", *fast_variants(small)]
    outcomes = measure(names, small, step, EFFORT)
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys(names, "ok")
    assert all(len(outcome.samples) == 3 for outcome in outcomes.values())


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_algebra_is_the_mechanism(small, dtype, dropout):
    point = dataclasses.replace(small, dtype=dtype, dropout=dropout)
    outcome = measure(["algebra"], point, "training", EFFORT)["algebra"]
    assert outcome.status == "ok", outcome.message


def test_compiled_variants_are_whole_graphs_and_pass(small, monkeypatch):
    """Through torch.compile's front end alone: generating code takes too long for a test."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    point = dataclasses.replace(small, num_steps=1)
    for step in STEPS:
        outcomes = measure(["reference+compile", "algebra+compile"], point, step, EFFORT)
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}, outcomes


def test_algebra_runs_no_registered_core(small):
    """It is a baseline of its own: what autograd and torch.compile can do without the fused cores."""
    with mock.patch.object(torch.ops.iprm, "execution", side_effect=AssertionError("called")):
        Workload("algebra", small, "training")()
        with pytest.raises(AssertionError):
            Workload("fast[eager]", small, "training")()


def test_wrong_result_is_caught_and_not_timed(small):
    outcomes = measure(["reference", "wrong-result"], small, "forward", EFFORT)
    wrong = outcomes["wrong-result"]
    assert (wrong.status, wrong.samples) == ("wrong", [])
    assert wrong.verdict.error == pytest.approx(1e-3, rel=0.05)
    assert "result: error 0.001 > 1e-05" in wrong.message
    assert outcomes["reference"].status == "ok"


def test_wrong_gradient_is_caught_in_training_only(small):
    assert measure(["wrong-gradient"], small, "forward", EFFORT)["wrong-gradient"].status == "ok"
    wrong = measure(["wrong-gradient"], small, "training", EFFORT)["wrong-gradient"]
    assert (wrong.status, wrong.samples) == ("wrong", [])
    assert wrong.verdict.where.startswith("gradient of ")


def test_not_a_number_is_wrong():
    truth = {"result": torch.ones(3, dtype=torch.float64)}
    found = errors({"result": torch.tensor([1.0, math.nan, 1.0])}, truth)
    verdict = judge(found, {"result": 1e-7}, torch.float32)
    assert not verdict.passed
    assert math.isinf(verdict.error)


def test_twice_the_reference_is_allowed():
    own = {"result": 1e-3, "gradient of a": 1e-3, "gradient of b": 5e-3}
    found = {"result": 1.9e-3, "gradient of a": 9e-3, "gradient of b": 1e-3}
    assert judge(found, own, torch.float32).passed
    assert judge(found | {"result": 2.1e-3}, own, torch.float32).where == "result"
    assert not judge(found | {"result": 2.1e-3}, own, torch.float32).passed
    assert judge({"result": FLOORS[torch.float32]}, {"result": 0.0}, torch.float32).passed


def test_truth_is_the_same_in_parts(small, monkeypatch):
    whole = exact(small, "training")
    monkeypatch.setattr("benchmarks.gate.PAIR_ELEMENTS", 1)
    parts = exact(small, "training")
    assert parts.keys() == whole.keys() == Workload("reference", small, "training").outputs().keys()
    assert max(errors(parts, whole).values()) < 1e-12


def test_failure_does_not_stop_the_others(small):
    outcomes = measure(["no-such-variant", "reference"], small, "forward", EFFORT)
    assert outcomes["no-such-variant"].status == "failed"
    assert "expected one of reference, algebra" in outcomes["no-such-variant"].message
    assert outcomes["reference"].status == "ok"
