"""Execution over dropped tokens: the same as making the keys outside, with nothing of (B, N, ·) kept but V."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch
import torch.nn.functional as F
from comparison import compare
from test_execution import DTYPES, SEED

import iprm_kernels
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.dropout import Role

SIZES = [(2, 3, 7, 8, 16), (1, 1, 1, 1, 1), (2, 5, 67, 37, 19)]  # B, K, N, R, D


def make_full(B, K, N, R, D):
    def matrix(rows, columns):
        return torch.randn(rows, columns) / columns**0.5

    return {
        "V": torch.randn(B, N, D),
        "Wk": matrix(R, D),
        "bk": torch.randn(R),
        "C1b": matrix(R, R),
        "c1": torch.randn(R),
        "g": torch.randn(B, K, R),
        "l": torch.randn(B, K, R),
        "C1a": matrix(R, R),
        "C2": matrix(R, R),
        "c2": torch.randn(R),
        "w": torch.randn(R) / R**0.5,
    }


def make_simple(B, K, N, R, D):
    full = make_full(B, K, N, R, D)
    return {
        "V": full["V"],
        "C1": full["Wk"],
        "c1": full["bk"],
        "C2": full["C1b"],
        "c2": full["c1"],
        "query": full["g"],
        "w": full["w"],
    }


def full(V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, mask=None, *, p_visual, **options):
    x = oracle.drop(V, p_visual, options["seed"], options["step"], Role.VISUAL)
    v = F.linear(x, Wk, bk)
    return oracle.execution(v, F.linear(v, C1b, c1), g, l, C1a, C2, c2, w, x, mask, **options)


def simple(V, C1, c1, C2, c2, query, w, mask=None, *, p_visual, **options):
    x = oracle.drop(V, p_visual, options["seed"], options["step"], Role.VISUAL)
    κ = F.linear(ACTIVATIONS[options["activation"]](F.linear(x, C1, c1)), C2, c2)
    return oracle.execution_simple(κ, query, w, x, mask, **options)


CORES = {
    "full": (iprm_kernels.execution_dropped, full, make_full),
    "simple": (iprm_kernels.execution_simple_dropped, simple, make_simple),
}
RATES = {"p_visual": 0.25, "p_product": 0.15, "p_attention": 0.2, "seed": torch.tensor([SEED]), "step": 4}


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", CORES)
def test_equals_its_definition(kind, sizes, activation, dtype, backend):
    core, want, make = CORES[kind]
    mask = torch.rand(sizes[0], sizes[2]) > 0.4
    compare(core, want, partial(make, *sizes), dtype, backend, mask=mask, activation=activation, **RATES)


@pytest.mark.parametrize("kind", CORES)
def test_is_a_good_operator(kind, backend):
    core, _, make = CORES[kind]
    inputs = {name: t.requires_grad_() for name, t in make(2, 3, 7, 5, 4).items()}
    op = torch.ops.iprm.execution_dropped if kind == "full" else torch.ops.iprm.execution_simple_dropped
    torch.library.opcheck(op, (*inputs.values(), None, torch.tensor([5]), 2, 0.2, 0.1, 0.1, "gelu", backend))
    doubles = [t.detach().double().requires_grad_() for t in inputs.values()]
    torch.autograd.gradcheck(lambda *t: core(*t, **RATES, backend=backend), doubles)


@pytest.mark.parametrize("kind", CORES)
def test_keeps_nothing_of_the_tokens_but_themselves(kind):
    core, _, make = CORES[kind]
    B, K, N, R, D = 2, 3, 200, 16, 32
    inputs = {name: t.requires_grad_() for name, t in make(B, K, N, R, D).items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        core(**inputs, **RATES)
    large = [t for t in saved if t.numel() >= B * N * R]
    assert [t.data_ptr() for t in large] == [inputs["V"].data_ptr()]


def test_the_seed_is_required():
    with pytest.raises(ValueError, match=r"seed: expected \(1,\) int64 on cpu because p_visual = 0.2, got None"):
        iprm_kernels.execution_dropped(**make_full(2, 3, 7, 5, 4), seed=None, p_visual=0.2)


@pytest.mark.parametrize("kind", CORES)
def test_products_inside_of_an_op_do_not_see_autocast(kind, backend):
    """The backward op of float32 inputs is that of float32, whatever autocast surrounds it."""
    core, _, make = CORES[kind]
    leaves = {k: t.requires_grad_() for k, t in make(2, 3, 7, 5, 4).items()}
    pooled, _ = core(**leaves, seed=torch.tensor([3]), p_visual=0.2, backend=backend)
    want = torch.autograd.grad(pooled, list(leaves.values()), torch.ones_like(pooled), retain_graph=True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found = torch.autograd.grad(pooled, list(leaves.values()), torch.ones_like(pooled), retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
