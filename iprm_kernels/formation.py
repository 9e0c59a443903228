"""Operation formation: each operation reads the language tokens through a gated product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels import backends, transforms
from iprm_kernels.autocast import cast
from iprm_kernels.backends import eager
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.checks import STEPS, check_floating, check_number, check_rate, check_tensor, check_tokens
from iprm_kernels.library import library

library.define(
    "formation(Tensor query, Tensor tokens, Tensor gate, Tensor? mask, Tensor? seed, int step, float p_attention,"
    " str backend) -> (Tensor, Tensor)"
)
library.define(
    "formation_backward(Tensor grad_z, Tensor? grad_attention, Tensor query, Tensor tokens, Tensor gate,"
    " Tensor attention, Tensor? seed, int step, float p_attention, bool[] needs, str backend)"
    " -> (Tensor, Tensor, Tensor)"
)


def _fake(query: Tensor, tokens: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    (B, K, D), L = query.shape, tokens.shape[1]
    return query.new_empty(B, K, D), query.new_empty(B, K, L, dtype=accumulator(query.dtype))


def _fake_backward(
    grad_z: Tensor, grad_attention: Tensor | None, query: Tensor, tokens: Tensor, gate: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    needs = rest[-2]
    return query.new_empty(query.shape), tokens.new_empty(tokens.shape if needs[1] else 0), gate.new_empty(gate.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, tokens, gate, _, seed, *ctx.options = inputs
    ctx.save_for_backward(query, tokens, gate, output[1], seed)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_z: Tensor | None, grad_attention: Tensor | None) -> tuple[Tensor | None, ...]:
    query, *saved = ctx.saved_tensors
    grad_z = torch.zeros_like(query) if grad_z is None else grad_z
    needs, (*options, backend) = list(ctx.needs_input_grad[:3]), ctx.options
    args = (grad_z, grad_attention, query, *saved, *options, needs)
    grads = transforms.backward("formation_backward", eager.formation_backward, backend, *args)
    return *transforms.needed(grads, needs), None, None, None, None, None


library.impl("formation", backends.implementation("formation"), "CompositeExplicitAutograd")
library.impl("formation_backward", backends.implementation("formation_backward"), "CompositeExplicitAutograd")
torch.library.register_fake("iprm::formation", _fake, lib=library)
torch.library.register_fake("iprm::formation_backward", _fake_backward, lib=library)
torch.library.register_autograd("iprm::formation", _autograd, setup_context=_setup_context, lib=library)


def formation(
    query: Tensor,  # (B, K, D)
    tokens: Tensor,  # (B, L, D)
    gate: Tensor,  # (D,)
    mask: Tensor | None = None,  # (B, L) bool
    *,
    seed: Tensor | None = None,  # (1,) int64
    step: int = 0,
    p_attention: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The core of operation formation (mechanism.md, step 1).

        s_kj = gate · (query_k ⊙ tokens_j),  a = softmax_j(masked s),  z_k = Σ_j drop(a_kj) tokens_j

    Args:
        query: q (B, K, D).  tokens: x (B, L, D).  gate: f (D,). One floating dtype, any strides.
        mask: (B, L) bool, true = keep; a fully masked row attends uniformly.
        seed: (1,) int64, needed when p_attention > 0.  step: t, which numbers the dropout masks.
        p_attention: rate of drop, in [0, 1).
        backend: "auto", or the backend that must run it.
    Returns:
        z (B, K, D) in the inputs' dtype, and a (B, K, L), the probabilities before dropout, in float32 (float64 for
        float64). Both are differentiable.
    Raises:
        ValueError: a wrong shape, dtype, device or rate.  RuntimeError: the named backend cannot run here.
    """
    check_floating("query", query)
    query, tokens, gate = cast(query.device, query, tokens, gate)
    like = (query.dtype, query.device)
    check_tensor("query", query, ("B", "K", "D"), *like)
    B, _, D = query.shape
    check_tensor("tokens", tokens, (B, "L", D), *like)
    check_tokens("tokens", tokens)
    check_tensor("gate", gate, (D,), *like)
    if mask is not None:
        check_tensor("mask", mask, (B, tokens.shape[1]), torch.bool, query.device)
    check_number("step", step, STEPS)
    check_rate("p_attention", p_attention, seed, query.device)
    return transforms.call("formation", eager.formation, backend, query, tokens, gate, mask, seed, step, p_attention)
