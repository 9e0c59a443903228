"""Derivatives of the ops beyond a plain backward pass: of higher order, in forward mode, under torch.func, and those
that nobody asked for."""

from __future__ import annotations

import functools

import pytest
import test_dropped_execution
import torch
from test_registration import CASES, SEED, flat, rebuilt
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import iprm_kernels
from iprm_kernels.backends import BACKENDS

DROPPED = {
    name: (
        core,
        functools.partial(make, 2, 3, 7, 5, 4),
        {"seed": SEED, "p_visual": 0.2, "p_product": 0.1, "p_attention": 0.1, "step": 3},
    )
    for name, (core, _, make) in test_dropped_execution.CORES.items()
}
EVERY = CASES | DROPPED


@pytest.fixture(params=list(EVERY))
def case(request):
    """name, function, inputs as leaves in float64, rates."""
    core, make, rates = EVERY[request.param]
    inputs = make()
    return request.param, core, inputs, [t.double().requires_grad_() for t in flat(inputs)], rates


def function_of(case, backend="auto", dropped=True):
    name, core, inputs, _, rates = case
    rates = rates if dropped or name in DROPPED else {}
    return lambda *tensors: core(**rebuilt(inputs, tensors), **rates, backend=backend)


@pytest.mark.parametrize("dropped", [False, True])
def test_second_derivatives(case, dropped, backend):
    torch.autograd.gradgradcheck(function_of(case, backend, dropped), case[3])


def test_third_derivatives(case):
    function, leaves = function_of(case), case[3]

    def gradients(*tensors):
        return torch.autograd.grad(sum(out.square().sum() for out in function(*tensors)), tensors, create_graph=True)

    torch.autograd.gradgradcheck(gradients, leaves)


def test_a_graph_of_the_backward_pass_has_the_same_gradients(case, backend):
    function, leaves = function_of(case, backend), case[3]

    def gradients(create_graph):
        loss = sum(out.square().sum() for out in function(*leaves))
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_forward_mode(case, backend):
    torch.autograd.gradcheck(function_of(case, backend), case[3], check_forward_ad=True)


def test_batched_gradients(case):
    """torch.autograd.grad(is_grads_batched=True): right, or refused by torch, which has no rule for lists."""
    function, leaves = function_of(case), case[3]
    outputs = function(*leaves)
    grads = [torch.randn(2, *out.shape, dtype=out.dtype) for out in outputs]

    def batched():
        return torch.autograd.grad(outputs, leaves, grads, is_grads_batched=True, retain_graph=True)

    if case[0] == "composition":
        with pytest.raises(RuntimeError, match="Batching rule not implemented for iprm::composition_backward"):
            batched()
        return
    for i in range(2):
        want = torch.autograd.grad(outputs, leaves, [grad[i] for grad in grads], retain_graph=True)
        torch.testing.assert_close(tuple(g[i] for g in batched()), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_transforms(case, backend):
    """grad, vjp, jvp, the Hessian forward over reverse, and vmap of them, against autograd."""
    leaves = [t.detach() for t in case[3]]
    numbers = tuple(range(len(leaves)))

    def loss(*tensors):
        return sum(out.square().sum() for out in function_of(case, backend)(*tensors))

    want = torch.autograd.grad(loss(*case[3]), case[3])
    got = torch.func.grad(loss, numbers)(*leaves)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    tangents = [torch.randn_like(t) for t in leaves]
    _, derivative = torch.func.jvp(loss, tuple(leaves), tuple(tangents))
    torch.testing.assert_close(derivative, sum((g * t).sum() for g, t in zip(want, tangents, strict=True)))
    plain = torch.autograd.functional.hessian(lambda first: loss(first, *leaves[1:]), leaves[0])
    mapped = torch.func.hessian(loss)(*leaves)
    torch.testing.assert_close(mapped, plain, rtol=1e-8, atol=1e-8)
    batch = [torch.stack([t, 2 * t]) for t in leaves]
    each = torch.func.vmap(torch.func.grad(loss, numbers))(*batch)
    for i in range(2):
        alone = torch.func.grad(loss, numbers)(*(t[i] for t in batch))
        torch.testing.assert_close(tuple(e[i] for e in each), alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "eager"])
