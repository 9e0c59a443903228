"""The execution cores. Forward: the logits of all pairs, then softmax and pooling (`attend.py`): two launches.

Backward of execution = "full". The weights' gradients are sums over all B·K·N pairs of products of R-wide rows,

    dC1a = Σ_p d pre_pᵀ (g ⊙ v)_p ,  dC2 = Σ_p dh_pᵀ φ(pre)_p ,

whose (R, R) float32 sums do not fit beside a tile's own accumulators (R = 256: 256 KB each, a whole register file),
and one partial sum per program would be B·K·N / BN of them. So both factors go to a buffer for some samples at a
time, and the library multiplies them. Three buffers of (pairs, R) in the inputs' dtype serve for everything, each
overwritten once its content has been used up:

    recompute               writes pre, φ(pre), h                                2 products   3 R elements a pair
    gate_backward           h -> dh; dl; each operation's part of dw and dc2     0            2 R
    dC2 += dhᵀ φ(pre)       library                                              1            2 R
    chain_backward          pre -> d pre, over φ(pre); dh -> dx                  2            4 R
    reduce                  dv, du; parts of dg; g ⊙ v, over pre                 0            3 R
    dC1a += d preᵀ (g ⊙ v)  library                                              1            2 R

Six products of 2 R² operations a pair, which is the floor with recomputation, and 16 R elements moved a pair, through
buffers of BUFFER_BYTES in all. R = 256, bfloat16: 1.5 KB of buffer a pair, hence 87381 pairs at once, 0.6 ms of an A100
or 0.16 ms of a B200 (benchmarks/roofline.py, predicted) for some 6 launches. Buffers that fit the second-level cache
(32 MB) would save memory traffic, but leave the card waiting for launches. A sample is never cut, so the bound is
max(BUFFER_BYTES, 3·K·N·R elements).

Over their widest R (`configs.WIDEST`), where products are nearly all of the work, `recompute` and `chain_backward` are
the library's products between elementwise kernels, and the forward pass goes through three such buffers too.

Every sum has a fixed order: within a program, then over the programs' parts by the library's deterministic sum. There
are no atomics. The end of the forward chain, with the dropout bits and the derivative of the gate, is a kernel of its
own: inside `recompute` it ran out of registers at every tile that fills a matrix instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends.eager import unneeded
from iprm_kernels.backends.triton import attention
from iprm_kernels.backends.triton.configs import BUFFER_BYTES, ROWS, is_fused
from iprm_kernels.backends.triton.launch import Draws, Grid, bytes_of, cdiv, contiguous, draws_of, launch, over_pairs
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
) -> tuple[Tensor, Tensor]:  # fmt: skip
    product, attention_drop = rates(seed, step, p_product, p_attention)
    v, u, g, l, C1a, C2, c2, w, tokens = contiguous(v, u, g, l, C1a, C2, c2, w, tokens)
    (B, K, R), N = g.shape, v.shape[1]
    logits = floats(v, B, K, N)
    if not is_fused("logits", R, v.dtype):
        wide_logits((v, u, g, l), C1a, C2, c2, w, logits, product, activation)
    elif logits.numel():
        over_pairs(
            "logits", v, u, g, l, C1a, C2, c2, w, logits, *product, pairs=B * K * N, N=N, K=K, R=R,
            ACTIVATION=activation, DROP=product.on,
        )  # fmt: skip
    return attention.pool(logits, tokens, bytes_of(mask), attention_drop)


def chunks(samples: int, sample_bytes: int) -> list[slice]:
    """Slices of the batch whose buffers stay within BUFFER_BYTES, as even as can be."""
    most = max(1, BUFFER_BYTES // max(1, sample_bytes))
    size = cdiv(samples, max(1, cdiv(samples, most)))
    return [slice(start, min(start + size, samples)) for start in range(0, samples, max(1, size))]


def add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + leftᵀ right in float32, accumulated in it also within a product where the library can."""
    if left.dtype == torch.float32:
        return left.mT @ right if total is None else total.addmm_(left.mT, right)
    if left.is_cuda and "dtype" in torch.ops.aten.mm.overloads():
        product = torch.ops.aten.mm.dtype(left.mT, right, torch.float32)
    else:
        product = (left.mT @ right).float()
    return product if total is None else total.add_(product)


