"""Operation execution over dropped visual tokens: the keys are made inside, and made again for the backward pass.

With visual dropout every step sees other tokens, x̃ = drop(V), and so has other keys. Kept for the backward pass they
would be T tensors of (B, N, D + 2R); here a step keeps nothing of (B, N, ·) but V itself, which all steps share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, SLOPES
from iprm_kernels.autocast import cast
from iprm_kernels.checks import check_floating, check_tensor
from iprm_kernels.dropout import Role, stream_of
from iprm_kernels.execution import check_shared, register

_OPTIONS = "Tensor seed, int step, float p_visual, float p_product, float p_attention, str activation, str backend"


def _dropped(x: Tensor, options) -> Tensor:
    seed, step, p_visual, *_, backend = options
    return torch.ops.iprm.dropout(x, p_visual, seed, stream_of(step, Role.VISUAL), backend)


def _core_options(options):
    """The options of the core: all but p_visual."""
    seed, step, _, *rest = options
    return seed, step, *rest


def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias of x Wᵀ + b, all (B, N, ·) but the last two."""
    rows = grad.flatten(0, 1)
    return grad @ weight, rows.mT @ x.flatten(0, 1), rows.sum(0)


def _full(V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, mask, *options):
    x = _dropped(V, options)
    v = F.linear(x, Wk, bk)
    u = F.linear(v, C1b, c1)
    return torch.ops.iprm.execution(v, u, g, l, C1a, C2, c2, w, x, mask, *_core_options(options))


def _full_backward(grad_pooled, grad_attention, V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, attention, *options):
    x = _dropped(V, options)
    v = F.linear(x, Wk, bk)
    u = F.linear(v, C1b, c1)
    dv, du, *grads, dx = torch.ops.iprm.execution_backward(
        grad_pooled, grad_attention, v, u, g, l, C1a, C2, c2, w, x, attention, *_core_options(options)
    )
    dv_of_u, dC1b, dc1 = _linear_backward(du, v, C1b)
    dx_of_v, dWk, dbk = _linear_backward(dv + dv_of_u, x, Wk)
    return _dropped(dx + dx_of_v, options), dWk, dbk, dC1b, dc1, *grads


def _simple(V, C1, c1, C2, c2, query, w, mask, *options):
    x = _dropped(V, options)
    κ = F.linear(ACTIVATIONS[options[-2]](F.linear(x, C1, c1)), C2, c2)
    return torch.ops.iprm.execution_simple(κ, query, w, x, mask, *_core_options(options))


def _simple_backward(grad_pooled, grad_attention, V, C1, c1, C2, c2, query, w, attention, *options):
    activation = options[-2]
    x = _dropped(V, options)
    before = F.linear(x, C1, c1)
    hidden = ACTIVATIONS[activation](before)
    κ = F.linear(hidden, C2, c2)
    dκ, d_query, dw, dx = torch.ops.iprm.execution_simple_backward(
        grad_pooled, grad_attention, κ, query, w, x, attention, *_core_options(options)
    )
    d_hidden, dC2, dc2 = _linear_backward(dκ, hidden, C2)
    dx_of_κ, dC1, dc1 = _linear_backward(d_hidden * SLOPES[activation](before), x, C1)
    return _dropped(dx + dx_of_κ, options), dC1, dc1, dC2, dc2, d_query, dw


register(
    "execution_dropped",
    ("V", "Wk", "bk", "C1b", "c1", "g", "l", "C1a", "C2", "c2", "w"),
    _OPTIONS,
    _full,
    _full_backward,
    tokens="V",
    per_operation="g",
)
register(
    "execution_simple_dropped",
    ("V", "C1", "c1", "C2", "c2", "query", "w"),
    _OPTIONS,
    _simple,
    _simple_backward,
    tokens="V",
    per_operation="query",
)


