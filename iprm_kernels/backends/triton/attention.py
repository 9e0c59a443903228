"""Launches of the kernels in `attend.py`. All tensors contiguous, masks as bytes, `drop` from `launch.draws_of`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends.triton.configs import OPERATIONS, cdiv
from iprm_kernels.backends.triton.launch import Draws, Grid, launch, precision

UNUSED = Draws(None, 0, 0, 1.0)


def sizes(tokens: Tensor, K: int) -> dict[str, Any]:
    """The arguments that all of these kernels take."""
    _, N, D = tokens.shape
    return {"K": K, "N": N, "D": D, "like": tokens, "PRECISION": precision(tokens.dtype)}


def products(
    query: Tensor, tokens: Tensor, gate: Tensor | None = None, drop: Draws = UNUSED, extra: Tensor | None = None
) -> Tensor:
    """(B, K, D), (B, N, D) -> (B, K, N) float32, times the dropout multipliers, plus `extra`."""
    (B, K, _), N = query.shape, tokens.shape[1]
    out = torch.empty(B, K, N, dtype=torch.float32, device=tokens.device)
    if B and K:
        launch(
            "products", lambda meta: (B * cdiv(N, meta["BN"]), cdiv(K, meta["BK"])), query, gate, tokens, extra, out,
            *drop, ALIGNED=N % 4 == 0, GATED=gate is not None, ADD=extra is not None, DROP=drop.on, **sizes(tokens, K),
        )  # fmt: skip
    return out


def pool(logits: Tensor, tokens: Tensor, mask: Tensor | None, drop: Draws) -> tuple[Tensor, Tensor]:
    """(B, K, N), (B, N, D) -> pooled (B, K, D), attention (B, K, N) float32."""
    (B, K, N), D = logits.shape, tokens.shape[2]
    pooled, a = tokens.new_empty(B, K, D), torch.empty_like(logits)
    if B and K:
        launch(
            "pool", lambda meta: (B, cdiv(D, meta["BD"]), cdiv(K, meta["BK"])), logits, mask, tokens, pooled, a,
            *drop, ALIGNED=N % 4 == 0, MASKED=mask is not None, DROP=drop.on, **sizes(tokens, K),
        )  # fmt: skip
    return pooled, a


def d_logits(grad: Tensor, grad_attention: Tensor | None, tokens: Tensor, a: Tensor, drop: Draws) -> Tensor:
    """The gradient (B, K, N) float32 of the logits, from those of the pooled values and of the probabilities."""
    extra = None if grad_attention is None else grad_attention.contiguous()
    da = products(grad, tokens, None, drop, extra)
    B, K, N = a.shape
    if B and K:
        launch("slope", lambda meta: (B * K,), a, da, N=N, like=a)
    return da


def d_tokens(
    grad: Tensor, a: Tensor, drop: Draws, tokens: Tensor, ds: Tensor | None = None, query: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(B, N, D): the gradient of the tokens, with that of the logits where ds, query and gate are given."""
    B, K, N = a.shape
    out = torch.empty_like(tokens)
    if B:
        launch(
            "d_tokens", lambda meta: (B * cdiv(N, meta["BN"]), cdiv(tokens.shape[2], meta["BD"])), a, grad, ds, query,
            gate, out, *drop, ALIGNED=N % 4 == 0, GATED=ds is not None, DROP=drop.on, **sizes(tokens, K),
        )  # fmt: skip
    return out


def d_query(ds: Tensor, tokens: Tensor, query: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the query and the parts (B, blocks, D) float32 of the gate's."""
    B, K, D = query.shape
    out = torch.empty_like(query)
    parts = torch.empty(B, cdiv(K, OPERATIONS), D, dtype=torch.float32, device=query.device)
    if B and K:
        grid: Grid = lambda meta: (B, cdiv(D, meta["BD"]), parts.shape[1])  # noqa: E731
        launch("d_query", grid, ds, tokens, query, gate, out, parts, **sizes(tokens, K))
    return out, parts
