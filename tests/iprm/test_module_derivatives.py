"""Derivatives of the whole modules beyond a plain backward pass: the fast module's are the reference's."""

from __future__ import annotations

import pytest
import torch
from pairs import inputs, pair
from torch.autograd import forward_ad
from torch.func import functional_call

from iprm import IPRMConfig
from iprm_kernels.backends import BACKENDS

SMALL = {"dim": 8, "num_ops": 2, "num_steps": 2}
MODELS = [
    {},
    {"execution": "simple", "operation_mlp": True, "result_mlp": True},
    {"key_projection": True, "query_from_results": "concat", "composition_norm": True, "per_step_query": True},
]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=MODELS, ids=str)
def models(request, train):
    return [model.train(train) for model in pair(IPRMConfig(**SMALL, **request.param))]


@pytest.fixture(params=[False, True], ids=["eval", "train"])
def train(request):
    return request.param


def arguments():
    return inputs(IPRMConfig(**SMALL), B=2, L=3, N=4, masked=True)


def loss_of(model):
    """A scalar of parameters and visual tokens, the dropout masks the same at every call."""
    language, summary, visual, *masks = arguments()

    def loss(parameters, visual):
        torch.manual_seed(5)
        return functional_call(model, parameters, (language, summary, visual, *masks)).square().sum()

    return loss, {name: p.detach() for name, p in model.named_parameters()}, visual


def both(models, derivative):
    """The derivative of the reference and of the fast module."""
    found = []
    for model in models:
        torch.manual_seed(0)
        found.append(derivative(*loss_of(model)))
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    return found[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives(models, backend):
    """Those of the norm of the gradient, as gradient penalties take them."""
    if reason := BACKENDS[backend].unsupported(torch.device("cpu"), torch.float64):
        pytest.skip(f"{backend}: {reason}")
    models[1].backend = backend

    def penalty(loss, parameters, visual):
        leaves = {name: p.requires_grad_() for name, p in parameters.items()}
        visual.requires_grad_()
        first = torch.autograd.grad(loss(leaves, visual), [visual, *leaves.values()], create_graph=True)
        norm = sum(g.square().sum() for g in first)
        grads = torch.autograd.grad(norm, [visual, *leaves.values()], allow_unused=True)
        return [torch.zeros(()) if g is None else g for g in grads]

    found = both(models, penalty)
    assert sum(g.abs().sum() for g in found) > 0.0


def test_jvp(models):
    def derivative(loss, parameters, visual):
        tangents = {name: torch.ones_like(p) for name, p in parameters.items()}
        return torch.func.jvp(loss, (parameters, visual), (tangents, torch.ones_like(visual)))

    assert both(models, derivative)[1].abs() > 0.0


def test_forward_mode(models):
    def derivative(loss, parameters, visual):
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p, torch.ones_like(p)) for name, p in parameters.items()}
            return forward_ad.unpack_dual(loss(duals, visual)).tangent

    assert both(models, derivative).abs() > 0.0


def test_grad_and_hessian(models):
    def derivative(loss, parameters, visual):
        first = torch.func.grad(loss, argnums=(0, 1))(parameters, visual)
        vector = torch.func.jvp(
            lambda v: torch.func.grad(loss, 1)(parameters, v), (visual,), (torch.ones_like(visual),)
        )
        return first, vector

    both(models, derivative)


def test_vmap_over_models(models):
    """An ensemble: parameters stacked, the inputs shared."""

    def derivative(loss, parameters, visual):
        stacked = {name: torch.stack([p, 0.5 * p]) for name, p in parameters.items()}
        return torch.func.vmap(torch.func.grad(loss), (0, None), randomness="same")(stacked, visual)

    both(models, derivative)


def test_vmap_asks_about_randomness():
    """With dropout vmap must be told whether its samples share a mask, as for torch's own dropout."""
    for model in pair(IPRMConfig(**SMALL)):
        loss, parameters, visual = loss_of(model.train())
        visual = torch.stack([visual, visual])
        with pytest.raises(RuntimeError, match="randomness error mode"):
            torch.func.vmap(loss, (None, 0))(parameters, visual)
        same = torch.func.vmap(loss, (None, 0), randomness="same")(parameters, visual)
        different = torch.func.vmap(loss, (None, 0), randomness="different")(parameters, visual)
        assert torch.equal(same[0], same[1])
        assert not torch.equal(different[0], different[1])


def test_per_sample_gradients(models):
    def derivative(loss, parameters, visual):
        return torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")(
            parameters, torch.stack([visual, visual + 1.0])
        )

    both(models, derivative)


@pytest.mark.parametrize("frozen", ["formation", "execution", "composition", "execution.C1", "inputs", "all but f"])
def test_frozen_parts(frozen):
    """The gradients of all else are the reference's, and what is frozen gets none."""
    found = []
    for model in pair(IPRMConfig(**SMALL)):
        torch.manual_seed(3)
        args = [
            a.requires_grad_(frozen != "inputs") if a is not None and a.is_floating_point() else a for a in arguments()
        ]
        for name, p in model.named_parameters():
            p.requires_grad_(name == "formation.f.weight" if frozen == "all but f" else not name.startswith(frozen))
        model(*args).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, want in found[0].items():
        assert (found[1][name] is None) == (want is None), name
        if want is not None:
            torch.testing.assert_close(found[1][name], want, **CLOSE)