def execution_backward(
    grad_pooled: Tensor, grad_attention: Tensor | None, v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor,
    C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor, attention_: Tensor, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    product, attention_drop = rates(seed, step, p_product, p_attention)
    v, u, g, l, C1a, C2, c2, w, tokens, a, grad_pooled = contiguous(
        v, u, g, l, C1a, C2, c2, w, tokens, attention_, grad_pooled
    )
    ds = attention.d_logits(grad_pooled, grad_attention, tokens, a, attention_drop)
    d_tokens = attention.d_tokens(grad_pooled, a, attention_drop, tokens) if needs[8] else unneeded(tokens)
    (B, K, R), N = g.shape, v.shape[1]
    dv, du, dl = (torch.empty_like(t) for t in (v, u, l))
    sum_g, sum_w, sum_c2 = floats(v, B, cdiv(N, ROWS), K, R), floats(v, B, K, R), floats(v, B, K, R)
    products: tuple[Tensor | None, Tensor | None] = None, None  # dC1a and dC2
    parts = chunks(B, 3 * K * N * R * v.element_size()) if K else []
    buffers = [v.new_empty((parts[0].stop if parts else 0) * K * N, R) for _ in range(3)]
    for s in parts:
        products = pair_gradients(
            (v[s], u[s], g[s], l[s], C1a, C2, c2, w), ds[s], s.start * K * N, buffers, product, activation,
            [t[s] for t in (dv, du, dl, sum_g, sum_w, sum_c2)], products, needs,
        )  # fmt: skip
    dg, dw, dc2 = sum_g.sum(1), sum_w.sum((0, 1)), sum_c2.sum((0, 1))
    dC1a, dC2 = (weight_gradient(*of) for of in zip((C1a, C2), products, needs[4:6], strict=True))
    return dv, du, dg.to(v.dtype), dl, dC1a, dC2, dc2.to(v.dtype), dw.to(v.dtype), d_tokens


def weight_gradient(weight: Tensor, total: Tensor | None, need: bool) -> Tensor:
    """A weight's gradient from what was added up, which is None where there are no pairs."""
    if not need:
        return unneeded(weight)
    return torch.zeros_like(weight) if total is None else total.to(weight.dtype)


def pair_gradients(
    inputs: Sequence[Tensor], ds: Tensor, first: int, buffers: Sequence[Tensor], product: Draws, activation: str,
    outputs: Sequence[Tensor], totals: tuple[Tensor | None, Tensor | None], needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of some samples into `outputs`; -> what was added up of dC1a and dC2, with their part."""
    v, u, g, l, C1a, C2, c2, w = inputs
    dv, du, dl, sum_g, sum_w, sum_c2 = outputs
    dC1a, dC2 = totals
    (B, K, R), N = g.shape, v.shape[1]
    pre, hidden, dh = (t[: B * K * N] for t in buffers)  # hidden then holds d pre, dh dx, and pre g ⊙ v
    recompute(v, u, g, C1a, C2, c2, pre, hidden, dh, activation)
    launch(
        "gate_backward", lambda meta: (B * K, cdiv(R, meta["BR"])), l, w, ds, dh, dl, sum_w, sum_c2, *product, first,
        N=N, R=R, ACTIVATION=activation, DROP=product.on, like=v,
    )  # fmt: skip
    if needs[5]:
        dC2 = add_product(dC2, dh, hidden)
    chain_backward(C1a, C2, pre, hidden, dh, activation)
    launch(
        "reduce", lambda meta: (B * sum_g.shape[1], cdiv(R, meta["BR"])), v, g, dh, hidden, pre, dv, du, sum_g, N=N,
        K=K, R=R, like=v,
    )  # fmt: skip
    if needs[4]:
        dC1a = add_product(dC1a, hidden, pre)
    return dC1a, dC2


def recompute(
    v: Tensor, u: Tensor, g: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, pre: Tensor, hidden: Tensor, h: Tensor,
    activation: str,
) -> None:  # fmt: skip
    """The forward chain into the buffers pre, hidden = φ(pre) and h."""
    (B, K, R), N = g.shape, v.shape[1]
    sizes: dict[str, Any] = {"pairs": B * K * N, "N": N, "K": K, "R": R, "ACTIVATION": activation}
    if is_fused("recompute", R, v.dtype):
        over_pairs("recompute", v, u, g, C1a, C2, c2, pre, hidden, h, **sizes)
        return
    torch.mul(g[:, :, None], v[:, None], out=h.view(B, K, N, R))
    torch.mm(h, C1a.mT, out=pre)
    elementwise("hidden", u, pre, hidden, **sizes)
    torch.addmm(c2, hidden, C2.mT, out=h)


def chain_backward(C1a: Tensor, C2: Tensor, pre: Tensor, d_pre: Tensor, dh: Tensor, activation: str) -> None:
    """From dh to d pre, and to dx, over dh."""
    sizes: dict[str, Any] = {"pairs": pre.shape[0], "R": pre.shape[1], "ACTIVATION": activation}
    if is_fused("chain_backward", pre.shape[1], pre.dtype):
        over_pairs("chain_backward", C1a, C2, pre, d_pre, dh, **sizes)
        return
    torch.mm(dh, C2, out=d_pre)
    elementwise("d_hidden", pre, d_pre, **sizes)
    torch.mm(d_pre, C1a, out=dh)


def elementwise(kernel: str, first: Tensor, *args: Any, pairs: int, R: int, **options: Any) -> None:
    """Launch a kernel over the elements of a buffer."""
    grid: Grid = lambda meta: (cdiv(pairs, meta["BN"]), cdiv(R, meta["BR"]))  # noqa: E731
    launch(kernel, grid, first, *args, pairs, R=R, like=first, **options)


def wide_logits(
    inputs: Sequence[Tensor], C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, logits: Tensor, product: Draws,
    activation: str,
) -> None:  # fmt: skip
    """The logits of widths over its widest, through three buffers for some samples at a time."""
    (B, K, R), N = inputs[2].shape, inputs[0].shape[1]
    parts = chunks(B, 3 * K * N * R * w.element_size()) if logits.numel() else []
    buffers = [w.new_empty((parts[0].stop if parts else 0) * K * N, R) for _ in range(3)]
    for s in parts:
        v, u, g, l = (t[s] for t in inputs)
        count = g.shape[0] * K * N
        pre, hidden, h = (t[:count] for t in buffers)
        recompute(v, u, g, C1a, C2, c2, pre, hidden, h, activation)
        scores(h, l, w, logits[s], s.start * K * N, N, activation, product, own=True)


def scores(
    keys: Tensor, query: Tensor, w: Tensor, logits: Tensor, first: int, N: int, activation: str, product: Draws,
    own: bool = False,
) -> None:  # fmt: skip
    """w · drop(φ(query ⊙ keys)); the keys are of the tokens, or each pair's own."""
    _, K, R = query.shape
    count = logits.numel()
    launch(
        "simple_logits", lambda meta: (cdiv(count, meta["BN"]),), keys, query, w, logits, *product, first, count, N=N,
        K=K, R=R, ACTIVATION=activation, DROP=product.on, OWN=own, like=keys,
    )  # fmt: skip


def execution_simple(
    keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor, mask: Tensor | None, seed: Tensor | None, step: int,
    p_product: float, p_attention: float, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    product, attention_drop = rates(seed, step, p_product, p_attention)
    keys, query, w, tokens = contiguous(keys, query, w, tokens)
    (B, K, _), N = query.shape, keys.shape[1]
    logits = floats(keys, B, K, N)
    if logits.numel():
        scores(keys, query, w, logits, 0, N, activation, product)
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
    return d_keys, sum_query.sum(1).to(query.dtype), sum_w.sum((0, 1)).to(w.dtype), d_tokens
