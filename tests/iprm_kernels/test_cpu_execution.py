"""What is the native execution's own: tiles of any height, groups of operations, weights packed for many calls."""

from __future__ import annotations

import pytest
import torch
from test_execution import DTYPES, SEED, make_full

from iprm_kernels.backends import cpu, eager


@pytest.fixture(autouse=True)
def built():
    if reason := cpu.unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")


def run(inputs: dict, packed: tuple = (), forward_only: tuple = (), backend=cpu) -> list[torch.Tensor]:
    """Outputs and gradients."""
    torch.manual_seed(0)
    seed, tokens = torch.tensor([SEED]), inputs["tokens"]
    chosen = (seed, 3, 0.15, 0.2, "elu")
    pooled, attention = backend.execution(*inputs.values(), None, *chosen, *forward_only)
    grad_pooled = torch.randn(pooled.shape).to(tokens.dtype)
    grad_attention = torch.randn(attention.shape).to(attention.dtype)
    needs = [True] * 9
    gradients = backend.execution_backward(
        grad_pooled, grad_attention, *inputs.values(), attention, *chosen, needs, *packed
    )
    return [pooled, attention, *gradients]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(2, 3, 21, 40, 8), (1, 6, 16, 96, 32), (1, 1, 1, 1, 1)])
def test_same_bits_as_packing_anew(sizes, dtype):
    inputs = {name: t.to(dtype) for name, t in make_full(*sizes).items()}
    weights = (inputs["C1a"], inputs["C2"])
    tokens = inputs["v"].shape[1]
    packed = cpu.pack(*weights, tokens)
    want = run(inputs)
    for forward_only in (packed, cpu.pack(*weights, tokens, backward=False)):
        assert all(torch.equal(a, b) for a, b in zip(run(inputs, packed, forward_only), want, strict=True))


def test_the_packed_weights_are_those_used():
    """Those of other weights give what those weights do: the op does not look at its own."""
    inputs, others = make_full(2, 3, 21, 40, 8), make_full(2, 3, 21, 40, 8)
    other = inputs | {"C1a": others["C1a"], "C2": others["C2"]}
    packed = cpu.pack(other["C1a"], other["C2"], 21)
    assert all(torch.equal(a, b) for a, b in zip(run(inputs, packed, packed), run(other), strict=True))


def test_any_strides_are_packed_alike():
    matrix = torch.randn(40, 40)
    for view in (matrix.t(), torch.randn(80, 80)[::2, ::2], torch._neg_view(matrix)):
        plain = view.clone(memory_format=torch.contiguous_format).resolve_neg()
        assert all(
            torch.equal(a, b) for a, b in zip(cpu.pack(view, matrix, 7), cpu.pack(plain, matrix, 7), strict=True)
        )


def test_bad_arguments():
    inputs = make_full(2, 3, 7, 5, 4)
    packed = cpu.pack(inputs["C1a"], inputs["C2"], 7)
    with pytest.raises(ValueError, match=r"C2: expected \(5, 5\) float32, got \(4, 4\) float32"):
        cpu.pack(torch.randn(5, 5), torch.randn(4, 4), 7)
    with pytest.raises(ValueError, match="packed: expected none, 2 or 4 tensors of pack, got 1"):
        run(inputs, (), packed[:1])
    with pytest.raises(ValueError, match="packed: expected none or 4 tensors of pack, got 2"):
        run(inputs, packed[:2], ())
    with pytest.raises(ValueError, match=r"packed\[0\]: expected \(.*\) float32, got \(.*\) float32"):
        run(inputs, cpu.pack(torch.randn(99, 99), torch.randn(99, 99), 7), ())
    with pytest.raises(ValueError, match=r"packed\[1\]: expected \(.*\) float32, got \(.*\) float64"):
        run(inputs, (), (packed[0], packed[1].double()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("K", [1, 5])
def test_tiles_of_any_height(K, dtype):
    """Rows come in blocks of several heights, in the tiles as in the gradients of the weights."""
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    for N, R in [*((N, 8) for N in range(1, 46)), (103, 8), (118, 8), *((3, R) for R in range(1, 46))]:
        inputs = make_full(2, K, N, R, 4)
        found = run({name: t.to(dtype) for name, t in inputs.items()})
        want = run({name: t.double() for name, t in inputs.items()}, backend=eager)
        for a, b in zip(found, want, strict=True):
            assert (a.double() - b).norm() <= limit * (1 + b.norm()), (N, R)


@pytest.mark.parametrize("sizes", [(1, 6, 16, 96, 8), (1, 7, 30, 40, 8), (3, 5, 100, 40, 8), (32, 4, 10, 64, 8)])
def test_same_bits_where_tiles_are_few(sizes, threads):
    """Operations are shared between threads there, in groups that depend on the sizes alone."""
    inputs, found = make_full(*sizes), []
    for count in (1, 2, 3):
        threads(count)
        found.append(run(inputs))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
