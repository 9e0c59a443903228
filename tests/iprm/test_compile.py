"""torch.compile: sizes that change, masks that do not, and the compiler that generates code."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from functorch.compile import make_boxed_func
from pairs import inputs, pair
from torch._dynamo.backends.common import aot_autograd

from iprm import IPRMConfig
from iprm_kernels.dropout import draw_seed

SMALL = {"dim": 8, "num_ops": 2, "num_steps": 2}


def gradients(model, call, args):
    model.zero_grad()
    torch.manual_seed(11)
    result = call(*args)
    result.square().sum().backward()
    return [result.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("which", [0, 1], ids=["reference", "fast"])
@pytest.mark.parametrize("options", [{}, {"execution": "simple"}], ids=str)
def test_dynamic_sizes_with_dropout(which, options):
    """Batches and token numbers that change are one graph, in training with dropout."""
    model = pair(IPRMConfig(**SMALL, **options))[which].train()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled, counts = torch.compile(model, fullgraph=True, dynamic=True, backend=counter), set()
    for B, L, N in ((3, 5, 7), (4, 6, 9), (2, 11, 13)):
        args = inputs(model.config, B, L, N, masked=True)
        torch.testing.assert_close(gradients(model, compiled, args), gradients(model, model, args))
        counts.add(counter.frame_count)
    assert len(counts) == 1


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"execution": "simple"}, {"num_steps": 5, "per_step_query": True}], ids=str)
def test_is_one_node(options, train):
    """All steps are one operator in a graph and one in its backward, beside the draw of dropout's seed. Sizes that
    change compile once more, with whatever sizes."""
    model = pair(IPRMConfig(**SMALL | options))[1].train(train)
    graphs = []

    def record(graph, _):
        graphs.append([name for node in graph.graph.nodes if (name := str(node.target)).startswith("iprm.")])
        return make_boxed_func(graph)

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=record, bw_compiler=record))
    for B, L, N in ((3, 5, 7), (4, 6, 9), (2, 11, 13), (5, 8, 21)):
        compiled(*inputs(model.config, B, L, N, masked=True)).sum().backward()
    forward = ["iprm.draw_seed.default"] * train + ["iprm.recurrence.default"]
    assert graphs == [forward, ["iprm.recurrence_backward.default"]] * 2


def test_same_dropout_from_the_same_seed(inductor):
    """Through inductor too, which draws torch's random numbers in its own way; with two forwards in one graph, and
    under activation checkpointing."""
    model = pair(IPRMConfig(**SMALL | {"num_steps": 1}))[1].train()
    args = inputs(model.config, B=2)

    def twice(*args):
        again = torch.utils.checkpoint.checkpoint(model, *args, use_reentrant=False)
        return model(*args) * again

    torch._dynamo.reset()
    want = gradients(model, twice, args)
    torch.testing.assert_close(gradients(model, torch.compile(twice, fullgraph=True), args), want)


def test_two_draws_are_two(inductor):
    """For the reference and the fast module alike."""

    def draw():
        return draw_seed("cpu"), draw_seed("cpu")

    torch._dynamo.reset()
    for backend in ("aot_eager", "inductor"):
        torch.manual_seed(0)
        want = draw()
        torch.manual_seed(0)
        got = torch.compile(draw, fullgraph=True, backend=backend)()
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        assert not torch.equal(*got)


def test_second_derivatives_are_refused():
    """By torch, which compiles no double backward; nothing is silently wrong."""
    model = pair(IPRMConfig(**SMALL))[1]
    args = [a.requires_grad_() for a in inputs(model.config) if a is not None]
    torch._dynamo.reset()
    result = torch.compile(model, fullgraph=True, backend="aot_eager")(*args)
    (first,) = torch.autograd.grad(result.square().sum(), args[2], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        first.square().sum().backward()
