"""The formation core: s = (f ⊙ q) · x, softmax, z = Σ drop(a) x; forward two launches, backward five."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iprm_kernels.backends.eager import unneeded
from iprm_kernels.backends.triton import attention
from iprm_kernels.backends.triton.launch import add_parts, bytes_of, contiguous, draws_of
from iprm_kernels.philox import Role


def formation(
    query: Tensor, tokens: Tensor, gate: Tensor, mask: Tensor | None, seed: Tensor | None, step: int, p_attention: float
) -> tuple[Tensor, Tensor]:
    query, tokens, gate = contiguous(query, tokens, gate)
    logits = attention.products(query, tokens, gate)
    return attention.pool(logits, tokens, bytes_of(mask), draws_of(p_attention, seed, step, Role.FORMATION_ATTENTION))


def formation_backward(
    grad_z: Tensor, grad_attention: Tensor | None, query: Tensor, tokens: Tensor, gate: Tensor, attention_: Tensor,
    seed: Tensor | None, step: int, p_attention: float, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    drop = draws_of(p_attention, seed, step, Role.FORMATION_ATTENTION)
    grad_z, query, tokens, gate, a = contiguous(grad_z, query, tokens, gate, attention_)
    ds = attention.d_logits(grad_z, grad_attention, tokens, a, drop)
    d_tokens = attention.d_tokens(grad_z, a, drop, tokens, ds, query, gate) if needs[1] else unneeded(tokens)
    d_query, d_gate = attention.d_query(ds, tokens, query, gate)
    return d_query, d_tokens, add_parts(d_gate.flatten(0, 1), torch.empty_like(gate))
