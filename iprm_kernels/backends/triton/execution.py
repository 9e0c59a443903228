"""The execution cores. Forward: the logits of all pairs, then softmax and pooling (`attend.py`): two launches.

Backward of execution = "full". With π = h ⊙ l, of which s = w · drop(φ(π)), and x = g ⊙ v, the gradients of the
weights and of what gates their rows are sums over one product Q_k = Σ_n leftᵀ right of each operation,

    dC2 = Σ_k l_k ⊙ Q_k ,   dl_k = Σ_c C2 ⊙ Q_k + ...        Q_k = Σ_n dπ_knᵀ hidden_kn
    dC1aᵀ = Σ_k g_k ⊙ Q_k , dg_k = Σ_c C1aᵀ ⊙ Q_k            Q_k = Σ_n v_nᵀ d pre_kn

so that neither h, nor dh, nor x, nor dx is ever written, and no sum over tokens is taken of them. Three buffers of
(pairs, R) in the inputs' dtype, for some samples at a time, hold what goes from one kernel to the next; hidden is
φ(pre), from which φ' follows too, and for GELU pre:

    recompute          writes hidden and dπ; parts of dw                  2 products   2 R elements a pair
    chain_backward     dπ, hidden -> d pre; dv = Σ_k g ⊙ dx, du           2            3 R
    weights, of C2     dπ, hidden; dC2, dl, dc2                           1            2 R
    weights, of C1a    d pre; dC1a, dg                                    1            1 R

Six products of 2 R² operations a pair, which is the floor with recomputation, and 8 R elements moved a pair, through
buffers of BUFFER_BYTES in all. R = 256, bfloat16: 1.5 KB of buffer a pair, hence 87381 pairs at once for 4 launches. A
sample is never cut, so the bound is max(BUFFER_BYTES, 3·K·N·R elements).

Where the forward has kept hidden and h of all pairs, there is no `recompute` and no buffer for hidden: `chain_backward`
makes dπ from h, 4 products and 8 R elements a pair.

Over their widest R (`configs.WIDEST`) `recompute`, `chain_backward` and the forward's `logits` hold blocks of columns
and go over pairs twice: a kernel of its own first writes hidden, or d pre, to its buffer.

Every sum has a fixed order: within a program, then over the programs' parts, in a launch of its own (`sums.py`). There
are no atomics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iprm_kernels.backends.eager import unneeded
from iprm_kernels.backends.triton import attention, configs
from iprm_kernels.backends.triton.configs import BUFFER_BYTES, ROWS, cdiv, is_fused
from iprm_kernels.backends.triton.launch import (
    Draws,
    add_parts,
    architecture_of,
    bytes_of,
    contiguous,
    draws_of,
    launch,
    multiprocessors_of,
    over_pairs,
    over_tokens,
    precision,
)
from iprm_kernels.philox import Role


def floats(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised float32 tensor."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def rates(seed: Tensor | None, step: int, p_product: float, p_attention: float) -> tuple[Draws, Draws]:
    """The arguments of the two masks."""
    return (
        draws_of(p_product, seed, step, Role.PRODUCT),
        draws_of(p_attention, seed, step, Role.EXECUTION_ATTENTION),
    )


def execution(
    v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor,
    mask: Tensor | None, seed: Tensor | None, step: int, p_product: float, p_attention: float, activation: str,
    *pairs: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """pairs: where a backward is to find them, hidden and h (B, K, N, R), which are written."""
    product, attention_drop = rates(seed, step, p_product, p_attention)
    v, u, g, l, C1a, C2, c2, w, tokens = contiguous(v, u, g, l, C1a, C2, c2, w, tokens)
    (B, K, R), N = g.shape, v.shape[1]
    logits = floats(v, B, K, N)
    if logits.numel():
        fused = is_fused("logits", R, v.dtype)
        parts = [slice(0, B)] if fused else chunks(B, K * N * R * v.element_size())
        buffer = [] if fused else [v.new_empty(parts[0].stop * K * N, R)]
        for s in parts:
            inputs = v[s], u[s], g[s], l[s], C1a, C2, c2, w
            pair_logits(inputs, pairs or buffer, logits[s], s.start * K * N, product, activation)
    return attention.pool(logits, tokens, bytes_of(mask), attention_drop)


def pair_logits(
    inputs: Sequence[Tensor], pairs: Sequence[Tensor], logits: Tensor, first: int, product: Draws, activation: str
) -> None:  # fmt: skip
    """The logits of some samples. pairs: hidden, a buffer where the width needs one; or hidden and h, to be kept."""
    v, u, g, _, C1a, _, _, _ = inputs
    hidden, h = (*pairs, None, None)[:2]
    sizes: dict[str, Any] = {"pairs": logits.numel(), "N": v.shape[1], "K": g.shape[1], "R": g.shape[2]}
    sizes["ACTIVATION"] = activation
    blocks = cdiv(g.shape[2], configs.columns("logits", g.shape[2], v.dtype))
    parts = logits if blocks == 1 else floats(v, blocks, *logits.shape)
    if blocks > 1:
        over_pairs("hidden", v, u, g, C1a, hidden, **sizes)
    over_pairs("logits", *inputs, hidden, h, parts, *product, first, DROP=product.on, KEEP=h is not None, **sizes)
    if blocks > 1:
        add_parts(parts, logits)


def chunks(samples: int, sample_bytes: int) -> list[slice]:
    """Slices of the batch whose buffers stay within BUFFER_BYTES, as even as can be."""
    most = max(1, BUFFER_BYTES // max(1, sample_bytes))
    size = cdiv(samples, max(1, cdiv(samples, most)))
    return [slice(start, min(start + size, samples)) for start in range(0, samples, max(1, size))]


def execution_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor,
    C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor, attention_: Tensor, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str, needs: Sequence[bool], *pairs: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """pairs: hidden and h (B, K, N, R), if the forward was given room for them."""
    product, attention_drop = rates(seed, step, p_product, p_attention)
    v, u, g, l, C1a, C2, c2, w, tokens, a, grad_pooled = contiguous(
        v, u, g, l, C1a, C2, c2, w, tokens, attention_, grad_pooled
    )
    ds = attention.d_logits(grad_pooled, grad_attention, tokens, a, attention_drop)
    d_tokens = attention.d_tokens(grad_pooled, a, attention_drop, tokens) if needs[8] else unneeded(tokens)
    if not ds.numel():
        return *map(torch.zeros_like, (v, u, g, l, C1a, C2, c2, w)), d_tokens
    (B, K, R), N = g.shape, v.shape[1]
    parts = chunks(B, 3 * K * N * R * v.element_size())
    buffers = [v.new_empty(parts[0].stop * K * N, R) for _ in range(2 if pairs else 3)]  # dπ, d pre and hidden
    dv, du = torch.empty_like(v), torch.empty_like(u)
    tiles = most_tiles("chain_backward" if pairs else "recompute", v[: parts[0].stop], K)
    d_w = floats(v, len(parts), tiles, R).zero_()  # larger tiles leave fewer parts
    sums = [WeightSums.of(v, parts[0].stop * K, B * K) for _ in range(2)]
    for i, s in enumerate(parts):
        inputs = v[s], u[s], g[s], l[s], C1a, C2, c2, w
        kept = [t[s].flatten(0, 2) for t in pairs]
        pair_gradients(inputs, ds[s], s.start * K * N, buffers, kept, product, activation, (dv[s], du[s], d_w[i]), sums)
    of_C2, of_C1a = sums
    dg, dl, dC1a, dC2, dc2, dw = (torch.empty_like(t) for t in (g, l, C1a, C2, c2, w))
    add_parts(of_C2.gate, dl, also=(of_C1a.gate, dg))
    add_parts(of_C2.bias, dc2, also=(d_w.flatten(0, 1), dw))
    if needs[4] or needs[5]:
        add_parts(of_C2.weight, dC2, also=(of_C1a.weight, dC1a), turned=True)
    dC1a, dC2 = dC1a if needs[4] else unneeded(C1a), dC2 if needs[5] else unneeded(C2)
    return dv, du, dg, dl, dC1a, dC2, dc2, dw, d_tokens


def most_tiles(kernel: str, v: Tensor, K: int) -> int:
    """How many tiles the pairs of these samples are cut into at most, each of which leaves a part of dw."""
    B, N, R = v.shape
    rows = configs.least_rows(kernel, architecture_of(v.device), v.dtype, R)
    if kernel == "recompute":
        return cdiv(B * K * N, rows)
    grouped = configs.grouped(K)
    return cdiv(B * N, rows // grouped) * cdiv(K, grouped)


class WeightSums(NamedTuple):
    """What `weights` adds up, float32: parts of the gradients of a weight and its bias, each of up to so many
    operations at a time, and those of each operation's gate by blocks of columns."""

    weight: Tensor  # (parts, R, R)
    bias: Tensor  # (parts, R)
    gate: Tensor  # (blocks, B·K, R)
    each: int

    @classmethod
    def of(cls, like: Tensor, operations: int, all_operations: int) -> WeightSums:
        """Empty ones, for so many operations at a time."""
        R = like.shape[-1]
        blocks = cdiv(R, configs.columns("weights", R, like.dtype))
        each, parts = configs.weight_shares(operations, R, like.dtype, multiprocessors_of(like.device))
        return cls(floats(like, parts, R, R), floats(like, parts, R), floats(like, blocks, all_operations, R), each)


