"""The registered op `dropout`, whose masks are those that `iprm_kernels.philox` defines."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels import backends
from iprm_kernels.checks import check_floating, described
from iprm_kernels.library import library
from iprm_kernels.philox import Role, draw_seed, scaled_mask, stream_of

__all__ = ["Role", "check_rate", "draw_seed", "dropout", "scaled_mask", "stream_of"]


def check_rate(name: str, p: float, seed: Tensor | None, device: torch.device) -> None:
    """Raise unless p is in [0, 1) and, where p > 0, the seed is an int64 (1,) tensor on `device`."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{name}: expected a rate in [0, 1), got {p}")
    if p > 0.0 and not (
        isinstance(seed, Tensor) and seed.dtype == torch.int64 and seed.shape == (1,) and seed.device == device
    ):
        raise ValueError(f"seed: expected (1,) int64 on {device} because {name} = {p}, got {described(seed)}")


library.define("dropout(Tensor x, float p, Tensor seed, int stream, str backend) -> Tensor")


def _dropout(x: Tensor, p: float, seed: Tensor, stream: int, backend: str) -> Tensor:
    return backends.run(backend, "dropout", x, p, seed, stream)


def _setup_context(ctx, inputs, output) -> None:
    _, ctx.p, seed, ctx.stream, ctx.backend = inputs
    ctx.save_for_backward(seed)


def _backward(ctx, grad):
    (seed,) = ctx.saved_tensors
    return torch.ops.iprm.dropout(grad, ctx.p, seed, ctx.stream, ctx.backend), None, None, None, None


library.impl("dropout", _dropout, "CompositeExplicitAutograd")
torch.library.register_fake("iprm::dropout", lambda x, p, seed, stream, backend: x.new_empty(x.shape), lib=library)
torch.library.register_autograd("iprm::dropout", _backward, setup_context=_setup_context, lib=library)


def dropout(x: Tensor, p: float, seed: Tensor | None, stream: int, *, backend: str = "auto") -> Tensor:
    """x times the dropout mask `stream` of `seed`; x itself when p = 0. Differentiable in x; saves no mask.

    Args:
        x: any shape and strides; float32, float64, bfloat16 or float16.
        p: the rate, in [0, 1).
        seed: (1,) int64 on x's device; may be None when p = 0.
        stream: the mask's number, see `stream_of`.
        backend: "auto", or the backend that must run it.
    Returns:
        like x, contiguous.
    Raises:
        ValueError: a rate outside [0, 1), a missing or wrong seed, an unsupported dtype.
        RuntimeError: the named backend cannot run here.
    """
    check_floating("x", x)
    check_rate("p", p, seed, x.device)
    if p == 0.0:
        return x
    return torch.ops.iprm.dropout(x, p, seed, stream, backend)