def execution_dropped(
    V: Tensor,  # (B, N, D)
    Wk: Tensor,  # (R, D)
    bk: Tensor,  # (R,)
    C1b: Tensor,  # (R, R)
    c1: Tensor,  # (R,)
    g: Tensor,  # (B, K, R)
    l: Tensor,  # (B, K, R)
    C1a: Tensor,  # (R, R)
    C2: Tensor,  # (R, R)
    c2: Tensor,  # (R,)
    w: Tensor,  # (R,)
    mask: Tensor | None = None,  # (B, N) bool
    *,
    seed: Tensor,  # (1,) int64
    step: int = 0,
    p_visual: float,
    p_product: float = 0.0,
    p_attention: float = 0.0,
    activation: str = "elu",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`execution` with x̃ = drop(V), v = Wk x̃ + bk and u = C1b v + c1 made inside (mechanism.md, step 2).

    Args:
        V: the undropped visual tokens (B, N, D).  Wk, bk: (R, D), (R,).  C1b, c1: the last R columns of C1 (R, R)
            and its bias (R,).
        p_visual: rate of drop(V), in [0, 1).
        The others, the results and the errors are those of `execution`; the seed is required.
    """
    check_floating("V", V)
    V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w = cast(V.device, V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w)
    like = (V.dtype, V.device)
    check_tensor("V", V, ("B", "N", "D"), *like)
    B, _, D = V.shape
    check_tensor("g", g, (B, "K", "R"), *like)
    R = g.shape[2]
    check_tensor("l", l, g.shape, *like)
    check_tensor("Wk", Wk, (R, D), *like)
    for name, square in (("C1b", C1b), ("C1a", C1a), ("C2", C2)):
        check_tensor(name, square, (R, R), *like)
    for name, row in (("bk", bk), ("c1", c1), ("c2", c2), ("w", w)):
        check_tensor(name, row, (R,), *like)
    rates = {"p_visual": p_visual, "p_product": p_product, "p_attention": p_attention}
    check_shared("V", V, mask, seed, activation, **rates)
    check_tensor("seed", seed, (1,), torch.int64, V.device)
    return torch.ops.iprm.execution_dropped(
        V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, mask, seed, step, p_visual, p_product, p_attention, activation,
        backend,
    )  # fmt: skip


def execution_simple_dropped(
    V: Tensor,  # (B, N, D)
    C1: Tensor,  # (R, D)
    c1: Tensor,  # (R,)
    C2: Tensor,  # (R, R)
    c2: Tensor,  # (R,)
    query: Tensor,  # (B, K, R)
    w: Tensor,  # (R,)
    mask: Tensor | None = None,  # (B, N) bool
    *,
    seed: Tensor,  # (1,) int64
    step: int = 0,
    p_visual: float,
    p_product: float = 0.0,
    p_attention: float = 0.0,
    activation: str = "elu",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`execution_simple` with x̃ = drop(V) and κ = C2 φ(C1 x̃ + c1) + c2 made inside (mechanism.md, step 2).

    Args:
        V: the undropped visual tokens (B, N, D).  C1, c1: (R, D), (R,).  C2, c2: (R, R), (R,).
        p_visual: rate of drop(V), in [0, 1).
        The others, the results and the errors are those of `execution_simple`; the seed is required.
    """
    check_floating("V", V)
    V, C1, c1, C2, c2, query, w = cast(V.device, V, C1, c1, C2, c2, query, w)
    like = (V.dtype, V.device)
    check_tensor("V", V, ("B", "N", "D"), *like)
    B, _, D = V.shape
    check_tensor("query", query, (B, "K", "R"), *like)
    R = query.shape[2]
    check_tensor("C1", C1, (R, D), *like)
    check_tensor("C2", C2, (R, R), *like)
    for name, row in (("c1", c1), ("c2", c2), ("w", w)):
        check_tensor(name, row, (R,), *like)
    rates = {"p_visual": p_visual, "p_product": p_product, "p_attention": p_attention}
    check_shared("V", V, mask, seed, activation, **rates)
    check_tensor("seed", seed, (1,), torch.int64, V.device)
    return torch.ops.iprm.execution_simple_dropped(
        V, C1, c1, C2, c2, query, w, mask, seed, step, p_visual, p_product, p_attention, activation, backend
    )
