"""What must see through a call: torch.func transforms, forward mode, and a graph of the backward pass.

A registered op is one node with a backward pass. torch.func cannot enter it, tangents would be lost in it without a
word, and its backward op has no derivative of its own. In those cases the eager algebra runs instead, plain PyTorch
that can be differentiated and mapped to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from iprm_kernels.autocast import without_autocast


def in_forward_mode() -> bool:
    """Whether a level of forward-mode derivatives is open, that of torch.func.jvp among them."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode level is active; while a compiler traces, its own matter."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or in_forward_mode()


def refuse_tangents(op: str) -> None:
    """Raise where an op itself is reached in forward mode, outside of a backward pass: it would drop the tangents."""
    if in_forward_mode() and torch._C._current_graph_task_id() == -1:
        raise RuntimeError(f"iprm::{op} has no forward-mode derivative; the functions in iprm_kernels have it")


def call(op: str, algebra: Callable[..., Any], backend: str, *args: Any) -> Any:
    """The registered op, or under a transform its algebra.

    Raises:
        RuntimeError: the named backend cannot be seen through.
    """
    if not transformed():
        return getattr(torch.ops.iprm, op)(*args, backend)
    if backend not in ("auto", "eager"):
        raise RuntimeError(
            f"backend {backend!r} cannot run {op} under torch.func or in forward mode, which see through the eager"
            " algebra alone: use backend 'auto' or 'eager'"
        )
    with without_autocast(args[0].device):
        return algebra(*args)


def backward(op: str, algebra: Callable[..., Any], backend: str, *args: Any) -> Any:
    """The registered backward op; its algebra where a graph of it is asked for (create_graph) or it is mapped."""
    if not (torch.is_grad_enabled() or transformed()):
        return getattr(torch.ops.iprm, op)(*args, backend)
    with without_autocast(args[0].device):
        return algebra(*args)


def needed(grads: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """The gradients, None in the place of those that were not asked for."""
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]
