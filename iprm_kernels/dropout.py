"""The registered ops `dropout`, whose masks are those that `iprm_kernels.philox` defines, and `draw_seed`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels import backends, transforms
from iprm_kernels.backends import eager
from iprm_kernels.checks import check_floating, check_number, check_rate
from iprm_kernels.library import library
from iprm_kernels.philox import Role, scaled_mask, stream_of

__all__ = ["Role", "draw_seed", "dropout", "scaled_mask", "stream_of"]


# An op, so that a compiler does not draw numbers of its own in its place: compiled or not, the same masks from the same
# torch.manual_seed. The tag keeps it from being drawn again for a backward pass, and the argument, an empty tensor of
# which a compiler never takes two for one, two calls from being taken for one.
library.define("draw_seed(Tensor like) -> Tensor", tags=torch.Tag.nondeterministic_seeded)


def _random_seed(like: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=like.device)


def _fake_seed(like: Tensor) -> Tensor:
    return like.new_empty(1, dtype=torch.int64)


library.impl("draw_seed", _random_seed, "CompositeExplicitAutograd")
torch.library.register_fake("iprm::draw_seed", _fake_seed, lib=library)


def draw_seed(device: torch.device | str) -> Tensor:
    """A fresh seed, int64 (1,), from torch's generator of `device`; no host synchronisation.

    Under torch.func.vmap its `randomness` says whether the samples share it.
    """
    draw = _random_seed if transforms.transformed() else torch.ops.iprm.draw_seed
    return draw(torch.empty(0, device=device))


library.define("dropout(Tensor x, float p, Tensor seed, int stream, str backend) -> Tensor")


def _dropout(x: Tensor, p: float, seed: Tensor, stream: int, backend: str) -> Tensor:
    return backends.run(backend, "dropout", x, p, seed, stream)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.p, seed, ctx.stream, ctx.backend = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    (seed,) = ctx.saved_tensors
    return torch.ops.iprm.dropout(grad, ctx.p, seed, ctx.stream, ctx.backend), None, None, None, None


library.impl("dropout", _dropout, "CompositeExplicitAutograd")
torch.library.register_fake("iprm::dropout", _fake, lib=library)
torch.library.register_autograd("iprm::dropout", _backward, setup_context=_setup_context, lib=library)


def dropout(x: Tensor, p: float, seed: Tensor | None, stream: int, *, backend: str = "auto") -> Tensor:
    """x times the dropout mask `stream` of `seed`; x itself when p = 0. Differentiable in x; saves no mask.

    Args:
        x: any shape and strides; float32, float64, bfloat16 or float16.
        p: the rate, in [0, 1).
        seed: (1,) int64 on x's device; may be None when p = 0.
        stream: the mask's number, see `stream_of`, below 2^32.
        backend: "auto", or the backend that must run it.
    Returns:
        like x, contiguous.
    Raises:
        ValueError: a rate outside [0, 1), a missing or wrong seed, a stream out of range, an unsupported dtype.
        RuntimeError: the named backend cannot run here.
    """
    check_floating("x", x)
    check_rate("p", p, seed, x.device)
    check_number("stream", stream, 2**32)
    if p == 0.0:
        return x
    return transforms.call("dropout", eager.dropout, backend, x, p, seed, stream)