def test_a_named_backend_is_refused_under_transforms(case, name):
    """It cannot be seen through, and nothing else is run in its place."""
    leaves = [t.detach() for t in case[3]]
    with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run .* under torch.func or in forward mode"):
        torch.func.jvp(function_of(case, name), tuple(leaves), tuple(leaves))


def test_an_op_itself_is_refused_in_forward_mode():
    x = torch.randn(3)

    def run(x):
        return torch.ops.iprm.dropout(x, 0.5, SEED, 3, "auto")

    with pytest.raises(RuntimeError, match="iprm::dropout has no forward-mode derivative"):
        torch.func.jvp(run, (x,), (x,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="iprm::dropout has no forward-mode derivative"):
        run(forward_ad.make_dual(x, x))


def test_a_backward_pass_within_a_forward_mode_level():
    """It has nothing to do with the tangents, and runs."""
    x = torch.randn(3, requires_grad=True)
    loss = iprm_kernels.dropout(x, 0.5, SEED, 3).sum()
    with forward_ad.dual_level():
        loss.backward()
    assert x.grad is not None


def test_dropout_has_every_derivative(backend):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(lambda x: iprm_kernels.dropout(x, 0.4, SEED, 3, backend=backend), (x,))
    torch.autograd.gradcheck(lambda x: iprm_kernels.dropout(x, 0.4, SEED, 3), (x,), check_forward_ad=True)


# Gradients that nobody asked for


def gradients_of(case, backend, needed):
    """Those of the needed leaves, the others frozen."""
    leaves = [t.detach().requires_grad_(i in needed) for i, t in enumerate(case[3])]
    loss = sum(out.square().sum() for out in function_of(case, backend)(*leaves))
    return torch.autograd.grad(loss, [leaves[i] for i in sorted(needed)])


def test_any_inputs_may_be_frozen(case, backend):
    """The gradients of the others are the same: with each one frozen, and with all but one."""
    every = range(len(case[3]))
    want = gradients_of(case, backend, set(every))
    for i in every:
        for needed in ({i}, set(every) - {i}):
            got = gradients_of(case, backend, needed)
            torch.testing.assert_close(got, tuple(want[j] for j in sorted(needed)), rtol=1e-10, atol=1e-10)


SKIPPED = {"formation": {"tokens"}, "execution": {"C1a", "C2", "tokens"}, "execution_simple": {"tokens"}}
"""Of each op, the inputs whose gradient takes products of its own."""


@pytest.mark.parametrize("name", SKIPPED)
def test_frozen_inputs_save_their_products(name, backend, monkeypatch):
    """The backward op is told what is frozen, and leaves those gradients empty; in algebra, where products can be
    counted, there are fewer of them."""
    core, make, _ = EVERY[name]
    function, args, empty = getattr(BACKENDS[backend], f"{name}_backward"), [], []

    def spy(*given):
        grads = function(*given)
        args.append(given)
        empty.append({k for k, grad in zip(make(), grads, strict=True) if grad.numel() == 0})
        return grads

    monkeypatch.setattr(BACKENDS[backend], f"{name}_backward", spy)
    for frozen in (set(), SKIPPED[name]):
        leaves = {k: t.requires_grad_(k not in frozen) for k, t in make().items()}
        sum(out.square().sum() for out in core(**leaves, backend=backend)).backward()
    assert empty == [set(), SKIPPED[name]]
    if backend == "eager":
        counts = []
        for given in args:
            with FlopCounterMode(display=False) as counter:
                function(*given)
            counts.append(counter.get_total_flops())
        assert 0 < counts[1] < counts[0]


@pytest.mark.parametrize("frozen", [(), ("tokens",), ("C1a", "C2")])
def test_opcheck_of_backward_ops(frozen, backend):
    """Their shapes are those that the compiler is told, whatever is needed."""
    inputs = CASES["execution"][1]()
    needs = [name not in frozen for name in inputs]
    B, K, N, D = 2, 3, 7, 4
    args = (torch.randn(B, K, D), None, *inputs.values(), torch.rand(B, K, N), SEED, 1, 0.1, 0.1, "elu", needs)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.iprm.execution_backward, (*args, backend), test_utils=checks)
