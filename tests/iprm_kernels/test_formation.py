"""The formation core against its definition."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch
from comparison import compare

import iprm_kernels

SIZES = [(2, 3, 5, 8), (3, 6, 24, 64), (1, 1, 1, 1), (2, 5, 50, 123), (4, 7, 13, 33)]  # B, K, L, D
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def make(B, K, L, D):
    return {"query": torch.randn(B, K, D), "tokens": torch.randn(B, L, D), "gate": torch.randn(D) / D**0.5}


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_its_definition(sizes, p, masked, dtype, backend):
    B, _, L, _ = sizes
    mask = torch.rand(B, L) > 0.4 if masked else None
    seed = torch.tensor([2**62 + 12345]) if p else None
    compare(
        iprm_kernels.formation, oracle.formation, partial(make, *sizes), dtype, backend,
        mask=mask, seed=seed, step=3, p_attention=p,
    )  # fmt: skip


def test_fully_masked_row_is_uniform(backend):
    inputs = make(2, 3, 5, 8)
    mask = torch.tensor([[False] * 5, [True] * 5])
    z, a = iprm_kernels.formation(**inputs, mask=mask, backend=backend)
    torch.testing.assert_close(a[0], torch.full((3, 5), 0.2))
    torch.testing.assert_close(z[0], inputs["tokens"][0].mean(0).expand(3, -1))


def test_large_logits_do_not_overflow(backend):
    inputs = {name: 1e3 * t for name, t in make(2, 3, 5, 8).items()}
    z, a = iprm_kernels.formation(**inputs, backend=backend)
    assert z.isfinite().all()
    torch.testing.assert_close(a.sum(-1), torch.ones(2, 3))
