"""The judge: what it passes, what it refuses, and what it costs."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from iprm_kernels import testing
from iprm_kernels.testing import ALLOWED, EXACT, FEWEST, MOST, Draws, judge, moved, rounded

EPS = torch.finfo(torch.float32).eps


class Sums:
    """y = W x, counted how often it is run."""

    def __init__(self, dtype=torch.float32, size=32, **options):
        self.runs = Counter()
        self.draws = Draws(dtype, lambda: self.sample(size), self.exact, self.own, seed=5, **options)

    def sample(self, size):
        return rounded({"W": torch.randn(size, size), "x": [torch.randn(size)], "n": size}, torch.float16)

    def exact(self, values):
        self.runs["exact"] += 1
        return {"y": values["W"] @ values["x"][0]}

    def own(self, values):
        self.runs["own"] += 1
        return {"y": (values["W"].to(self.draws.dtype) @ values["x"][0].to(self.draws.dtype))}

    def off(self, share):
        """A candidate whose result is off by a share."""
        return lambda values: {"y": values["W"] @ values["x"][0] * (1 + share)}


def test_what_is_right_passes_after_few_draws():
    sums = Sums()
    verdict = judge(sums.draws, sums.own)
    assert verdict.passed
    assert verdict.draws == FEWEST
    assert sums.runs == {"exact": FEWEST, "own": 2 * FEWEST}  # unit (b) was not needed


def test_draws_are_made_once_for_all_candidates_and_differ():
    sums = Sums()
    seen = [[], []]
    for found in seen:
        judge(sums.draws, lambda values, found=found: found.append(values) or sums.off(0.0)(values))
    assert sums.runs == {"exact": FEWEST, "own": FEWEST}
    assert all(a is b for a, b in zip(*seen, strict=True))
    assert not torch.equal(seen[0][0]["W"], seen[0][1]["W"])


def test_the_generator_is_left_alone():
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    sums = Sums()
    judge(sums.draws, sums.off(5 * EPS))
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_limit_is_where_it_is_said_to_be(dtype):
    eps = torch.finfo(dtype).eps
    verdicts = {share: judge(Sums(dtype).draws, Sums(dtype).off(share * eps)) for share in (1, 8)}
    assert verdicts[1].passed
    assert not verdicts[8].passed
    assert verdicts[8].allowed == ALLOWED
    assert "y: error" in str(verdicts[8])
    assert f"beyond the allowed {ALLOWED:g}" in str(verdicts[8])


def test_what_rounding_cannot_do_fails_in_one_draw():
    verdict = judge(Sums().draws, Sums().off(0.01))
    assert not verdict.passed
    assert verdict.draws == 1
    assert judge(Sums(smooth=False).draws, Sums().off(0.01)).draws == testing.ENOUGH


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("smooth", [True, False])
def test_what_is_not_finite_fails(value, smooth):
    def broken(values):
        y = sums.own(values)["y"]
        y[3] = value
        return {"y": y}

    sums = Sums(smooth=smooth)
    verdict = judge(sums.draws, broken)
    assert not verdict.passed
    assert verdict.draws == 1


def test_one_lucky_draw_does_not_hide_the_others():
    """An error that is exactly zero now and then counts as an eighth of a unit."""
    calls = iter(range(MOST))
    sums = Sums()
    verdict = judge(sums.draws, lambda values: sums.off(0.0 if next(calls) % 3 == 0 else 300 * EPS)(values))
    assert not verdict.passed


def test_a_tensor_that_is_zero_is_held_to_the_largest_scale():
    def exact(values):
        return {"large": 1e3 * values["x"], "zero": 0.0 * values["x"]}

    def off(by):
        return lambda values: {"large": 1e3 * values["x"], "zero": by * values["x"]}

    draws = Draws(torch.float32, lambda: {"x": torch.ones(4).double()}, exact, exact)
    assert judge(draws, off(1e3 * EPS)).passed
    assert not judge(draws, off(1e5 * EPS)).passed


def test_a_format_is_not_asked_for_what_it_cannot_hold():
    """Numbers below the smallest normal one of float16 keep fewer digits."""

    def exact(values):
        return {"y": values["x"] * 1e-7}

    draws = Draws(torch.float16, lambda: {"x": torch.rand(50).half().double()}, exact, exact)
    assert judge(draws, lambda values: {"y": (values["x"] * 1e-7).half()}).passed
    assert not judge(draws, lambda values: {"y": values["x"] * 8e-7}).passed


def test_a_definition_that_overflows_allows_nothing():
    sums = Sums()
    sums.draws.own = lambda values: {"y": torch.full((32,), math.inf)}
    assert judge(sums.draws, sums.off(EPS)).passed
    assert not judge(sums.draws, sums.off(0.01)).passed


def test_double_precision_is_held_to_a_fixed_error():
    sums = Sums(torch.float64)
    verdict = judge(sums.draws, sums.off(0.5 * EXACT))
    assert verdict.passed
    assert verdict.draws == 1
    assert sums.runs == {"exact": 1}
    assert not judge(Sums(torch.float64).draws, sums.off(10 * EXACT)).passed


def test_double_precision_may_err_more_where_it_is_amplified():
    def exact(values):
        return {"y": (values["x"] + 1e8) - values["x"].sum() - 1e8 + values["x"].sum()}

    draws = Draws(torch.float64, lambda: {"x": 1e8 * torch.rand(9, dtype=torch.float64)}, exact, exact)
    wrong = judge(draws, lambda values: {"y": exact(values)["y"] * (1 + 1e-12)})
    assert wrong.passed


def test_other_names_and_shapes_are_named():
    draws = Sums().draws
    with pytest.raises(ValueError, match=r"outputs: expected those of the definition, .*'z'"):
        judge(draws, lambda values: {"z": values["x"][0]})
    with pytest.raises(ValueError, match=r"y: expected \(32,\), got \(31,\)"):
        judge(draws, lambda values: {"y": values["x"][0][1:]})


def test_empty_tensors_pass():
    assert judge(Sums(size=0).draws, Sums(size=0).own).passed


def test_moving_touches_floating_tensors_alone():
    values = {
        "x": torch.rand(1000).double(),
        "list": [torch.ones(3).double(), None],
        "mask": torch.tensor([True]),
        "n": 3,
    }
    near = moved(values, torch.bfloat16)
    steps = (near["x"] / values["x"] - 1) / torch.finfo(torch.bfloat16).eps
    assert torch.allclose(steps.abs(), torch.ones(1000).double(), atol=1e-9)
    assert 400 < (steps > 0).sum() < 600
    assert near["list"][1] is None
    assert near["mask"] is values["mask"]
    assert near["n"] == 3


def verdict_on_numbers(errors, units, gross=testing.GROSS):
    """What the rule says of one tensor whose errors and units these are."""
    for count in range(1, MOST + 1):
        rows = [{"t": e} for e in errors[:count]], [{"t": u} for u in units[:count]]
        if verdict := testing._decided(*rows, FEWEST, gross):
            return verdict
    raise AssertionError("undecided")


def test_neither_false_alarms_nor_blindness_where_all_is_luck():
    """A tensor of one element: its error and both units are normal variables. (The docstring's figures are those of ten
    million verdicts.)"""
    n = 3000
    normal = torch.randn(n, MOST).abs()
    units = torch.maximum(torch.randn(n, MOST).abs(), torch.randn(n, MOST, 2).square().mean(-1).sqrt())
    for scale, share in ((1.0, 0.0), (1.4, 0.0), (16.0, 0.9)):
        verdicts = [verdict_on_numbers(e.tolist(), u.tolist()) for e, u in zip(scale * normal, units, strict=True)]
        failed = sum(not verdict.passed for verdict in verdicts) / n
        assert failed == 0 if share == 0 else failed > share
