"""The cores in PyTorch algebra: what every other backend is compared with, and what runs where no kernel does.

It uses the identities of mechanism.md ("What the algebra allows"), and walks over the samples in tiles so that no
pair tensor (B, K, N, R) ever exists whole. Products over pairs are in the inputs' dtype; logits, softmax, sums and
the small formation and composition are in float32 (float64 for float64 inputs).

Nothing is written in place, so that autograd, forward-mode derivatives and torch.func see through all of it: this is
also what those differentiate, forward and backward (`iprm_kernels.transforms`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, SLOPES
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.philox import Role, scaled_mask, stream_of
from iprm_kernels.steps import walk

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


def pair_unit(R: int, dtype: torch.dtype) -> int:
    """What rows of R numbers are rounded up to where the pairs of all steps are kept; 0, as here, where none are."""
    return 0


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the recurrence computes in, and keeps its rows in."""
    return dtype


def recurrence(*args: Any) -> walk.Outputs:
    return walk.forward(sys.modules[__name__], *args)


def recurrence_backward(*args: Any) -> walk.Gradients:
    return walk.backward(sys.modules[__name__], *args)


# Products of rows with a weight, of which the recurrence is made besides the cores: the library's.


def linear(x: Tensor, weight: Tensor, addend: Tensor) -> Tensor:
    """weight x + addend: (..., inputs) -> (..., outputs); the addend has the result's shape, or that of a bias."""
    if addend.dim() == 1:
        return F.linear(x, weight, addend)
    rows = torch.addmm(addend.flatten(0, -2), x.flatten(0, -2), weight.mT)
    return rows.view(addend.shape)


def linear_back(y: Tensor, weight: Tensor, addend: Tensor | None) -> Tensor:
    """y weight, plus an addend of the result's shape: (..., outputs) -> (..., inputs)."""
    if addend is None:
        return torch.matmul(y, weight)
    rows = torch.addmm(addend.flatten(0, -2), y.flatten(0, -2), weight)
    return rows.view(addend.shape)


def pack(C1a: Tensor, C2: Tensor, tokens: int, backward: bool) -> tuple[Tensor, ...]:
    """The weights of execution as its products read them, to be made once for all steps: here as they are."""
    return ()


def dropout(x: Tensor, p: float, seed: Tensor, stream: int) -> Tensor:
    acc = accumulator(x.dtype)
    return (x.to(acc) * scaled_mask(x.shape, p, seed, stream, acc)).to(x.dtype).contiguous()


class Masks:
    """The multipliers of one step's dropout masks, or None where nothing is dropped."""

    def __init__(self, seed: Tensor | None, step: int) -> None:
        self.seed: Any = seed  # None where no rate asks for one
        self.step = step

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


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the parts of a gradient, of which there is one at least."""
    return sum(parts[1:], parts[0])


def unneeded(like: Tensor) -> Tensor:
    """What a backward op returns in the place of a gradient that nobody asked for."""
    return like.new_empty(0)


# 1. Formation: s_kj = (f ⊙ q_k) · x_j, z_k = Σ_j drop(a_kj) x_j


def widened(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the accumulator's dtype."""
    return [t.to(accumulator(t.dtype)) for t in tensors]


def formation(
    query: Tensor, tokens: Tensor, gate: Tensor, mask: Tensor | None, seed: Tensor | None, step: int, p_attention: float
) -> tuple[Tensor, Tensor]:
    dtype = query.dtype
    query, tokens, gate = widened(query, tokens, gate)
    logits = torch.bmm(query * gate, tokens.mT)
    a = masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = times(a, Masks(seed, step)(a, p_attention, Role.FORMATION_ATTENTION))
    return torch.bmm(dropped, tokens).to(dtype), a


