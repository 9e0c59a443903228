"""Every kernel, forward and backward, against the definition in float64; outputs are NaN beforehand."""

from __future__ import annotations

import oracle
import pytest
import test_composition
import test_execution
import test_formation
import torch
from comparison import compare, mapped

import iprm_kernels
from iprm_kernels.activations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SEED = -0x7FEDCBA98765432
FORMATION = [(2, 3, 5, 8), (1, 1, 1, 1), (2, 5, 50, 123), (2, 17, 67, 33), (1, 35, 70, 130)]  # B, K, L, D
EXECUTION = [(2, 3, 7, 8, 16), (1, 1, 1, 1, 1), (2, 5, 61, 37, 19), (1, 17, 20, 5, 3), (1, 2, 36, 130, 70)]
COMPOSITION = [(2, 3, 8, 3), (1, 1, 1, 1), (1, 5, 123, 2), (1, 17, 33, 1), (1, 4, 20, 4)]  # B, K, D, blocks


@pytest.fixture
def on(device):
    """A core that runs where the kernels do, on inputs and with outputs on the CPU."""

    def wrapped(core):
        def call(*, seed=None, mask=None, **arguments):
            tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor | list)}
            options = {k: v for k, v in arguments.items() if k not in tensors}
            options |= {k: v.to(device) for k, v in {"seed": seed, "mask": mask}.items() if v is not None}
            return tuple(t.cpu() for t in core(**mapped(tensors, lambda t: t.to(device)), **options))

        return call

    return wrapped


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", FORMATION)
def test_formation_equals_its_definition(sizes, full, dtype, on):
    """Without and with mask and dropout."""
    B, _, L, _ = sizes
    options = (
        {"mask": torch.rand(B, L) > 0.4, "seed": torch.tensor([SEED]), "step": 3, "p_attention": 0.3} if full else {}
    )
    compare(on(iprm_kernels.formation), oracle.formation, test_formation.make(*sizes), dtype, "triton", **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", EXECUTION)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_execution_equals_its_definition(kind, sizes, full, dtype, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(sizes[0], sizes[2], full, full)
    compare(on(core), want, make(*sizes), dtype, "triton", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_every_activation(kind, activation, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(2, 29, True, True)
    compare(on(core), want, make(2, 3, 29, 24, 16), torch.float32, "triton", activation=activation, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("R", [40, 64])  # 40 is padded
def test_every_tile_of_every_list(R, dtype, on, monkeypatch):
    """Each configuration that may be launched computes the same: chunks, parts, contraction in pieces."""
    from iprm_kernels.backends.triton import configs

    core, want, make = test_execution.CORES["full"]
    inputs, options = make(1, 2, 37, R, 8), test_execution.options(1, 37, True, True)
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")
    for tile in configs.every_tile():
        monkeypatch.setattr(configs, "INTERPRETED", tile)
        configs.entries.cache_clear()
        torch.manual_seed(0)
        compare(on(core), want, inputs, dtype, "triton", **options)
    configs.entries.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_in_chunks(dtype, on, monkeypatch):
    """With a buffer for one or two samples at a time, dropout bits and sums are those of the whole batch."""
    from iprm_kernels.backends.triton import execution

    core, want, make = test_execution.CORES["full"]
    inputs, options = make(5, 3, 21, 24, 8), test_execution.options(5, 21, True, True)
    for samples in (1, 2):
        monkeypatch.setattr(execution, "BUFFER_BYTES", samples * 4 * 3 * 21 * 24 * dtype.itemsize)
        compare(on(core), want, inputs, dtype, "triton", **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["elu", "gelu"])
def test_widths_whose_products_are_the_librarys(activation, dtype, on, monkeypatch):
    """In one piece, and with buffers for two samples at a time."""
    from iprm_kernels.backends.triton import configs, execution

    core, want, make = test_execution.CORES["full"]
    inputs, options = make(3, 2, 21, 40, 8), test_execution.options(3, 21, True, True)
    monkeypatch.setattr(configs, "WIDEST", dict.fromkeys(configs.CHAINS, 32))
    for size in (execution.BUFFER_BYTES, 2 * 4 * 2 * 21 * 40 * dtype.itemsize):
        monkeypatch.setattr(execution, "BUFFER_BYTES", size)
        compare(on(core), want, inputs, dtype, "triton", activation=activation, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", COMPOSITION)
def test_composition_equals_its_definition(sizes, full, dtype, on):
    """Without a mask or dropout, and with all of them."""
    rates = {"seed": torch.tensor([SEED]), "p_product": 0.1, "p_value": 0.2, "p_attention": 0.3} if full else {}
    compare(
        on(iprm_kernels.composition), oracle.composition, test_composition.make(*sizes), dtype, "triton",
        mask_self=full, step=8, **rates,
    )  # fmt: skip


@pytest.mark.parametrize("rates", test_composition.RATES[1:4], ids=lambda rates: "+".join(rates))
def test_composition_under_one_dropout(rates, on):
    seed = torch.tensor([SEED])
    compare(
        on(iprm_kernels.composition), oracle.composition, test_composition.make(2, 3, 12, 2), torch.float32, "triton",
        seed=seed, step=8, **rates,
    )  # fmt: skip


def test_same_bits_on_every_run(device):
    core, _, make = test_execution.CORES["full"]
    inputs = {name: t.to(device) for name, t in make(2, 3, 50, 32, 16).items()}

    def gradients():
        leaves = [t.clone().requires_grad_() for t in inputs.values()]
        pooled, a = core(*leaves, seed=torch.tensor([SEED], device=device), p_product=0.1, backend="triton")
        return [pooled, a, *torch.autograd.grad(pooled.square().sum() + a.square().sum(), leaves)]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)
