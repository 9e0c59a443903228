"""The ops are good citizens: opcheck, gradcheck, torch.compile, torch.export and autocast."""

from __future__ import annotations

import pytest
import test_composition
import test_execution
import test_formation
import torch

import iprm_kernels

SEED = torch.tensor([99])


def full_inputs():
    return test_execution.make_full(2, 3, 7, 5, 4)


def simple_inputs():
    return test_execution.make_simple(2, 3, 7, 5, 4)


def formation_inputs():
    return test_formation.make(2, 3, 5, 4)


def composition_inputs():
    return test_composition.make(2, 3, 4, 2)


PAIR_RATES = {"seed": SEED, "step": 2, "p_product": 0.2, "p_attention": 0.1}
CASES = {
    "formation": (iprm_kernels.formation, formation_inputs, {"seed": SEED, "p_attention": 0.2}),
    "execution": (iprm_kernels.execution, full_inputs, PAIR_RATES),
    "execution_simple": (iprm_kernels.execution_simple, simple_inputs, PAIR_RATES),
    "composition": (
        iprm_kernels.composition,
        composition_inputs,
        {"seed": SEED, "p_product": 0.2, "p_value": 0.1, "p_attention": 0.1},
    ),
}


@pytest.fixture(params=list(CASES))
def case(request):
    return request.param, *CASES[request.param]


def flat(inputs):
    return [t for value in inputs.values() for t in (value if isinstance(value, list) else [value])]


def rebuilt(inputs, tensors):
    """The inputs with their tensors replaced, lists kept."""
    tensors = iter(tensors)
    return {k: [next(tensors) for _ in v] if isinstance(v, list) else next(tensors) for k, v in inputs.items()}


@pytest.mark.parametrize("dropped", [False, True])
def test_gradcheck(case, dropped, backend):
    _, core, make, rates = case
    inputs = make()
    leaves = [t.double().requires_grad_() for t in flat(inputs)]

    def call(*tensors):
        return core(**rebuilt(inputs, tensors), **(rates if dropped else {}), backend=backend)

    torch.autograd.gradcheck(call, leaves)


def test_gradcheck_dropout(backend):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: iprm_kernels.dropout(x, 0.4, SEED, 3, backend=backend), (x,))


def positional(name, inputs):
    """The arguments of torch.ops.iprm.<name>."""
    if name == "formation":
        return (*inputs.values(), torch.rand(2, 5) > 0.3, SEED, 1, 0.1)
    if name == "composition":
        return (*inputs.values(), True, SEED, 1, 0.1, 0.1, 0.1)
    return (*inputs.values(), torch.rand(2, 7) > 0.3, SEED, 1, 0.1, 0.1, "gelu")


def test_opcheck(case, backend):
    name, _, make, _ = case
    inputs = make()
    inputs = rebuilt(inputs, [t.requires_grad_() for t in flat(inputs)])
    torch.library.opcheck(getattr(torch.ops.iprm, name), (*positional(name, inputs), backend))


def test_opcheck_dropout(backend):
    x = torch.randn(4, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.iprm.dropout, (x, 0.3, SEED, 5, backend))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(case, dynamic, backend):
    _, core, make, rates = case
    inputs = make()

    def loss(*tensors):
        outputs = core(**rebuilt(inputs, tensors), **rates, backend=backend)
        return sum(out.square().sum() for out in outputs)

    leaves = [t.requires_grad_() for t in flat(inputs)]
    want = torch.autograd.grad(loss(*leaves), leaves)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for got, expected in zip(torch.autograd.grad(compiled(*leaves), leaves), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_autocast_casts_every_input(case, backend):
    _, core, make, _ = case
    inputs = make()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = core(**inputs, backend=backend)
    lowered = rebuilt(inputs, [t.bfloat16() for t in flat(inputs)])
    for got, want in zip(outputs, core(**lowered, backend=backend), strict=True):
        assert torch.equal(got, want)
    assert [t.dtype for t in outputs] == [torch.bfloat16] * (len(outputs) - 1) + [torch.float32]


def test_any_strides(case, backend):
    """Transposed, sliced, expanded and flipped storage gives what contiguous copies give."""
    _, core, make, rates = case
    inputs = make()

    def strided(t):
        wide = torch.randn(*t.shape[:-1], 2 * t.shape[-1])
        wide[..., ::2] = t
        view = wide[..., ::2]
        return view.transpose(0, -1).contiguous().transpose(0, -1) if view.dim() > 1 else view

    want = core(**inputs, **rates, backend=backend)
    got = core(**rebuilt(inputs, [strided(t) for t in flat(inputs)]), **rates, backend=backend)
    torch.testing.assert_close(got, want)
    expanded = rebuilt(inputs, [t[:1].expand_as(t) for t in flat(inputs)])
    copied = rebuilt(inputs, [t[:1].expand_as(t).contiguous() for t in flat(inputs)])
    torch.testing.assert_close(core(**expanded, backend=backend), core(**copied, backend=backend))


def test_strided_gradients(case, backend):
    """The gradient that reaches the backward op may have any strides: expanded from a sum, or transposed."""
    _, core, make, _ = case
    inputs = make()

    def gradients(grad_of):
        leaves = [t.detach().clone().requires_grad_() for t in flat(inputs)]
        outputs = core(**rebuilt(inputs, leaves), backend=backend)
        torch.autograd.backward(outputs, [grad_of(out) for out in outputs])
        return [t.grad for t in leaves]

    expanded = gradients(lambda out: torch.ones((), dtype=out.dtype).expand_as(out))
    torch.testing.assert_close(expanded, gradients(torch.ones_like))


def test_empty_batch(case, backend):
    _, core, make, _ = case
    inputs = make()
    leaves = [(t[:0] if t.dim() == 3 else t).detach().requires_grad_() for t in flat(inputs)]
    outputs = core(**rebuilt(inputs, leaves), backend=backend)
    assert all(out.shape[0] == 0 for out in outputs)
    sum(out.sum() for out in outputs).backward()
    for leaf in leaves:
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()


def test_output_without_gradient_costs_nothing(case, backend):
    """A loss on the attention alone, or on one output alone, is differentiated."""
    _, core, make, _ = case
    inputs = make()
    for index in range(len(core(**inputs, backend=backend))):
        leaves = [t.detach().clone().requires_grad_() for t in flat(inputs)]
        core(**rebuilt(inputs, leaves), backend=backend)[index].square().sum().backward()
        assert any(t.grad is not None and t.grad.any() for t in leaves)