def pair_gradients(
    inputs: Sequence[Tensor], ds: Tensor, first: int, buffers: Sequence[Tensor], kept: Sequence[Tensor], product: Draws,
    activation: str, outputs: Sequence[Tensor], sums: Sequence[WeightSums],
) -> None:  # fmt: skip
    """The gradients of some samples into `outputs`, and added to `sums`."""
    v, u, g, l, C1a, C2, c2, _ = inputs
    *_, d_w = outputs
    (B, K, R), N = g.shape, v.shape[1]
    d_product, d_pre, *rest = (t[: B * K * N] for t in buffers)
    hidden, h = kept or (*rest, None)
    sizes: dict[str, Any] = {"N": N, "K": K, "R": R}
    if not kept:
        over: dict[str, Any] = sizes | {"pairs": B * K * N, "ACTIVATION": activation}
        if not is_fused("recompute", R, v.dtype):
            over_pairs("hidden", v, u, g, C1a, hidden, **over)
        over_pairs("recompute", *inputs, ds, hidden, d_product, d_w, *product, first, DROP=product.on, **over)
    chain_backward(inputs, hidden, h, ds, d_product, d_pre, outputs, product, first, activation)
    done = first // N
    weights(d_product, hidden, l, C2, c2, sums[0], done, activation, **sizes)
    weights(v, d_pre, g, C1a, None, sums[1], done, activation, **sizes)


