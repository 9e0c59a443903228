"""Operation execution: each operation attends over the visual tokens through a small network of every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iprm_kernels import backends, transforms
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast
from iprm_kernels.backends import eager
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.checks import (
    STEPS,
    check_choice,
    check_floating,
    check_number,
    check_rate,
    check_tensor,
    check_tokens,
)
from iprm_kernels.library import library

_OPTIONS = "Tensor? seed, int step, float p_product, float p_attention, str activation"


def register(
    op: str,
    names: tuple[str, ...],
    options: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    algebra: Callable[..., Any],
    *,
    tokens: str,
    per_operation: str,
    skipped: tuple[str, ...],
) -> None:
    """Register an attention over visual tokens, (*tensors, mask, *options) -> (pooled, attention), and its backward.

    Args:
        names: of the differentiable tensors, in order.  options: schema of what follows the mask, the seed first; the
            backward op then has `needs`, one flag for each of `names`, and both end with the backend.
        forward, backward: the implementations.  algebra: the backward in eager algebra, for a graph of it.
        tokens, per_operation: the names of a (B, N, D) and of a (B, K, ·) tensor, which give the outputs' sizes.
        skipped: whose gradients are empty where not needed, since they take products of their own.
    """
    count, tensors = len(names), ", ".join(f"Tensor {name}" for name in names)
    token_index, operation_index = names.index(tokens), names.index(per_operation)
    library.define(f"{op}({tensors}, Tensor? mask, {options}, str backend) -> (Tensor, Tensor)")
    library.define(
        f"{op}_backward(Tensor grad_pooled, Tensor? grad_attention, {tensors}, Tensor attention, {options},"
        f" bool[] needs, str backend) -> ({', '.join(['Tensor'] * count)})"
    )

    def fake(*args: Any) -> tuple[Tensor, Tensor]:
        (B, K, _), like = args[operation_index].shape, args[token_index]
        _, N, D = like.shape
        return like.new_empty(B, K, D), like.new_empty(B, K, N, dtype=accumulator(like.dtype))

    def fake_backward(grad_pooled: Tensor, grad_attention: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
        needs = args[-2]
        empty = [name in skipped and not need for name, need in zip(names, needs, strict=True)]
        return tuple(t.new_empty(0 if e else t.shape) for t, e in zip(args[:count], empty, strict=True))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        seed, *ctx.options = inputs[count + 1 :]
        ctx.pooled_shape = output[0].shape
        ctx.save_for_backward(*inputs[:count], output[1], seed)
        ctx.set_materialize_grads(False)

    def autograd(ctx: Any, grad_pooled: Tensor | None, grad_attention: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, (*rest, backend) = ctx.saved_tensors, ctx.options
        if grad_pooled is None:
            grad_pooled = saved[token_index].new_zeros(ctx.pooled_shape)
        needs = list(ctx.needs_input_grad[:count])
        args = (grad_pooled, grad_attention, *saved, *rest, needs)
        grads = transforms.backward(f"{op}_backward", algebra, backend, *args)
        return *transforms.needed(grads, needs), *([None] * (2 + len(ctx.options)))

    library.impl(op, forward, "CompositeExplicitAutograd")
    library.impl(f"{op}_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"iprm::{op}", fake, lib=library)
    torch.library.register_fake(f"iprm::{op}_backward", fake_backward, lib=library)
    torch.library.register_autograd(f"iprm::{op}", autograd, setup_context=setup_context, lib=library)


for _op, _names, _per_operation, _skipped in (
    ("execution", ("v", "u", "g", "l", "C1a", "C2", "c2", "w", "tokens"), "g", ("C1a", "C2", "tokens")),
    ("execution_simple", ("keys", "query", "w", "tokens"), "query", ("tokens",)),
):
    register(
        _op,
        _names,
        _OPTIONS,
        backends.implementation(_op),
        backends.implementation(f"{_op}_backward"),
        getattr(eager, f"{_op}_backward"),
        tokens="tokens",
        per_operation=_per_operation,
        skipped=_skipped,
    )


def check_shared(
    name: str, tokens: Tensor, mask: Tensor | None, seed: Tensor | None, step: int, activation: str, **rates: float
) -> None:
    """The checks that all forms of execution share; `name` is what the (B, N, D) tokens are called there."""
    check_tokens(name, tokens)
    if mask is not None:
        check_tensor("mask", mask, tokens.shape[:2], torch.bool, tokens.device)
    check_number("step", step, STEPS)
    for rate, p in rates.items():
        check_rate(rate, p, seed, tokens.device)
    check_choice("activation", activation, tuple(ACTIVATIONS))


def execution(
    v: Tensor,  # (B, N, R)
    u: Tensor,  # (B, N, R)
    g: Tensor,  # (B, K, R)
    l: Tensor,  # (B, K, R)
    C1a: Tensor,  # (R, R)
    C2: Tensor,  # (R, R)
    c2: Tensor,  # (R,)
    w: Tensor,  # (R,)
    tokens: Tensor,  # (B, N, D)
    mask: Tensor | None = None,  # (B, N) bool
    *,
    activation: str = "elu",
    seed: Tensor | None = None,  # (1,) int64
    step: int = 0,
    p_product: float = 0.0,
    p_attention: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The core of operation execution (mechanism.md, step 2, execution = "full").

        h_kn = C2 φ(C1a (g_k ⊙ v_n) + u_n) + c2,  s_kn = w · drop(φ(h_kn ⊙ l_k)),  a = softmax_n(masked s)
        pooled_k = Σ_n drop(a_kn) tokens_n

    No tensor of size B·K·N·R is made: the backward pass recomputes a tile of it at a time.

    Args:
        v: Wk x̃ (B, N, R).  u: C1b v + c1 (B, N, R).  g: We ê + Wz drop(z) (B, K, R).  l: Wq z (B, K, R).
        C1a: the first R columns of C1 (R, R).  C2: (R, R).  c2: its bias (R,).  w: (R,).
        tokens: x̃ (B, N, D). All of one floating dtype, any strides.
        mask: (B, N) bool, true = keep; a fully masked row attends uniformly.
        activation: φ, a name in `iprm_kernels.activations.ACTIVATIONS`.
        seed: (1,) int64, needed when a rate is positive.  step: t, which numbers the dropout masks.
        p_product, p_attention: rates of the two drops, in [0, 1).
        backend: "auto", or the backend that must run it.
    Returns:
        pooled (B, K, D) in the inputs' dtype, and a (B, K, N), the probabilities before dropout, in float32 (float64
        for float64). Both are differentiable.
    Raises:
        ValueError: a wrong shape, dtype, device, rate or activation.
        RuntimeError: the named backend cannot run here.
    """
    check_floating("v", v)
    v, u, g, l, C1a, C2, c2, w, tokens = cast(v.device, v, u, g, l, C1a, C2, c2, w, tokens)
    like = (v.dtype, v.device)
    check_tensor("v", v, ("B", "N", "R"), *like)
    B, N, R = v.shape
    check_tensor("u", u, (B, N, R), *like)
    check_tensor("g", g, (B, "K", R), *like)
    check_tensor("l", l, (B, g.shape[1], R), *like)
    check_tensor("C1a", C1a, (R, R), *like)
    check_tensor("C2", C2, (R, R), *like)
    check_tensor("c2", c2, (R,), *like)
    check_tensor("w", w, (R,), *like)
    check_tensor("tokens", tokens, (B, N, "D"), *like)
    check_shared("tokens", tokens, mask, seed, step, activation, p_product=p_product, p_attention=p_attention)
    return transforms.call(
        "execution", eager.execution, backend, v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product,
        p_attention, activation,
    )  # fmt: skip


