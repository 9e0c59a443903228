"""The cores in PyTorch algebra: what every other backend is compared with, and what runs where no kernel does.

It uses the identities of mechanism.md ("What the algebra allows"), and walks over the samples in tiles so that no
pair tensor (B, K, N, R) ever exists whole. Products over pairs are in the inputs' dtype; logits, softmax, sums and
the small formation and composition are in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, SLOPES
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.philox import Role, scaled_mask, stream_of

MASK_BIAS = -1e30
TILE_ELEMENTS = 2**20
"""Pair tensors are made for as many samples at once as fit this many elements (at least one sample)."""


def unsupported(device: torch.device, dtype: torch.dtype, call: Call = ANY) -> str | None:
    """Why this backend cannot serve the device, dtype and call: it always can."""
    return None


def limits(device: torch.device) -> str:
    """What it serves on the device, in words."""
    return "any sizes"


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits, softmax and sums."""
    return torch.promote_types(dtype, torch.float32)


def dropout(x: Tensor, p: float, seed: Tensor, stream: int) -> Tensor:
    acc = accumulator(x.dtype)
    return (x.to(acc) * scaled_mask(x.shape, p, seed, stream, acc)).to(x.dtype).contiguous()


class Masks:
    """The multipliers of one step's dropout masks, or None where nothing is dropped."""

    def __init__(self, seed: Tensor | None, step: int):
        self.seed, self.step = seed, step

    def __call__(self, like: Tensor, p: float, role: Role, start: int = 0) -> Tensor | None:
        if p == 0.0:
            return None
        return scaled_mask(like.shape, p, self.seed, stream_of(self.step, role), like.dtype, start)


def times(x: Tensor, mask: Tensor | None) -> Tensor:
    """x ⊙ mask, where None is the mask that keeps everything."""
    return x if mask is None else x * mask


def masked_softmax(logits: Tensor, keep: Tensor | None) -> Tensor:
    """Softmax over the last dimension, -1e30 added where `keep` is false."""
    if keep is not None:
        logits = logits + (~keep).to(logits.dtype) * MASK_BIAS
    return torch.softmax(logits, -1)


def softmax_slope(a: Tensor, grad_a: Tensor) -> Tensor:
    """The gradient of the logits from that of the probabilities. It needs no mask: a is zero where it matters."""
    return a * (grad_a - (a * grad_a).sum(-1, keepdim=True))


def plus(grad: Tensor, extra: Tensor | None) -> Tensor:
    """A gradient and, where there is one, that of the attention output."""
    return grad if extra is None else grad + extra


# 1. Formation: s_kj = (f ⊙ q_k) · x_j, z_k = Σ_j drop(a_kj) x_j


