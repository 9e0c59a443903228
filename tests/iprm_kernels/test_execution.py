"""The execution cores against their definitions."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch
from comparison import compare

import iprm_kernels
from iprm_kernels.activations import ACTIVATIONS

SIZES = [  # B, K, N, R, D
    (2, 3, 7, 8, 16),
    (2, 2, 196, 64, 32),
    (1, 1, 1, 1, 1),
    (2, 5, 123, 37, 19),
    (3, 6, 67, 128, 40),
    (1, 17, 20, 5, 3),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SEED = 0x7FEDCBA987654321


def make_full(B, K, N, R, D):
    return {
        "v": torch.randn(B, N, R),
        "u": torch.randn(B, N, R),
        "g": torch.randn(B, K, R),
        "l": torch.randn(B, K, R),
        "C1a": torch.randn(R, R) / R**0.5,
        "C2": torch.randn(R, R) / R**0.5,
        "c2": torch.randn(R),
        "w": torch.randn(R) / R**0.5,
        "tokens": torch.randn(B, N, D),
    }


def make_simple(B, K, N, R, D):
    return {
        "keys": torch.randn(B, N, R),
        "query": torch.randn(B, K, R),
        "w": torch.randn(R) / R**0.5,
        "tokens": torch.randn(B, N, D),
    }


CORES = {
    "full": (iprm_kernels.execution, oracle.execution, make_full),
    "simple": (iprm_kernels.execution_simple, oracle.execution_simple, make_simple),
}


@pytest.fixture(params=list(CORES))
def core(request):
    return CORES[request.param]


def options(B, N, masked, dropped):
    return {
        "mask": torch.rand(B, N) > 0.4 if masked else None,
        "seed": torch.tensor([SEED]) if dropped else None,
        "step": 5,
        "p_product": 0.15 if dropped else 0.0,
        "p_attention": 0.2 if dropped else 0.0,
    }


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("masked", "dropped"), [(False, False), (True, True)])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_its_definition(sizes, masked, dropped, dtype, core, backend):
    run, want, make = core
    compare(run, want, partial(make, *sizes), dtype, backend, **options(sizes[0], sizes[2], masked, dropped))


@pytest.mark.numerical
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation(activation, dtype, dropped, core, backend):
    run, want, make = core
    chosen = options(2, 29, True, dropped)
    compare(run, want, partial(make, 2, 3, 29, 24, 16), dtype, backend, activation=activation, **chosen)


def test_fully_masked_sample_is_uniform(core, backend):
    run, _, make = core
    inputs = make(2, 3, 7, 8, 16)
    mask = torch.tensor([[False] * 7, [True] * 7])
    pooled, a = run(**inputs, mask=mask, backend=backend)
    torch.testing.assert_close(a[0], torch.full((3, 7), 1 / 7))
    torch.testing.assert_close(pooled[0], inputs["tokens"][0].mean(0).expand(3, -1))


def test_large_inputs_stay_finite(core, backend):
    run, _, make = core
    inputs = {name: 100 * t for name, t in make(2, 3, 40, 16, 8).items()}
    inputs = {name: t.requires_grad_() for name, t in inputs.items()}
    pooled, a = run(**inputs, backend=backend)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert all(t.grad.isfinite().all() for t in inputs.values())
    torch.testing.assert_close(a.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("dropped", [False, True])
def test_same_bits_for_any_number_of_threads(dropped, core, backend, threads):
    run, _, make = core
    inputs = make(3, 4, 150, 64, 32)
    chosen = options(3, 150, True, dropped)

    def everything():
        leaves = {name: t.clone().requires_grad_() for name, t in inputs.items()}
        pooled, a = run(**leaves, **chosen, backend=backend)
        (pooled.square().sum() + a.square().sum()).backward()
        return [pooled, a, *(t.grad for t in leaves.values())]

    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        results.append(everything())
    if backend != "cpu":  # products of the library: only the same number of threads promises the same bits
        results = [results[1], results[3]]
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_no_pair_tensor_is_saved(core, backend):
    run, _, make = core
    B, K, N, R, D = 4, 8, 100, 32, 32
    inputs = {name: t.requires_grad_() for name, t in make(B, K, N, R, D).items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        run(**inputs, backend=backend)
    assert saved
    assert max(saved) <= B * N * max(R, D, K)
