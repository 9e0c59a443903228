"""Every Triton kernel, forward and backward, against the definition in float64, and the whole fast module."""

from __future__ import annotations

from functools import partial

import pytest
import test_execution
import torch
from comparison import compare, draws_of, verdict_on
from device_cores import (  # noqa: F401
    DTYPES,
    step_on,
    test_composition_equals_its_definition,
    test_composition_under_one_dropout,
    test_every_activation,
    test_execution_equals_its_definition,
    test_formation_equals_its_definition,
    test_module_equals_the_reference,
    test_same_bits_on_every_run,
)
from pairs import draws_of as draws_of_module
from pairs import outputs_of

from iprm import IPRMConfig, fast
from iprm_kernels.testing import judge

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("R", [40, 64])  # 40 is padded
def test_every_tile_of_every_list(R, dtype, on, monkeypatch):
    """Each configuration that may be launched computes the same: chunks, parts, contraction in pieces."""
    from iprm_kernels.backends.triton import configs

    core, want, make = test_execution.CORES["full"]
    draws = draws_of(want, partial(make, 1, 2, 37, R, 8), dtype, **test_execution.options(1, 37, True, True))
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")
    for tile in configs.every_tile():
        monkeypatch.setattr(configs, "INTERPRETED", tile)
        configs.entries.cache_clear()
        verdict = verdict_on(on(core), draws, "triton")
        assert verdict.passed, f"{tile}: {verdict}"
    configs.entries.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_in_chunks(dtype, on, monkeypatch):
    """With a buffer for one or two samples at a time, dropout bits and sums are those of the whole batch."""
    from iprm_kernels.backends.triton import execution

    core, want, make = test_execution.CORES["full"]
    make, options = partial(make, 5, 3, 21, 24, 8), test_execution.options(5, 21, True, True)
    for samples in (1, 2):
        monkeypatch.setattr(execution, "BUFFER_BYTES", samples * 3 * 3 * 21 * 24 * dtype.itemsize)
        compare(on(core), want, make, dtype, "triton", **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["elu", "gelu"])
def test_widths_of_several_blocks(activation, dtype, on, monkeypatch):
    """In one piece, and with buffers for two samples at a time."""
    from iprm_kernels.backends.triton import configs, execution

    core, want, make = test_execution.CORES["full"]
    make, options = partial(make, 3, 2, 21, 40, 8), test_execution.options(3, 21, True, True)
    monkeypatch.setattr(configs, "WIDEST", dict.fromkeys(configs.CHAINS, 32))
    monkeypatch.setattr(configs, "BLOCK_OTHERS", 32)
    for size in (execution.BUFFER_BYTES, 2 * 3 * 2 * 21 * 40 * dtype.itemsize):
        monkeypatch.setattr(execution, "BUFFER_BYTES", size)
        compare(on(core), want, make, dtype, "triton", activation=activation, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("K", [1, 3, 16, 17, 33])
def test_any_number_of_operations(K, dtype, on):
    """Of a token's operations up to 16 share a tile; where there are more, their sums are parts."""
    core, want, make = test_execution.CORES["full"]
    options = test_execution.options(2, 9, True, True)
    compare(on(core), want, partial(make, 2, K, 9, 16, 8), dtype, "triton", **options)


class Kept(torch.autograd.Function):
    """Execution whose backward finds the pairs that its forward has made."""

    @staticmethod
    def forward(ctx, mask, options, *tensors):
        from iprm_kernels.backends.triton import execution

        (B, K, R), N = tensors[2].shape, tensors[0].shape[1]
        pairs = [torch.empty(B, K, N, R, dtype=tensors[0].dtype, device=tensors[0].device) for _ in range(2)]
        pooled, a = execution.execution(*tensors, mask, *options, *pairs)
        ctx.options = options
        ctx.save_for_backward(a, *pairs, *tensors)
        return pooled, a

    @staticmethod
    def backward(ctx, d_pooled, d_a):
        from iprm_kernels.backends.triton import execution

        a, *pairs, v, u, g, l, C1a, C2, c2, w, tokens = ctx.saved_tensors
        inputs = (v, u, g, l, C1a, C2, c2, w, tokens, a)
        return None, None, *execution.execution_backward(d_pooled, d_a, *inputs, *ctx.options, [True] * 9, *pairs)


def with_kept_pairs(
    v, u, g, l, C1a, C2, c2, w, tokens, *, mask=None, seed=None, step=0, p_product=0.0, p_attention=0.0,
    activation="elu", backend="triton",
):  # fmt: skip
    """Called like the op."""
    options = (seed, step, p_product, p_attention, activation)
    return Kept.apply(mask, options, v, u, g, l, C1a, C2, c2, w, tokens)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("K", [3, 17])
def test_kept_pairs(K, activation, dtype, on, monkeypatch):
    """Nothing is recomputed. In one piece, and with buffers for one sample at a time."""
    from iprm_kernels.backends.triton import execution, launch

    def never(*args):
        raise AssertionError("recomputed")

    monkeypatch.setitem(launch.KERNELS, "recompute", never)
    _, want, make = test_execution.CORES["full"]
    make, options = partial(make, 2, K, 21, 24, 8), test_execution.options(2, 21, True, True)
    for size in (execution.BUFFER_BYTES, 3 * K * 21 * 24 * dtype.itemsize):
        monkeypatch.setattr(execution, "BUFFER_BYTES", size)
        compare(on(with_kept_pairs), want, make, dtype, "triton", activation=activation, **options)


@pytest.mark.parametrize(
    "options", [{}, {"per_step_query": True, "visual_dropout": 0.2, "execution_activation": "gelu"}]
)
def test_module_that_keeps_pairs(options, device):
    """memory="fast", in training with dropout."""
    config = IPRMConfig(**{"dim": 24, "num_ops": 3, "num_steps": 3, **options})
    draws = draws_of_module(config, torch.float32, train=True, B=2, L=5, N=21, masked=True)
    model = fast.IPRM(config, "triton", memory="fast")
    verdict = judge(draws, lambda values: outputs_of(model, values, True, partial(step_on, device)))
    assert verdict.passed, str(verdict)
    estimate = model.memory_estimate(2, 5, 21)
    assert estimate.kept > fast.IPRM(config, "triton", memory="least").memory_estimate(2, 5, 21).kept