def execution_simple(
    keys: Tensor,  # (B, N, R)
    query: Tensor,  # (B, K, R)
    w: Tensor,  # (R,)
    tokens: Tensor,  # (B, N, D)
    mask: Tensor | None = None,  # (B, N) bool
    *,
    activation: str = "elu",
    seed: Tensor | None = None,  # (1,) int64
    step: int = 0,
    p_product: float = 0.0,
    p_attention: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The core of operation execution (mechanism.md, step 2, execution = "simple").

        s_kn = w · drop(φ(query_k ⊙ keys_n)),  a = softmax_n(masked s),  pooled_k = Σ_n drop(a_kn) tokens_n

    Args:
        keys: κ (B, N, R).  query: p (B, K, R).  w: (R,).  tokens: x̃ (B, N, D).
        The others, the results and the errors are those of `execution`.
    """
    check_floating("keys", keys)
    keys, query, w, tokens = cast(keys.device, keys, query, w, tokens)
    like = (keys.dtype, keys.device)
    check_tensor("keys", keys, ("B", "N", "R"), *like)
    B, N, R = keys.shape
    check_tensor("query", query, (B, "K", R), *like)
    check_tensor("w", w, (R,), *like)
    check_tensor("tokens", tokens, (B, N, "D"), *like)
    check_shared("tokens", tokens, mask, seed, step, activation, p_product=p_product, p_attention=p_attention)
    return transforms.call(
        "execution_simple", eager.execution_simple, backend, keys, query, w, tokens, mask, seed, step, p_product,
        p_attention, activation,
    )  # fmt: skip
