"""Tests of a device's kernels, forward and backward, against the definition in float64; outputs are NaN beforehand.

A backend's own tests import what it is to pass; they bring the fixtures `backend`, a name, and `device`, where its
kernels run (`device_cores.on` moves inputs there).
"""

from __future__ import annotations

from functools import partial
from unittest import mock

import oracle
import pytest
import test_composition
import test_execution
import test_formation
import torch
from comparison import compare
from pairs import draws_of, outputs_of, step

import iprm_kernels
from iprm import IPRMConfig, fast
from iprm.config import RATES
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.dropout import draw_seed
from iprm_kernels.testing import judge, map_tensors

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
            return tuple(t.cpu() for t in core(**map_tensors(lambda t: t.to(device), tensors), **options))

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
    make = partial(test_formation.make, *sizes)
    compare(on(iprm_kernels.formation), oracle.formation, make, dtype, backend, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", EXECUTION)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_execution_equals_its_definition(kind, sizes, full, dtype, backend, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(sizes[0], sizes[2], full, full)
    compare(on(core), want, partial(make, *sizes), dtype, backend, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_every_activation(kind, activation, backend, on):
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(2, 29, True, True)
    make = partial(make, 2, 3, 29, 24, 16)
    compare(on(core), want, make, torch.float32, backend, activation=activation, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", COMPOSITION)
def test_composition_equals_its_definition(sizes, full, dtype, backend, on):
    """Without a mask or dropout, and with all of them."""
    rates = {"seed": torch.tensor([SEED]), "p_product": 0.1, "p_value": 0.2, "p_attention": 0.3} if full else {}
    compare(
        on(iprm_kernels.composition), oracle.composition, partial(test_composition.make, *sizes), dtype, backend,
        mask_self=full, step=8, **rates,
    )  # fmt: skip


@pytest.mark.parametrize("rates", test_composition.RATES[1:4], ids=lambda rates: "+".join(rates))
def test_composition_under_one_dropout(rates, backend, on):
    seed = torch.tensor([SEED])
    compare(
        on(iprm_kernels.composition), oracle.composition, partial(test_composition.make, 2, 3, 12, 2), torch.float32,
        backend, seed=seed, step=8, **rates,
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


NORMS = ("formation_norm", "execution_norm", "update_norm", "composition_norm")
MODULES = [
    {},
    {"execution": "simple"},
    {"window": 0, "num_ops": 1},
    {"key_projection": True, **dict.fromkeys((name for name in RATES if "attention" in name), 0.2)},
    {"per_step_query": True, "query_from_results": "concat"},
    dict.fromkeys(NORMS, True),
    {"execution": "simple", "result_mlp": True, "operation_mlp": True, "execution_query": "concat"},
    {"update": False, "query_from_results": "sum"},
    {"composition": False, "op_activation": "tanh", "result_activation": "gelu"},
]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", MODULES)
def test_module_equals_the_reference(options, train, device, backend):
    """The whole fast module, T = 3, float32; in training with dropout."""
    config = IPRMConfig(**{"dim": 24, "num_ops": 3, "num_steps": 3, **options})
    draws = draws_of(config, torch.float32, train=train, B=2, L=5, N=21, masked=True)
    model = fast.IPRM(config, backend)
    verdict = judge(draws, lambda values: outputs_of(model, values, train, partial(step_on, device)))
    assert verdict.passed, str(verdict)


def step_on(device, model, args, train, seed):
    """`step` of the model on a device, with the dropout seed that the reference draws on the CPU."""

    def drawn(_):
        return draw_seed("cpu").to(device)

    with mock.patch.object(fast, "draw_seed", drawn):
        return step(model.to(device), [None if a is None else a.to(device) for a in args], train, seed)
