"""Tests of a device's kernels, forward and backward, against the definition in float64; outputs are NaN beforehand.

A backend's own tests import what it is to pass; they bring the fixtures `backend`, a name, and `device`, where its
kernels run (`device_cores.on` moves inputs there).
"""

from __future__ import annotations

import copy

import oracle
import pytest
import test_composition
import test_execution
import test_formation
import torch
from comparison import compare, mapped
from pairs import errors, inputs, pair, step

import iprm_kernels
from iprm import IPRMConfig
from iprm_kernels.activations import ACTIVATIONS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SEED = -0x7FEDCBA98765432
FORMATION = [(2, 3, 5, 8), (1, 1, 1, 1), (2, 5, 50, 123), (2, 17, 67, 33), (1, 35, 70, 130)]  # B, K, L, D
EXECUTION = [(2, 3, 7, 8, 16), (1, 1, 1, 1, 1), (2, 5, 61, 37, 19), (1, 17, 21, 5, 3), (1, 2, 36, 130, 70)]
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


@pytest.fixture
def poisoned():
    """Uninitialised memory is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", FORMATION)
def test_formation_equals_its_definition(sizes, full, dtype, backend, on):
    """Without and with mask and dropout."""
    B, _, L, _ = sizes
    options = (
        {"mask": torch.rand(B, L) > 0.4, "seed": torch.tensor([SEED]), "step": 3, "p_attention": 0.3} if full else {}
    )
    compare(on(iprm_kernels.formation), oracle.formation, test_formation.make(*sizes), dtype, backend, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", EXECUTION)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_execution_equals_its_definition(kind, sizes, full, dtype, backend, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(sizes[0], sizes[2], full, full)
    compare(on(core), want, make(*sizes), dtype, backend, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_every_activation(kind, activation, backend, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(2, 29, True, True)
    compare(on(core), want, make(2, 3, 29, 24, 16), torch.float32, backend, activation=activation, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", COMPOSITION)
def test_composition_equals_its_definition(sizes, full, dtype, backend, on):
    """Without a mask or dropout, and with all of them."""
    rates = {"seed": torch.tensor([SEED]), "p_product": 0.1, "p_value": 0.2, "p_attention": 0.3} if full else {}
    compare(
        on(iprm_kernels.composition), oracle.composition, test_composition.make(*sizes), dtype, backend,
        mask_self=full, step=8, **rates,
    )  # fmt: skip


@pytest.mark.parametrize("rates", test_composition.RATES[1:4], ids=lambda rates: "+".join(rates))
def test_composition_under_one_dropout(rates, backend, on):
    seed = torch.tensor([SEED])
    compare(
        on(iprm_kernels.composition), oracle.composition, test_composition.make(2, 3, 12, 2), torch.float32, backend,
        seed=seed, step=8, **rates,
    )  # fmt: skip


def gradients(device, backend, dtype=torch.float32):
    """Outputs and gradients of one execution with dropout."""
    core, _, make = test_execution.CORES["full"]
    torch.manual_seed(0)
    leaves = [t.to(device, dtype).requires_grad_() for t in make(2, 3, 50, 32, 16).values()]
    pooled, a = core(*leaves, seed=torch.tensor([SEED], device=device), p_product=0.1, backend=backend)
    return [pooled, a, *torch.autograd.grad(pooled.square().sum() + a.square().sum(), leaves)]


def test_same_bits_on_every_run(device, backend):
    for first, second in zip(gradients(device, backend), gradients(device, backend), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"execution": "simple"}, {"window": 0, "num_ops": 1}, {"key_projection": True}]
)
def test_module_equals_the_reference(options, train, device, backend):
    """The whole fast module, T = 3, float32: each error is at most twice the reference's own, but for gradients that
    are zero but for rounding (of a bias that shifts a whole row of logits)."""
    config = IPRMConfig(**{"dim": 24, "num_ops": 3, "num_steps": 3, **options})
    first, second = pair(config, torch.float32, backend)
    args = inputs(config, B=2, L=5, N=21, masked=True)
    args = [a if a is None or a.dtype == torch.bool else a.float().double() for a in args]
    exact = step(copy.deepcopy(first).double(), args, train)
    own = errors(step(first, args, train), exact)
    found = errors(step_on(device, second, args, train), exact)
    floor = 32 * torch.finfo(torch.float32).eps
    largest = max(t.abs().max().item() for t in exact.values())
    names = [name for name, t in exact.items() if t.abs().max().item() > 1e-6 * largest]
    assert len(names) > 20
    assert not {name: (found[name], own[name]) for name in names if found[name] > 2 * max(own[name], floor)}


def step_on(device, model, args, train):
    """`step` of the model on a device, brought back."""
    moved = step(model.to(device), [None if a is None else a.to(device) for a in args], train)
    return {name: t.cpu() for name, t in moved.items()}
