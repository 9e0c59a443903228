"""Run a core and its oracle on the same inputs, forward and backward, and compare them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Inputs = dict[str, "Tensor | list[Tensor]"]


def leaves(inputs: Inputs) -> list[Tensor]:
    """The tensors of the inputs, lists opened."""
    return [t for value in inputs.values() for t in (value if isinstance(value, list) else [value])]


def mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with every tensor changed."""
    return {k: [change(t) for t in v] if isinstance(v, list) else change(v) for k, v in inputs.items()}


def run(core: Callable, inputs: Inputs, grads: list[Tensor], dtype: torch.dtype, **options) -> list[Tensor]:
    """Outputs and input gradients of the core in `dtype`; `grads` are the outputs' gradients."""
    inputs = mapped(inputs, lambda t: t.detach().to(dtype).requires_grad_())
    outputs = core(**inputs, **options)
    loss = sum((out.double() * grad).sum() for out, grad in zip(outputs, grads, strict=True))
    loss.backward()
    return [t.detach().double() for t in (*outputs, *(t.grad for t in leaves(inputs)))]


def relative_errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    """Largest error of each tensor, relative to its largest entry (to the largest of all where that is tiny)."""
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert g.isfinite().all()
    scale = max((w.abs().max().item() for w in want if w.numel()), default=1.0)
    return [
        ((g - w).abs().max() / max(w.abs().max().item(), 1e-3 * scale)).item() if w.numel() else 0.0
        for g, w in zip(got, want, strict=True)
    ]


def compare(core: Callable, oracle: Callable, inputs: Inputs, dtype: torch.dtype, backend: str, **options) -> None:
    """Hold the core to the oracle in float64.

    float64: to 1e-10. float32: each tensor's error is at most twice that of the oracle itself computed in float32, of
    which no less than sixteen roundings is assumed. bfloat16 and float16, where a single rounding decides the largest
    error of a small tensor: at most twice the oracle's largest error over all tensors.
    """
    exact_inputs = mapped(inputs, lambda t: t.to(dtype).double())
    grads = [torch.randn_like(out) for out in oracle(**exact_inputs, **options)]
    want = run(oracle, exact_inputs, grads, torch.float64, **options)
    got = run(core, exact_inputs, grads, dtype, backend=backend, **options)
    errors = relative_errors(got, want)
    if dtype == torch.float64:
        limits = [1e-10] * len(errors)
    else:
        eager = relative_errors(run(oracle, exact_inputs, grads, dtype, **options), want)
        eps = torch.finfo(dtype).eps
        worst = max(*eager, eps)
        limits = [2 * (max(e, 16 * eps) if dtype == torch.float32 else worst) for e in eager]
    for i, (error, limit) in enumerate(zip(errors, limits, strict=True)):
        assert error <= limit, f"tensor {i}: error {error:.2e} over the limit {limit:.2e} (all: {errors})"
