"""Operation composition: each operation attends over all operations of this step and of the recent past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iprm_kernels import backends, transforms
from iprm_kernels.autocast import cast
from iprm_kernels.backends import eager
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.checks import STEPS, check_floating, check_number, check_rate, check_tensor, described
from iprm_kernels.library import library

_INPUTS = "Tensor query, Tensor[] keys, Tensor[] operations, Tensor[] results, Tensor gate"
_OPTIONS = "bool mask_self, Tensor? seed, int step, float p_product, float p_value, float p_attention, str backend"

library.define(f"composition({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
library.define(
    "composition_backward(Tensor grad_operations, Tensor grad_results, Tensor? grad_attention,"
    f" {_INPUTS}, Tensor attention, {_OPTIONS}) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor)"
)


def _fake(query: Tensor, keys: list[Tensor], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    B, K, D = query.shape
    attention = query.new_empty(B, K, K * len(keys), dtype=accumulator(query.dtype))
    return query.new_empty(B, K, D), query.new_empty(B, K, D), attention


def _fake_backward(
    grad_operations: Tensor, grad_results: Tensor, grad_attention: Tensor | None, query: Tensor, keys: list[Tensor],
    operations: list[Tensor], results: list[Tensor], gate: Tensor, *_: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    def like(states: list[Tensor]) -> list[Tensor]:
        return [t.new_empty(t.shape) for t in states]

    return (
        query.new_empty(query.shape),
        like(keys),
        like(operations),
        like(results),
        gate.new_empty(gate.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    query, keys, operations, results, gate, mask_self, seed, *options = inputs
    ctx.blocks, ctx.mask_self, ctx.options = len(keys), mask_self, options
    ctx.save_for_backward(query, gate, output[2], seed, *keys, *operations, *results)
    ctx.set_materialize_grads(False)


def _autograd(
    ctx: Any, grad_operations: Tensor | None, grad_results: Tensor | None, grad_attention: Tensor | None
) -> tuple[Any, ...]:
    query, gate, attention, seed, *states = ctx.saved_tensors
    n = ctx.blocks
    keys, operations, results = states[:n], states[n : 2 * n], states[2 * n :]
    unused = [grad_operations is None, grad_results is None]
    grad_operations = torch.zeros_like(query) if unused[0] else grad_operations
    grad_results = torch.zeros_like(query) if unused[1] else grad_results
    *options, backend = ctx.options
    d_query, d_keys, *d_values, d_gate = transforms.backward(
        "composition_backward", eager.composition_backward, backend, grad_operations, grad_results, grad_attention,
        query, keys, operations, results, gate, attention, ctx.mask_self, seed, *options,
    )  # fmt: skip
    d_values = [[None] * n if skip else grads for skip, grads in zip(unused, d_values, strict=True)]
    return d_query, d_keys, *d_values, d_gate, *([None] * 7)


library.impl("composition", backends.implementation("composition"), "CompositeExplicitAutograd")
library.impl("composition_backward", backends.implementation("composition_backward"), "CompositeExplicitAutograd")
torch.library.register_fake("iprm::composition", _fake, lib=library)
torch.library.register_fake("iprm::composition_backward", _fake_backward, lib=library)
torch.library.register_autograd("iprm::composition", _autograd, setup_context=_setup_context, lib=library)


def composition(
    query: Tensor,  # (B, K, D)
    keys: Sequence[Tensor],  # 1 to 1 + W of (B, K, D)
    operations: Sequence[Tensor],  # as many of (B, K, D)
    results: Sequence[Tensor],  # as many of (B, K, D)
    gate: Tensor,  # (D,)
    *,
    mask_self: bool = True,
    seed: Tensor | None = None,  # (1,) int64
    step: int = 0,
    p_product: float = 0.0,
    p_value: float = 0.0,
    p_attention: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """The core of operation composition (mechanism.md, step 3).

        s_kj = gate · drop(query_k ⊙ key_j),  a = softmax_j(masked s)
        pooled operations_k = Σ_j drop(a_kj) drop(operation_j),  pooled results_k = Σ_j drop(a_kj) drop(result_j)

    The columns j are the K states of the first list entry, then those of the second, and so on; the lists are read
    where they lie, never concatenated by the kernels.

    Args:
        query: Qo o (B, K, D).  gate: c (D,).
        keys, operations, results: for the current step and then the past ones, most recent first, (B, K, D) each.
            All of one floating dtype, any strides. The same tensor may stand in several lists.
        mask_self: mask the diagonal of the first block. With a single column it still gets weight 1.
        seed: (1,) int64, needed when a rate is positive.  step: t, which numbers the dropout masks.
        p_product, p_value, p_attention: rates of the drops, in [0, 1).
        backend: "auto", or the backend that must run it.
    Returns:
        pooled operations and results, each (B, K, D) in the inputs' dtype, and a (B, K, columns), the probabilities
        before dropout, in float32 (float64 for float64). All are differentiable.
    Raises:
        ValueError: a wrong shape, dtype, device, rate or list length.
        RuntimeError: the named backend cannot run here.
    """
    check_floating("query", query)
    for name, states in (("keys", keys), ("operations", operations), ("results", results)):
        if not isinstance(states, list | tuple):
            raise ValueError(f"{name}: expected a list of tensors, got {described(states)}")
    lists = (list(keys), list(operations), list(results))
    query, gate, keys, operations, results = cast(query.device, query, gate, *lists)
    like = (query.dtype, query.device)
    check_tensor("query", query, ("B", "K", "D"), *like)
    if not keys:
        raise ValueError("keys: expected at least the current step's states, got an empty list")
    for name, states in (("keys", keys), ("operations", operations), ("results", results)):
        if len(states) != len(keys):
            raise ValueError(f"{name}: expected {len(keys)} tensors as keys has, got {len(states)}")
        for i, state in enumerate(states):
            check_tensor(f"{name}[{i}]", state, query.shape, *like)
    check_tensor("gate", gate, query.shape[2:], *like)
    check_number("step", step, STEPS)
    for name, p in (("p_product", p_product), ("p_value", p_value), ("p_attention", p_attention)):
        check_rate(name, p, seed, query.device)
    return transforms.call(
        "composition", eager.composition, backend, query, keys, operations, results, gate, mask_self, seed, step,
        p_product, p_value, p_attention,
    )  # fmt: skip
