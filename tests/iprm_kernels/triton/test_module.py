"""The whole fast module through the Triton kernels against the reference, with gradients, with and without dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from pairs import errors, inputs, pair, step

from iprm import IPRMConfig

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"execution": "simple"}, {"window": 0, "num_ops": 1}, {"key_projection": True}]
)
def test_equals_the_reference(options, train, device):
    """T = 3, float32: each error is at most twice the reference's own, but for gradients that are zero but for rounding
    (of a bias that shifts a whole row of logits)."""
    config = IPRMConfig(**{"dim": 24, "num_ops": 3, "num_steps": 3, **options})
    first, second = pair(config, torch.float32, "triton")
    args = inputs(config, B=2, L=5, N=21, masked=True)
    args = [a if a is None or a.dtype == torch.bool else a.float().double() for a in args]
    exact = step(copy.deepcopy(first).double(), args, train)
    own = errors(step(first, args, train), exact)
    found = errors(on(device, second, args, train), exact)
    floor = 32 * torch.finfo(torch.float32).eps
    largest = max(t.abs().max().item() for t in exact.values())
    names = [name for name, t in exact.items() if t.abs().max().item() > 1e-6 * largest]
    assert len(names) > 20
    assert not {name: (found[name], own[name]) for name in names if found[name] > 2 * max(own[name], floor)}


def on(device, model, args, train):
    """`step` of the model on a device, brought back."""
    moved = step(model.to(device), [None if a is None else a.to(device) for a in args], train)
    return {name: t.cpu() for name, t in moved.items()}