def chain_backward(
    inputs: Sequence[Tensor], hidden: Tensor, h: Tensor | None, ds: Tensor, d_product: Tensor, d_pre: Tensor,
    outputs: Sequence[Tensor], product: Draws, first: int, activation: str,
) -> None:  # fmt: skip
    """From dπ, which is made here where h is kept, to d pre, and to dv and du, which are sums over the operations: of
    parts, where these are many."""
    _, _, g, l, C1a, C2, c2, w = inputs
    dv, du, d_w = outputs
    (B, N, R), K, kept = dv.shape, g.shape[1], h is not None
    parts = cdiv(K, configs.grouped(K))
    sum_v, sum_u = (t if parts == 1 else floats(t, parts, B, N, R) for t in (dv, du))
    sizes: dict[str, Any] = {"tokens": B * N, "N": N, "K": K, "R": R, "ACTIVATION": activation}
    if not is_fused("chain_backward", R, dv.dtype):
        over_tokens("d_pre", l, C2, hidden, d_product, d_pre, sum_u, **sizes)
    over_tokens(
        "chain_backward", g, l, C1a, C2, hidden, d_product, d_pre, sum_v, sum_u, h, ds, c2, w, d_w, *product, first,
        KEPT=kept, DROP=kept and product.on, **sizes,
    )  # fmt: skip
    if parts > 1:
        add_parts(sum_v, dv)
        add_parts(sum_u, du)


def weights(
    left: Tensor, right: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None, sums: WeightSums, done: int,
    activation: str, N: int, K: int, R: int,
) -> None:  # fmt: skip
    """Add the gradients of a weight, its bias and its gate. `done` is how many operations came before these; without
    bias the left rows are the tokens'."""
    parts, BD = sums.weight.shape[0], configs.columns("weights", R, left.dtype)
    launch(
        "weights", lambda meta: (cdiv(R, meta["BM"]) * cdiv(R, BD), parts), left, right, gate, weight, bias,
        sums.weight, sums.gate[:, done:], sums.bias, gate.numel() // R, sums.each, sums.gate[0].numel(), int(done > 0),
        N=N, K=K, R=R, BD=BD, ACTIVATION=activation, PRECISION=precision(left.dtype), OF_TOKENS=bias is None, like=left,
    )  # fmt: skip


def execution_simple(
    keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor, mask: Tensor | None, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    product, attention_drop = rates(seed, step, p_product, p_attention)
    keys, query, w, tokens = contiguous(keys, query, w, tokens)
    (B, K, R), N = query.shape, keys.shape[1]
    logits = floats(keys, B, K, N)
    if count := logits.numel():
        launch(
            "simple_logits", lambda meta: (cdiv(count, meta["BN"]),), keys, query, w, logits, *product, count, N=N, K=K,
            R=R, ACTIVATION=activation, DROP=product.on, like=keys,
        )  # fmt: skip
    return attention.pool(logits, tokens, bytes_of(mask), attention_drop)


def execution_simple_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor,
    attention_: Tensor, seed: Tensor | None, step: int, p_product: float, p_attention: float, activation: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    product, attention_drop = rates(seed, step, p_product, p_attention)
    keys, query, w, tokens, a, grad_pooled = contiguous(keys, query, w, tokens, attention_, grad_pooled)
    ds = attention.d_logits(grad_pooled, grad_attention, tokens, a, attention_drop)
    d_tokens = attention.d_tokens(grad_pooled, a, attention_drop, tokens) if needs[3] else unneeded(tokens)
    (B, K, R), N = query.shape, keys.shape[1]
    tiles = cdiv(N, ROWS)
    d_keys, sum_query, sum_w = torch.empty_like(keys), floats(keys, B, tiles, K, R), floats(keys, B, tiles, R)
    if B:
        launch(
            "simple_backward", lambda meta: (B * tiles, cdiv(R, meta["BR"])), keys, query, w, ds, d_keys, sum_query,
            sum_w, *product, N=N, K=K, R=R, ACTIVATION=activation, DROP=product.on, like=keys,
        )  # fmt: skip
    d_query, dw = add_parts(sum_query, torch.empty_like(query), 1), add_parts(sum_w.flatten(0, 1), torch.empty_like(w))
    return d_keys, d_query, dw, d_tokens
