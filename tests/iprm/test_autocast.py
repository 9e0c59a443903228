"""Autocast: forward and backward passes in any mixture of it, and what is kept of inputs that it casts."""

from __future__ import annotations

import contextlib

import pytest
import torch
from pairs import inputs, pair

import iprm_kernels
from iprm import IPRMConfig

SMALL = {"dim": 16, "num_ops": 3, "num_steps": 3}
MODELS = [{}, {"execution": "simple"}, {"visual_dropout": 0.0, "composition_value_dropout": 0.0}]
LOWER = [None, torch.bfloat16, torch.float16]


def autocast(dtype):
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)


@pytest.mark.parametrize("backward", LOWER)
@pytest.mark.parametrize("forward", LOWER)
@pytest.mark.parametrize("options", MODELS, ids=str)
def test_forward_and_backward_in_any_mixture(options, forward, backward, backend):
    """The backward pass may be within another autocast than the forward pass, or none: it is near to float32's."""
    model = pair(IPRMConfig(**SMALL, **options), torch.float32, backend)[1].train()
    args = [a.float() for a in inputs(model.config) if a is not None]

    def gradients(forward, backward):
        model.zero_grad()
        torch.manual_seed(5)
        with autocast(forward):
            result = model(*args)
        with autocast(backward):
            result.float().square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    exact, found = gradients(None, None), gradients(forward, backward)
    scale = max(g.abs().max() for g in exact.values())
    for name, want in exact.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - want).abs().max() <= 0.2 * scale, name


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_tokens_are_cast_once(options):
    """Not anew in each step, which would keep T copies for the backward pass."""
    sizes = {}
    for T in (1, 6):
        model = pair(IPRMConfig(**SMALL | {"num_steps": T}, **options), torch.float32)[1].train()
        args = [a.float() for a in inputs(model.config, L=301, N=401) if a is not None]
        kept = {}

        def keep(t, kept=kept):
            kept[t.untyped_storage().data_ptr()] = t.shape
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
            result = model(*args)
        sizes[T] = [sum(shape[-2:] == (n, 16) for shape in kept.values()) for n in (301, 401)]
        del result
    assert sizes[1] == sizes[6]
    assert all(0 < count <= 2 for count in sizes[6])


def test_float64_is_refused_by_name():
    """Autocast leaves float64 alone, so that it would not meet the weights' dtype."""
    for model in pair(IPRMConfig(**SMALL), torch.float32):
        args = [a.float() for a in inputs(model.config) if a is not None]
        for i, name in enumerate(("language", "summary", "visual")):
            wrong = [a.double() if i == j else a for j, a in enumerate(args)]
            with (
                torch.autocast("cpu", torch.bfloat16),
                pytest.raises(ValueError, match=f"{name}: expected .* float32 on cpu, got .* float64"),
            ):
                model(*wrong)


def test_float64_modules_run_as_they_are():
    for model in pair(IPRMConfig(**SMALL)):
        args = [a for a in inputs(model.config) if a is not None]
        want = model.eval()(*args)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(*args), want, rtol=1e-10, atol=1e-10)


def test_a_core_under_autocast_of_a_device_that_has_none():
    q, x = torch.randn(2, 3, 4, device="meta"), torch.randn(2, 5, 4, device="meta")
    z, a = iprm_kernels.formation(q, x, torch.randn(4, device="meta"))
    assert z.shape == (2, 3, 4)
    assert a.shape == (2, 3, 5)
