"""The composition core: one launch forward, three backward. The window's states are read where they lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends.triton.configs import cdiv
from iprm_kernels.backends.triton.launch import add_parts, contiguous, launch, threshold_of
from iprm_kernels.philox import Role, stream_of


def rates(
    seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float
) -> tuple[tuple[Any, ...], dict[str, bool]]:
    """The kernel arguments of the four masks, and which of them drop anything."""
    arguments = (
        seed if p_product or p_value or p_attention else None,
        stream_of(step, Role.COMPOSITION_PRODUCT), *threshold_of(p_product),
        stream_of(step, Role.COMPOSITION_OPERATION), stream_of(step, Role.COMPOSITION_RESULT), *threshold_of(p_value),
        stream_of(step, Role.COMPOSITION_ATTENTION), *threshold_of(p_attention),
    )  # fmt: skip
    return arguments, {"DROP_PRODUCT": p_product > 0, "DROP_VALUE": p_value > 0, "DROP_ATTENTION": p_attention > 0}


def composition(
    query: Tensor, keys: list[Tensor], operations: list[Tensor], results: list[Tensor], gate: Tensor, mask_self: bool,
    seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    query, gate = contiguous(query, gate)
    windows = [tuple(contiguous(*states)) for states in (keys, operations, results)]
    B, K, D = query.shape
    pooled_o, pooled_e = torch.empty_like(query), torch.empty_like(query)
    attention = torch.empty(B, K, K * len(keys), dtype=torch.float32, device=query.device)
    drops, switches = rates(seed, step, p_product, p_value, p_attention)
    if B and K:
        launch(
            "composition_forward", lambda meta: (B * K,), query, *windows, gate, pooled_o, pooled_e, attention,
            *drops, K=K, BLOCKS=len(keys), D=D, MASK_SELF=mask_self, like=query, **switches,
        )  # fmt: skip
    return pooled_o, pooled_e, attention


def composition_backward(
    grad_operations: Tensor, grad_results: Tensor, grad_attention: Tensor | None, query: Tensor, keys: list[Tensor],
    operations: list[Tensor], results: list[Tensor], gate: Tensor, attention: Tensor, mask_self: bool,
    seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    query, gate, grad_o, grad_e, a = contiguous(query, gate, grad_operations, grad_results, attention)
    windows = [tuple(contiguous(*states)) for states in (keys, operations, results)]
    extra = None if grad_attention is None else grad_attention.contiguous()
    B, K, D = query.shape
    d_query, d_logits = torch.empty_like(query), torch.empty_like(a)
    d_gate = torch.empty(B * K, D, dtype=torch.float32, device=query.device)
    d_keys, d_operations, d_results = (tuple(torch.empty_like(query) for _ in keys) for _ in range(3))
    if B and K:
        drops, switches = rates(seed, step, p_product, p_value, p_attention)
        sizes: dict[str, Any] = {"K": K, "BLOCKS": len(keys), "D": D, "like": query} | switches
        launch(
            "operations_backward", lambda meta: (B * K,), grad_o, grad_e, extra, query, *windows, gate, a,
            d_logits, d_query, d_gate, *drops, ADD=extra is not None, **sizes,
        )  # fmt: skip
        launch(
            "columns_backward", lambda meta: (B, cdiv(K, meta["BK"]), cdiv(D, meta["BD"])), grad_o, grad_e, query, gate,
            a, d_logits, d_keys, d_operations, d_results, *drops, **sizes,
        )  # fmt: skip
    return d_query, list(d_keys), list(d_operations), list(d_results), add_parts(d_gate, torch.empty_like(gate))
