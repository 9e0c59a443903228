"""Operation execution: each operation attends over the visual tokens through a small network of every pair."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels import backends
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.checks import check_choice, check_floating, check_tensor, check_tokens
from iprm_kernels.dropout import check_rate
from iprm_kernels.library import library

_OPTIONS = "Tensor? seed, int step, float p_product, float p_attention, str activation, str backend"
_FULL = "Tensor v, Tensor u, Tensor g, Tensor l, Tensor C1a, Tensor C2, Tensor c2, Tensor w, Tensor tokens"
_SIMPLE = "Tensor keys, Tensor query, Tensor w, Tensor tokens"
_GRADS = "Tensor grad_pooled, Tensor? grad_attention"

library.define(f"execution({_FULL}, Tensor? mask, {_OPTIONS}) -> (Tensor, Tensor)")
library.define(
    f"execution_backward({_GRADS}, {_FULL}, Tensor attention, {_OPTIONS}) -> ({', '.join(['Tensor'] * 9)})"
)
library.define(f"execution_simple({_SIMPLE}, Tensor? mask, {_OPTIONS}) -> (Tensor, Tensor)")
library.define(
    f"execution_simple_backward({_GRADS}, {_SIMPLE}, Tensor attention, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def _register(op: str, count: int) -> None:
    """Register `op` and its backward; its first `count` arguments are the differentiable tensors, tokens last."""

    def forward(*args):
        *args, backend = args
        return backends.run(backend, op, *args)

    def backward(*args):
        *args, backend = args
        return backends.run(backend, f"{op}_backward", *args)

    def fake(*args):
        per_operation, tokens = args[2 if op == "execution" else 1], args[count - 1]
        (B, K, _), (_, N, D) = per_operation.shape, tokens.shape
        return tokens.new_empty(B, K, D), tokens.new_empty(B, K, N, dtype=accumulator(tokens.dtype))

    def fake_backward(grad_pooled, grad_attention, *args):
        return tuple(t.new_empty(t.shape) for t in args[:count])

    def setup_context(ctx, inputs, output):
        seed, *ctx.options = inputs[count + 1 :]
        ctx.pooled_shape = output[0].shape
        ctx.save_for_backward(*inputs[:count], output[1], seed)
        ctx.set_materialize_grads(False)

    def autograd(ctx, grad_pooled, grad_attention):
        saved = ctx.saved_tensors
        if grad_pooled is None:
            grad_pooled = saved[count - 1].new_zeros(ctx.pooled_shape)
        run = getattr(torch.ops.iprm, f"{op}_backward")
        return *run(grad_pooled, grad_attention, *saved, *ctx.options), *([None] * 7)

    library.impl(op, forward, "CompositeExplicitAutograd")
    library.impl(f"{op}_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"iprm::{op}", fake, lib=library)
    torch.library.register_fake(f"iprm::{op}_backward", fake_backward, lib=library)
    torch.library.register_autograd(f"iprm::{op}", autograd, setup_context=setup_context, lib=library)


_register("execution", 9)
_register("execution_simple", 4)


def _check_shared(tokens, mask, B, N, seed, p_product, p_attention, activation) -> None:
    check_tokens("tokens", tokens)
    if mask is not None:
        check_tensor("mask", mask, (B, N), torch.bool, tokens.device)
    check_rate("p_product", p_product, seed, tokens.device)
    check_rate("p_attention", p_attention, seed, tokens.device)
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
    _check_shared(tokens, mask, B, N, seed, p_product, p_attention, activation)
    return torch.ops.iprm.execution(
        v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product, p_attention, activation, backend
    )


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
    _check_shared(tokens, mask, B, N, seed, p_product, p_attention, activation)
    return torch.ops.iprm.execution_simple(
        keys, query, w, tokens, mask, seed, step, p_product, p_attention, activation, backend
    )
