"""Operation execution over dropped visual tokens: the keys are made inside, and made again for the backward pass.

With visual dropout every step sees other tokens, x̃ = drop(V), and so has other keys. Kept for the backward pass they
would be T tensors of (B, N, D + 2R); here a step keeps nothing of (B, N, ·) but V itself, which all steps share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iprm_kernels import transforms
from iprm_kernels.activations import ACTIVATIONS, SLOPES
from iprm_kernels.autocast import cast, without_autocast
from iprm_kernels.backends import eager
from iprm_kernels.checks import check_floating, check_tensor
from iprm_kernels.dropout import Role, stream_of
from iprm_kernels.execution import check_shared, register

_OPTIONS = "Tensor seed, int step, float p_visual, float p_product, float p_attention, str activation"

Run = Callable[..., Any]
"""Runs an op by its name, on some backend: `_registered` and `_algebra` give the forms below theirs."""


def _registered(form: Callable[..., Any]) -> Callable[..., Any]:
    """The implementation of a registered op whose last argument names the backend, on which its parts then run."""

    def call(first: Tensor, *args: Any) -> Any:
        *given, backend = args

        def run(op: str, *args: Any) -> Any:
            return getattr(torch.ops.iprm, op)(*args, backend)

        with without_autocast(first.device):
            return form(run, first, *given)

    return call


def _algebra(form: Callable[..., Any]) -> Callable[..., Any]:
    """The form in eager algebra."""

    def run(op: str, *args: Any) -> Any:
        return getattr(eager, op)(*args)

    return partial(form, run)


def _dropped(run: Run, x: Tensor, seed: Tensor, step: int, p_visual: float) -> Tensor:
    return run("dropout", x, p_visual, seed, stream_of(step, Role.VISUAL))


def _weight_gradient(grad: Tensor, x: Tensor, need: bool) -> Tensor:
    """That of W in x Wᵀ, summed over (B, N)."""
    return grad.flatten(0, 1).mT @ x.flatten(0, 1) if need else eager.unneeded(x)


def _full(
    run: Run, V: Tensor, Wk: Tensor, bk: Tensor, C1b: Tensor, c1: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor,
    c2: Tensor, w: Tensor, mask: Tensor | None, seed: Tensor, step: int, p_visual: float, *rest: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = _dropped(run, V, seed, step, p_visual)
    v = F.linear(x, Wk, bk)
    u = F.linear(v, C1b, c1)
    return run("execution", v, u, g, l, C1a, C2, c2, w, x, mask, seed, step, *rest)


def _full_backward(
    run: Run, grad_pooled: Tensor, grad_attention: Tensor | None, V: Tensor, Wk: Tensor, bk: Tensor, C1b: Tensor,
    c1: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, attention: Tensor, seed: Tensor,
    step: int, p_visual: float, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *options, needs = rest
    x = _dropped(run, V, seed, step, p_visual)
    v = F.linear(x, Wk, bk)
    u = F.linear(v, C1b, c1)
    of_keys, of_core = any(needs[:5]), list(needs[5:])
    dv, du, *grads, dx = run(
        "execution_backward", grad_pooled, grad_attention, v, u, g, l, C1a, C2, c2, w, x, attention, seed, step,
        *options, [of_keys, of_keys, *of_core, needs[0]],
    )  # fmt: skip
    dv = dv + du @ C1b if any(needs[:3]) else dv
    dV = _dropped(run, dx + dv @ Wk, seed, step, p_visual) if needs[0] else eager.unneeded(V)
    dWk, dC1b = _weight_gradient(dv, x, needs[1]), _weight_gradient(du, v, needs[3])
    return dV, dWk, dv.sum((0, 1)), dC1b, du.sum((0, 1)), *grads


def _simple(
    run: Run, V: Tensor, C1: Tensor, c1: Tensor, C2: Tensor, c2: Tensor, query: Tensor, w: Tensor, mask: Tensor | None,
    seed: Tensor, step: int, p_visual: float, *rest: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = _dropped(run, V, seed, step, p_visual)
    κ = F.linear(ACTIVATIONS[rest[-1]](F.linear(x, C1, c1)), C2, c2)
    return run("execution_simple", κ, query, w, x, mask, seed, step, *rest)


def _simple_backward(
    run: Run, grad_pooled: Tensor, grad_attention: Tensor | None, V: Tensor, C1: Tensor, c1: Tensor, C2: Tensor,
    c2: Tensor, query: Tensor, w: Tensor, attention: Tensor, seed: Tensor, step: int, p_visual: float, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *options, needs = rest
    φ, slope = ACTIVATIONS[options[-1]], SLOPES[options[-1]]
    x = _dropped(run, V, seed, step, p_visual)
    before = F.linear(x, C1, c1)
    hidden = φ(before)
    κ = F.linear(hidden, C2, c2)
    dκ, d_query, dw, dx = run(
        "execution_simple_backward", grad_pooled, grad_attention, κ, query, w, x, attention, seed, step, *options,
        [any(needs[:5]), needs[5], needs[6], needs[0]],
    )  # fmt: skip
    d_before = (dκ @ C2) * slope(before) if any(needs[:3]) else eager.unneeded(before)
    dV = _dropped(run, dx + d_before @ C1, seed, step, p_visual) if needs[0] else eager.unneeded(V)
    dC1, dC2 = _weight_gradient(d_before, x, needs[1]), _weight_gradient(dκ, hidden, needs[3])
    dc1 = d_before.sum((0, 1)) if needs[2] else eager.unneeded(c1)
    return dV, dC1, dc1, dC2, dκ.sum((0, 1)), d_query, dw


register(
    "execution_dropped",
    ("V", "Wk", "bk", "C1b", "c1", "g", "l", "C1a", "C2", "c2", "w"),
    _OPTIONS,
    _registered(_full),
    _registered(_full_backward),
    _algebra(_full_backward),
    tokens="V",
    per_operation="g",
    skipped=("V", "Wk", "C1b", "C1a", "C2"),
)
register(
    "execution_simple_dropped",
    ("V", "C1", "c1", "C2", "c2", "query", "w"),
    _OPTIONS,
    _registered(_simple),
    _registered(_simple_backward),
    _algebra(_simple_backward),
    tokens="V",
    per_operation="query",
    skipped=("V", "C1", "c1", "C2"),
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
    check_shared("V", V, mask, seed, step, activation, **rates)
    check_tensor("seed", seed, (1,), torch.int64, V.device)
    return transforms.call(
        "execution_dropped", _algebra(_full), backend, V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, mask, seed, step,
        p_visual, p_product, p_attention, activation,
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
    check_shared("V", V, mask, seed, step, activation, **rates)
    check_tensor("seed", seed, (1,), torch.int64, V.device)
    return transforms.call(
        "execution_simple_dropped", _algebra(_simple), backend, V, C1, c1, C2, c2, query, w, mask, seed, step,
        p_visual, p_product, p_attention, activation,
    )  # fmt: skip
