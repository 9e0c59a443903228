"""Every CUDA kernel, forward and backward, against the definition in float64, and the whole fast module."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import test_composition
import test_execution
import test_formation
import torch
from comparison import compare
from device_cores import (  # noqa: F401
    DTYPES,
    SEED,
    gradients,
    test_composition_equals_its_definition,
    test_composition_under_one_dropout,
    test_every_activation,
    test_execution_equals_its_definition,
    test_formation_equals_its_definition,
    test_module_equals_the_reference,
    test_same_bits_on_every_run,
)

import iprm_kernels
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.testing import map_tensors

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("processors", [1, 2, 64])
@pytest.mark.parametrize("R", [64, 136])
def test_every_tile(R, processors, dtype, on, monkeypatch):
    """How large a tile of pairs is depends on how many there are for each multiprocessor: 64, 32 and 16."""
    monkeypatch.setenv("IPRM_ON_HOST_PROCESSORS", str(processors))
    core, want, make = test_execution.CORES["full"]
    options = test_execution.options(2, 21, True, True)
    compare(on(core), want, partial(make, 2, 3, 21, R, 16), dtype, "cuda", **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows(dtype, on):
    """Several slabs of weights in both directions; rows of 16 bytes, and rows that are not."""
    for R in (256, 258):
        core, want, make = test_execution.CORES["full"]
        options = test_execution.options(1, 9, True, True)
        compare(on(core), want, partial(make, 1, 2, 9, R, 264), dtype, "cuda", **options)


PADDED = {
    "formation": (iprm_kernels.formation, oracle.formation, partial(test_formation.make, 2, 3, 5, 13)),
    "composition": (iprm_kernels.composition, oracle.composition, partial(test_composition.make, 2, 3, 13, 2)),
    **{name: (core, want, partial(make, 2, 3, 9, 19, 13)) for name, (core, want, make) in test_execution.CORES.items()},
}
RATES = {"formation": {"p_attention": 0.3}, "composition": {"p_product": 0.1, "p_value": 0.2, "p_attention": 0.3}}


def at_an_odd_place(tensor):
    """The same values, from the second element of a memory on, so that no row begins at a multiple of 16 bytes."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("core", PADDED)
def test_rows_begin_and_end_anywhere(core, dtype, on):
    """Kernels read whole runs of 16 bytes: others are padded, and a mask counts the columns without their padding."""
    found, want, make = PADDED[core]
    names = list(make())
    options = {"seed": torch.tensor([SEED]), "step": 3, **RATES.get(core, {"p_product": 0.2, "p_attention": 0.3})}

    def shifted(*, seed, **arguments):
        inputs = {name: arguments.pop(name) for name in names}
        return found(**map_tensors(at_an_odd_place, inputs), seed=seed, **arguments)

    compare(on(shifted), want, make, dtype, "cuda", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", test_execution.CORES)
def test_padding_under_every_activation(kind, activation, on):
    """φ(0) is not 0 for all."""
    core, want, make = test_execution.CORES[kind]
    options = test_execution.options(2, 9, True, True)
    compare(on(core), want, partial(make, 2, 3, 9, 19, 13), torch.float32, "cuda", activation=activation, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tokens_of_wide_formation(dtype, on):
    options = {"mask": torch.rand(1, 300) > 0.4, "seed": torch.tensor([SEED]), "step": 3, "p_attention": 0.3}
    make = partial(test_formation.make, 1, 6, 300, 256)
    compare(on(iprm_kernels.formation), oracle.formation, make, dtype, "cuda", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_under_every_schedule(dtype, device, on_host, monkeypatch):
    """No result depends on which thread or block comes first, or on when asynchronous copies arrive."""
    results = []
    for order, copies in (("forward", "eager"), ("reverse", "lazy"), ("random:1", "random"), ("random:2", "lazy")):
        monkeypatch.setenv("IPRM_ON_HOST_ORDER", order)
        monkeypatch.setenv("IPRM_ON_HOST_COPIES", copies)
        results.append(gradients(device, "cuda", dtype))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