def formation_backward(
    grad_z: Tensor, grad_attention: Tensor | None, query: Tensor, tokens: Tensor, gate: Tensor, attention: Tensor,
    seed: Tensor | None, step: int, p_attention: float, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    a, dtype = attention, query.dtype
    grad_z, query, tokens, gate = widened(grad_z, query, tokens, gate)
    keep = Masks(seed, step)(a, p_attention, Role.FORMATION_ATTENTION)
    d_a = times(torch.bmm(grad_z, tokens.mT), keep)
    d_logits = softmax_slope(a, plus(d_a, grad_attention))
    d_tokens = unneeded(tokens)
    if needs[1]:
        d_tokens = torch.bmm(times(a, keep).mT, grad_z) + torch.bmm(d_logits.mT, query * gate)
    d_gated = torch.bmm(d_logits, tokens)
    return tuple(d.to(dtype) for d in (d_gated * gate, d_tokens, (d_gated * query).sum((0, 1))))


# 2. Execution


def tiles(samples: int, per_sample: int) -> Iterator[slice]:
    """Slices of the batch whose pair tensors stay within TILE_ELEMENTS; an empty one of an empty batch."""
    size = max(1, TILE_ELEMENTS // max(1, per_sample))
    return (slice(start, min(start + size, samples)) for start in range(0, max(1, samples), size))


def attend(
    logits: Tensor, tokens: Tensor, mask: Tensor | None, draw: Masks, p_attention: float
) -> tuple[Tensor, Tensor]:
    """Softmax over the tokens and the pooled sum: (B, K, N), (B, N, D) -> (B, K, D), attention (B, K, N)."""
    a = masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = times(a, draw(a, p_attention, Role.EXECUTION_ATTENTION))
    return torch.bmm(dropped.to(tokens.dtype), tokens), a


def attend_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, tokens: Tensor, attention: Tensor, draw: Masks,
    p_attention: float, need_tokens: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> gradients of the logits and of the tokens."""
    keep = draw(attention, p_attention, Role.EXECUTION_ATTENTION)
    d_a = times(torch.bmm(grad_pooled, tokens.mT).to(attention.dtype), keep)
    d_tokens = unneeded(tokens)
    if need_tokens:
        d_tokens = torch.bmm(times(attention, keep).to(tokens.dtype).mT, grad_pooled)
    return softmax_slope(attention, plus(d_a, grad_attention)), d_tokens


def pair_logits(
    v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, activation: str,
    draw: Masks, p_product: float, start: int = 0,
) -> Tensor:  # fmt: skip
    """s_kn of some samples, (b, K, N): h = C2 φ(C1a (g ⊙ v) + u) + c2, s = w · drop(φ(h ⊙ l)).

    `start` is the index, in the whole product mask, of the first sample's first element.
    """
    φ = ACTIVATIONS[activation]
    hidden = φ((g[:, :, None] * v[:, None]) @ C1a.mT + u[:, None])
    y = φ((hidden @ C2.mT + c2) * l[:, :, None])
    y = times(y, draw(y, p_product, Role.PRODUCT, start))
    return (y @ w).to(accumulator(v.dtype))


def execution(
    v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor,
    mask: Tensor | None, seed: Tensor | None, step: int, p_product: float, p_attention: float, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    draw, (B, K, R), N = Masks(seed, step), g.shape, v.shape[1]
    logits = [
        pair_logits(v[s], u[s], g[s], l[s], C1a, C2, c2, w, activation, draw, p_product, s.start * K * N * R)
        for s in tiles(B, K * N * R)
    ]
    return attend(torch.cat(logits), tokens, mask, draw, p_attention)


def execution_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor,
    C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor, attention: Tensor, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    draw, (B, K, R), N = Masks(seed, step), g.shape, v.shape[1]
    d_logits, d_tokens = attend_backward(grad_pooled, grad_attention, tokens, attention, draw, p_attention, needs[8])
    parts = [
        pair_gradients(
            d_logits[s], v[s], u[s], g[s], l[s], C1a, C2, c2, w, activation, draw, p_product, s.start * K * N * R, needs
        )
        for s in tiles(B, K * N * R)
    ]
    columns = list(zip(*parts, strict=True))  # of each gradient, the tiles' parts
    samples, weights = map(torch.cat, columns[:4]), map(added, columns[4:])
    return *(d.to(v.dtype) for d in (*samples, *weights)), d_tokens


def pair_gradients(
    d_logits: Tensor, v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor,
    activation: str, draw: Masks, p_product: float, start: int, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """From the gradient (b, K, N) of the logits of some samples, those of v, u, g, l and the parts of those of the
    weights C1a, C2, c2, w, in the accumulator's dtype."""
    φ, slope, acc = ACTIVATIONS[activation], SLOPES[activation], accumulator(v.dtype)
    scaled = g[:, :, None] * v[:, None]
    before = scaled @ C1a.mT + u[:, None]
    hidden = φ(before)
    h = hidden @ C2.mT + c2
    product = h * l[:, :, None]
    keep = draw(product, p_product, Role.PRODUCT, start)
    ds = d_logits[..., None].to(v.dtype)
    dw = (ds * times(φ(product), keep)).sum((0, 1, 2), dtype=acc)
    d_product = times(ds * w, keep) * slope(product)
    dl = (d_product * h).sum(2, dtype=acc)
    dh = d_product * l[:, :, None]
    dC2 = (dh.flatten(0, 2).mT @ hidden.flatten(0, 2)).to(acc) if needs[5] else unneeded(dw)
    dc2 = dh.sum((0, 1, 2), dtype=acc)
    d_before = (dh @ C2) * slope(before)
    du = d_before.sum(1, dtype=acc)
    dC1a = (d_before.flatten(0, 2).mT @ scaled.flatten(0, 2)).to(acc) if needs[4] else unneeded(dw)
    d_scaled = d_before @ C1a
    dg = (d_scaled * v[:, None]).sum(2, dtype=acc)
    dv = (d_scaled * g[:, :, None]).sum(1, dtype=acc)
    return dv, du, dg, dl, dC1a, dC2, dc2, dw


def simple_logits(
    keys: Tensor, query: Tensor, w: Tensor, activation: str, draw: Masks, p_product: float, start: int = 0
) -> Tensor:
    """s_kn of some samples, (b, K, N): w · drop(φ(p ⊙ κ))."""
    y = ACTIVATIONS[activation](query[:, :, None] * keys[:, None])
    y = times(y, draw(y, p_product, Role.PRODUCT, start))
    return (y @ w).to(accumulator(keys.dtype))


def execution_simple(
    keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor, mask: Tensor | None, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    draw, (B, K, R), N = Masks(seed, step), query.shape, keys.shape[1]
    logits = [
        simple_logits(keys[s], query[s], w, activation, draw, p_product, s.start * K * N * R)
        for s in tiles(B, K * N * R)
    ]
    return attend(torch.cat(logits), tokens, mask, draw, p_attention)


def execution_simple_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor,
    attention: Tensor, seed: Tensor | None, step: int, p_product: float, p_attention: float, activation: str,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    draw, (B, K, R), N = Masks(seed, step), query.shape, keys.shape[1]
    d_logits, d_tokens = attend_backward(grad_pooled, grad_attention, tokens, attention, draw, p_attention, needs[3])
    parts = [
        simple_gradients(d_logits[s], keys[s], query[s], w, activation, draw, p_product, s.start * K * N * R)
        for s in tiles(B, K * N * R)
    ]
    d_keys, d_query, dw = zip(*parts, strict=True)
    return *(d.to(keys.dtype) for d in (torch.cat(d_keys), torch.cat(d_query), added(dw))), d_tokens


def simple_gradients(
    d_logits: Tensor, keys: Tensor, query: Tensor, w: Tensor, activation: str, draw: Masks, p_product: float, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient (b, K, N) of the logits of some samples, those of the keys and the query, and the part of w's,
    in the accumulator's dtype."""
    acc, product = accumulator(keys.dtype), query[:, :, None] * keys[:, None]
    keep = draw(product, p_product, Role.PRODUCT, start)
    ds = d_logits[..., None].to(keys.dtype)
    dw = (ds * times(ACTIVATIONS[activation](product), keep)).sum((0, 1, 2), dtype=acc)
    d_product = times(ds * w, keep) * SLOPES[activation](product)
    d_keys = (d_product * query[:, :, None]).sum(1, dtype=acc)
    return d_keys, (d_product * keys[:, None]).sum(2, dtype=acc), dw


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


def composition(
    query: Tensor, keys: list[Tensor], operations: list[Tensor], results: list[Tensor], gate: Tensor, mask_self: bool,
    seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    draw, k, dtype = Masks(seed, step), joined(keys), query.dtype
    query, gate = widened(query, gate)
    keep, gated = product_mask(query, k.shape[1], p_product, draw), query * gate
    logits = torch.bmm(gated, k.mT) if keep is None else torch.einsum("bkd,bjd,bkjd->bkj", gated, k, keep)
    a = masked_softmax(logits, others(query.shape[1], k.shape[1], k.device) if mask_self else None)
    dropped = times(a, draw(a, p_attention, Role.COMPOSITION_ATTENTION))
    pooled: list[Tensor] = []
    for states, role in ((operations, Role.COMPOSITION_OPERATION), (results, Role.COMPOSITION_RESULT)):
        values = joined(states)
        pooled.append(torch.bmm(dropped, times(values, draw(values, p_value, role))).to(dtype))
    return pooled[0], pooled[1], a


def composition_backward(
    grad_operations: Tensor, grad_results: Tensor, grad_attention: Tensor | None, query: Tensor, keys: list[Tensor],
    operations: list[Tensor], results: list[Tensor], gate: Tensor, attention: Tensor, mask_self: bool,
    seed: Tensor | None, step: int, p_product: float, p_value: float, p_attention: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    draw, a, k, dtype = Masks(seed, step), attention, joined(keys), query.dtype
    grad_operations, grad_results, query, gate = widened(grad_operations, grad_results, query, gate)
    keep_a = draw(a, p_attention, Role.COMPOSITION_ATTENTION)
    dropped = times(a, keep_a)
    d_a: list[Tensor] = []
    d_values: list[list[Tensor]] = []
    for grad, states, role in (
        (grad_operations, operations, Role.COMPOSITION_OPERATION),
        (grad_results, results, Role.COMPOSITION_RESULT),
    ):
        values = joined(states)
        keep = draw(values, p_value, role)
        d_a.append(torch.bmm(grad, times(values, keep).mT))
        d_values.append(split(times(torch.bmm(dropped.mT, grad), keep), len(states), dtype))
    d_logits = softmax_slope(a, plus(times(added(d_a), keep_a), grad_attention))
    keep, gated = product_mask(query, k.shape[1], p_product, draw), query * gate
    if keep is None:
        d_gated, d_keys = torch.bmm(d_logits, k), torch.bmm(d_logits.mT, gated)
    else:
        d_gated = torch.einsum("bkj,bjd,bkjd->bkd", d_logits, k, keep)
        d_keys = torch.einsum("bkj,bkd,bkjd->bjd", d_logits, gated, keep)
    d_query, d_gate = (d_gated * gate).to(dtype), (d_gated * query).sum((0, 1)).to(dtype)
    return d_query, split(d_keys, len(keys), dtype), d_values[0], d_values[1], d_gate


def split(columns: Tensor, count: int, dtype: torch.dtype) -> list[Tensor]:
    """One copy for each state of the window: an op may not return views of one buffer."""
    blocks = columns.chunk(count, 1)
    return [block.to(dtype, copy=True, memory_format=torch.contiguous_format) for block in blocks]