def widened(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the accumulator's dtype."""
    return [t.to(accumulator(t.dtype)) for t in tensors]


def formation(query, tokens, gate, mask, seed, step, p_attention):
    dtype = query.dtype
    query, tokens, gate = widened(query, tokens, gate)
    logits = torch.bmm(query * gate, tokens.mT)
    a = masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = times(a, Masks(seed, step)(a, p_attention, Role.FORMATION_ATTENTION))
    return torch.bmm(dropped, tokens).to(dtype), a


def formation_backward(grad_z, grad_attention, query, tokens, gate, attention, seed, step, p_attention):
    a, dtype = attention, query.dtype
    grad_z, query, tokens, gate = widened(grad_z, query, tokens, gate)
    keep = Masks(seed, step)(a, p_attention, Role.FORMATION_ATTENTION)
    d_a = times(torch.bmm(grad_z, tokens.mT), keep)
    d_logits = softmax_slope(a, plus(d_a, grad_attention))
    d_tokens = torch.bmm(times(a, keep).mT, grad_z) + torch.bmm(d_logits.mT, query * gate)
    d_gated = torch.bmm(d_logits, tokens)
    return tuple(d.to(dtype) for d in (d_gated * gate, d_tokens, (d_gated * query).sum((0, 1))))


# 2. Execution


def tiles(samples: int, per_sample: int) -> Iterator[slice]:
    """Slices of the batch whose pair tensors stay within TILE_ELEMENTS."""
    size = max(1, TILE_ELEMENTS // max(1, per_sample))
    return (slice(start, min(start + size, samples)) for start in range(0, samples, size))


def attend(logits, tokens, mask, draw, p_attention):
    """Softmax over the tokens and the pooled sum: (B, K, N), (B, N, D) -> (B, K, D), attention (B, K, N)."""
    a = masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = times(a, draw(a, p_attention, Role.EXECUTION_ATTENTION))
    return torch.bmm(dropped.to(tokens.dtype), tokens), a


def attend_backward(grad_pooled, grad_attention, tokens, attention, draw, p_attention):
    """-> gradients of the logits and of the tokens."""
    keep = draw(attention, p_attention, Role.EXECUTION_ATTENTION)
    d_a = times(torch.bmm(grad_pooled, tokens.mT).to(attention.dtype), keep)
    d_tokens = torch.bmm(times(attention, keep).to(tokens.dtype).mT, grad_pooled)
    return softmax_slope(attention, plus(d_a, grad_attention)), d_tokens


def pair_logits(v, u, g, l, C1a, C2, c2, w, activation, draw, p_product, start=0):
    """s_kn of some samples, (b, K, N): h = C2 φ(C1a (g ⊙ v) + u) + c2, s = w · drop(φ(h ⊙ l)).

    `start` is the index, in the whole product mask, of the first sample's first element.
    """
    φ = ACTIVATIONS[activation]
    hidden = φ((g[:, :, None] * v[:, None]) @ C1a.mT + u[:, None])
    y = φ((hidden @ C2.mT + c2) * l[:, :, None])
    y = times(y, draw(y, p_product, Role.PRODUCT, start))
    return (y @ w).to(accumulator(v.dtype))


def execution(v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product, p_attention, activation):
    draw, (B, K, R), N = Masks(seed, step), g.shape, v.shape[1]
    logits = v.new_empty(B, K, N, dtype=accumulator(v.dtype))
    for s in tiles(B, K * N * R):
        logits[s] = pair_logits(
            v[s], u[s], g[s], l[s], C1a, C2, c2, w, activation, draw, p_product, s.start * K * N * R
        )
    return attend(logits, tokens, mask, draw, p_attention)


def execution_backward(
    grad_pooled, grad_attention, v, u, g, l, C1a, C2, c2, w, tokens, attention, seed, step, p_product, p_attention,
    activation,
):  # fmt: skip
    draw, (B, K, R), N, acc = Masks(seed, step), g.shape, v.shape[1], accumulator(v.dtype)
    d_logits, d_tokens = attend_backward(grad_pooled, grad_attention, tokens, attention, draw, p_attention)
    dv, du, dg, dl = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (v, u, g, l))
    dC1a, dC2, dc2, dw = (torch.zeros(t.shape, dtype=acc, device=t.device) for t in (C1a, C2, c2, w))
    φ, slope = ACTIVATIONS[activation], SLOPES[activation]
    for s in tiles(B, K * N * R):
        scaled = g[s, :, None] * v[s, None]
        before = scaled @ C1a.mT + u[s, None]
        hidden = φ(before)
        h = hidden @ C2.mT + c2
        product = h * l[s, :, None]
        keep = draw(product, p_product, Role.PRODUCT, s.start * K * N * R)
        ds = d_logits[s, ..., None].to(v.dtype)
        dw += (ds * times(φ(product), keep)).sum((0, 1, 2), dtype=acc)
        d_product = times(ds * w, keep) * slope(product)
        dl[s] = (d_product * h).sum(2, dtype=acc)
        dh = d_product * l[s, :, None]
        dC2 += dh.flatten(0, 2).mT @ hidden.flatten(0, 2)
        dc2 += dh.sum((0, 1, 2), dtype=acc)
        d_before = (dh @ C2) * slope(before)
        du[s] = d_before.sum(1, dtype=acc)
        dC1a += d_before.flatten(0, 2).mT @ scaled.flatten(0, 2)
        d_scaled = d_before @ C1a
        dg[s] = (d_scaled * v[s, None]).sum(2, dtype=acc)
        dv[s] = (d_scaled * g[s, :, None]).sum(1, dtype=acc)
    weights = (d.to(v.dtype) for d in (dC1a, dC2, dc2, dw))
    return dv, du, dg, dl, *weights, d_tokens


def simple_logits(keys, query, w, activation, draw, p_product, start=0):
    """s_kn of some samples, (b, K, N): w · drop(φ(p ⊙ κ))."""
    y = ACTIVATIONS[activation](query[:, :, None] * keys[:, None])
    y = times(y, draw(y, p_product, Role.PRODUCT, start))
    return (y @ w).to(accumulator(keys.dtype))


def execution_simple(keys, query, w, tokens, mask, seed, step, p_product, p_attention, activation):
    draw, (B, K, R), N = Masks(seed, step), query.shape, keys.shape[1]
    logits = keys.new_empty(B, K, N, dtype=accumulator(keys.dtype))
    for s in tiles(B, K * N * R):
        logits[s] = simple_logits(keys[s], query[s], w, activation, draw, p_product, s.start * K * N * R)
    return attend(logits, tokens, mask, draw, p_attention)


def execution_simple_backward(
    grad_pooled,
    grad_attention,
    keys,
    query,
    w,
    tokens,
    attention,
    seed,
    step,
    p_product,
    p_attention,
    activation,
):
    draw, (B, K, R), N, acc = Masks(seed, step), query.shape, keys.shape[1], accumulator(keys.dtype)
    d_logits, d_tokens = attend_backward(grad_pooled, grad_attention, tokens, attention, draw, p_attention)
    d_keys, d_query = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (keys, query))
    dw = torch.zeros(w.shape, dtype=acc, device=w.device)
    for s in tiles(B, K * N * R):
        product = query[s, :, None] * keys[s, None]
        keep = draw(product, p_product, Role.PRODUCT, s.start * K * N * R)
        ds = d_logits[s, ..., None].to(keys.dtype)
        dw += (ds * times(ACTIVATIONS[activation](product), keep)).sum((0, 1, 2), dtype=acc)
        d_product = times(ds * w, keep) * SLOPES[activation](product)
        d_keys[s] = (d_product * query[s, :, None]).sum(1, dtype=acc)
        d_query[s] = (d_product * keys[s, None]).sum(2, dtype=acc)
    return d_keys, d_query, dw.to(w.dtype), d_tokens


