"""The composition core: one launch forward, two backward. The window's states are read where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels.backends.triton.launch import cdiv, contiguous, launch, threshold_of
from iprm_kernels.philox import Role, stream_of


def rates(seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float) -> dict:
    """The kernel arguments of the four masks."""
    threshold_and_scale = {
        f"{name}_{what}": value
        for name, p in (("product", p_product), ("value", p_value), ("attention", p_attention))
        for what, value in zip(("threshold", "scale"), threshold_of(p), strict=True)
    }
    return {
        "seed": seed if p_product or p_value or p_attention else None,
        "product_stream": stream_of(step, Role.COMPOSITION_PRODUCT),
        "operation_stream": stream_of(step, Role.COMPOSITION_OPERATION),
        "result_stream": stream_of(step, Role.COMPOSITION_RESULT),
        "attention_stream": stream_of(step, Role.COMPOSITION_ATTENTION),
        **threshold_and_scale,
        "DROP_PRODUCT": p_product > 0,
        "DROP_VALUE": p_value > 0,
        "DROP_ATTENTION": p_attention > 0,
    }


def composition(query, keys, operations, results, gate, mask_self, seed, step, p_product, p_value, p_attention):
    query, gate = contiguous(query, gate)
    keys, operations, results = (tuple(contiguous(*states)) for states in (keys, operations, results))
    B, K, D = query.shape
    pooled_o, pooled_e = torch.empty_like(query), torch.empty_like(query)
    attention = torch.empty(B, K, K * len(keys), dtype=torch.float32, device=query.device)
    if B and K:
        launch(
            "composition_forward", lambda meta: (B * K,), query, keys, operations, results, gate, pooled_o, pooled_e,
            attention, K=K, BLOCKS=len(keys), D=D, MASK_SELF=mask_self, like=query,
            **rates(seed, step, p_product, p_value, p_attention),
        )  # fmt: skip
    return pooled_o, pooled_e, attention


def composition_backward(
    grad_operations, grad_results, grad_attention, query, keys, operations, results, gate, attention,
    mask_self, seed, step, p_product, p_value, p_attention,
):  # fmt: skip
    query, gate, grad_o, grad_e, a = contiguous(query, gate, grad_operations, grad_results, attention)
    keys, operations, results = (tuple(contiguous(*states)) for states in (keys, operations, results))
    extra = None if grad_attention is None else grad_attention.contiguous()
    B, K, D = query.shape
    d_query, d_logits = torch.empty_like(query), torch.empty_like(a)
    d_gate = torch.empty(B * K, D, dtype=torch.float32, device=query.device)
    d_keys, d_operations, d_results = (tuple(torch.empty_like(query) for _ in keys) for _ in range(3))
    if B and K:
        drops = rates(seed, step, p_product, p_value, p_attention)
        sizes = {"K": K, "BLOCKS": len(keys), "D": D, "like": query}
        launch(
            "operations_backward", lambda meta: (B * K,), grad_o, grad_e, extra, query, keys, operations, results, gate,
            a, d_logits, d_query, d_gate, ADD=extra is not None, **sizes, **drops,
        )  # fmt: skip
        launch(
            "columns_backward", lambda meta: (B, cdiv(K, meta["BK"]), cdiv(D, meta["BD"])), grad_o, grad_e, query, gate,
            a, d_logits, d_keys, d_operations, d_results, **sizes, **drops,
        )  # fmt: skip
    return d_query, list(d_keys), list(d_operations), list(d_results), d_gate.sum(0).to(gate.dtype)
