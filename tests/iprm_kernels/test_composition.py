"""The composition core against its definition."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch
from comparison import compare

import iprm_kernels

SIZES = [(2, 3, 8, 3), (3, 6, 64, 3), (1, 1, 1, 1), (2, 5, 123, 2), (2, 17, 33, 1), (2, 4, 20, 7)]  # B, K, D, blocks
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
RATES = [
    {},
    {"p_product": 0.2},
    {"p_value": 0.1},
    {"p_attention": 0.3},
    {"p_product": 0.1, "p_value": 0.2, "p_attention": 0.3},
]


def make(B, K, D, blocks):
    def states():
        return [torch.randn(B, K, D) for _ in range(blocks)]

    return {
        "query": torch.randn(B, K, D),
        "keys": states(),
        "operations": states(),
        "results": states(),
        "gate": torch.randn(D) / D**0.5,
    }


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_self", [False, True])
@pytest.mark.parametrize("rates", RATES, ids=lambda rates: "+".join(rates) or "none")
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_its_definition(sizes, rates, mask_self, dtype, backend):
    seed = torch.tensor([-987654321]) if rates else None
    compare(
        iprm_kernels.composition, oracle.composition, partial(make, *sizes), dtype, backend,
        mask_self=mask_self, seed=seed, step=8, **rates,
    )  # fmt: skip


def test_a_single_masked_column_gets_weight_one(backend):
    inputs = make(2, 1, 8, 1)
    operations, results, a = iprm_kernels.composition(**inputs, mask_self=True, backend=backend)
    assert torch.equal(a, torch.ones(2, 1, 1))
    torch.testing.assert_close(operations, inputs["operations"][0])
    torch.testing.assert_close(results, inputs["results"][0])


def test_the_same_tensor_may_stand_in_several_lists(backend):
    inputs = make(2, 3, 8, 2)
    inputs["keys"] = inputs["operations"]
    x = [t.clone().requires_grad_() for t in inputs["operations"]]

    def loss(core, **options):
        o, e, a = core(inputs["query"], x, x, inputs["results"], inputs["gate"], **options)
        return torch.autograd.grad(o.sum() + e.square().sum() + a.square().sum(), x)

    for got, want in zip(loss(iprm_kernels.composition, backend=backend), loss(oracle.composition), strict=True):
        torch.testing.assert_close(got, want)