# 3. Composition: s_kj = c · drop_mod(q_k ⊙ k_j), the pooled values are Σ_j drop(a_kj) drop_upd(value_j)


def others(K: int, columns: int, device: torch.device) -> Tensor:
    """(K, columns) bool: false on the diagonal of the current block."""
    return ~torch.eye(K, columns, dtype=torch.bool, device=device)


def joined(states: list[Tensor]) -> Tensor:
    """(B, columns, D) of a window, in the accumulator's dtype."""
    return torch.cat(widened(*states), 1)


def product_mask(query: Tensor, columns: int, p: float, draw: Masks) -> Tensor | None:
    """The multipliers (B, K, columns, D) of drop_mod."""
    B, K, D = query.shape
    return draw(query[:, :, None].expand(B, K, columns, D), p, Role.COMPOSITION_PRODUCT)


def composition(query, keys, operations, results, gate, mask_self, seed, step, p_product, p_value, p_attention):
    draw, k, dtype = Masks(seed, step), joined(keys), query.dtype
    query, gate = widened(query, gate)
    keep, gated = product_mask(query, k.shape[1], p_product, draw), query * gate
    logits = torch.bmm(gated, k.mT) if keep is None else torch.einsum("bkd,bjd,bkjd->bkj", gated, k, keep)
    a = masked_softmax(logits, others(query.shape[1], k.shape[1], k.device) if mask_self else None)
    dropped = times(a, draw(a, p_attention, Role.COMPOSITION_ATTENTION))
    pooled = []
    for states, role in ((operations, Role.COMPOSITION_OPERATION), (results, Role.COMPOSITION_RESULT)):
        values = joined(states)
        pooled.append(torch.bmm(dropped, times(values, draw(values, p_value, role))).to(dtype))
    return *pooled, a


def composition_backward(
    grad_operations, grad_results, grad_attention, query, keys, operations, results, gate, attention, mask_self, seed,
    step, p_product, p_value, p_attention,
):  # fmt: skip
    draw, a, k, dtype = Masks(seed, step), attention, joined(keys), query.dtype
    grad_operations, grad_results, query, gate = widened(grad_operations, grad_results, query, gate)
    keep_a = draw(a, p_attention, Role.COMPOSITION_ATTENTION)
    dropped, d_a, d_values = times(a, keep_a), torch.zeros_like(a), []
    for grad, states, role in (
        (grad_operations, operations, Role.COMPOSITION_OPERATION),
        (grad_results, results, Role.COMPOSITION_RESULT),
    ):
        values = joined(states)
        keep = draw(values, p_value, role)
        d_a += torch.bmm(grad, times(values, keep).mT)
        d_values.append(split(times(torch.bmm(dropped.mT, grad), keep), len(states), dtype))
    d_logits = softmax_slope(a, plus(times(d_a, keep_a), grad_attention))
    keep, gated = product_mask(query, k.shape[1], p_product, draw), query * gate
    if keep is None:
        d_gated, d_keys = torch.bmm(d_logits, k), torch.bmm(d_logits.mT, gated)
    else:
        d_gated = torch.einsum("bkj,bjd,bkjd->bkd", d_logits, k, keep)
        d_keys = torch.einsum("bkj,bkd,bkjd->bjd", d_logits, gated, keep)
    d_query, d_gate = (d_gated * gate).to(dtype), (d_gated * query).sum((0, 1)).to(dtype)
    return d_query, split(d_keys, len(keys), dtype), *d_values, d_gate


def split(columns: Tensor, count: int, dtype: torch.dtype) -> list[Tensor]:
    """One copy for each state of the window: an op may not return views of one buffer."""
    blocks = columns.chunk(count, 1)
    return [block.to(dtype, copy=True, memory_format=torch.contiguous_format) for block in blocks]
