"""The kernels over pairs (k, n) of execution = "full". One row of a tile is one pair.

The pairs of all samples and operations are numbered p = (b·K + k)·N + n and cut into tiles of BN, wherever a sample
or an operation ends: with N = 196, tiles that began anew for each operation would compute a quarter in vain. A row
reads its v_n and u_n, and its g_k and l_k, through the caches: K neighbouring tiles share each of them, so a loop over
K inside a program would save no memory traffic, but leave B·N / BN programs, too few for the card.

A tile is a chain of two products that stream the weights in chunks of BC columns, and the middle of the chain exists
only as a chunk (BN, BC):

    x = g ⊙ v ;  for chunk c:  pre_c = x C1aᵀ[:, c] + u_c ;  h += φ(pre_c) C2ᵀ[c, :]           (forward)
    for chunk c:  d pre_c = (dh C2[:, c]) ⊙ φ'(pre_c) ;  dx += d pre_c C1a[c, :]               (backward)
"""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.activations import activate, slope
from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.rounding import dot, narrow
from iprm_kernels.backends.triton.tiles import PLAIN, load_rows, load_vector, load_weight, store_rows


@triton.jit
def locate(tile, N, K, BN: tl.constexpr):
    """Of a tile's BN pairs: the row of g and l, b·K + k, and the row of v and u, b·N + n. int64.

    With tile = i·N + j the first pair is i·N·BN + j·BN: 32-bit divisions are enough, for N < 2^31 / BN. A 64-bit one
    is a subroutine, around which the compiler spills registers.
    """
    ahead = tile % N * BN
    pair = ahead % N + tl.arange(0, BN)
    first = tile // N * BN + ahead // N
    operation = first % K + pair // N
    token = (first // K + operation // K).to(tl.int64) * N + pair % N
    return first.to(tl.int64) + pair // N, token


@triton.jit
def scaled(V, G, tokens, operations, valid, r, R: tl.constexpr, FULL: tl.constexpr):
    """g ⊙ v in the inputs' dtype."""
    v = load_rows(V, tokens, valid, r, R, FULL)
    g = load_rows(G, operations, valid, r, R, FULL)
    return narrow(v.to(tl.float32) * g.to(tl.float32), V.dtype.element_ty)


@triton.jit
def chain_forward(
    V, U, G, C1a, C2, PRE, HIDDEN, tokens, operations, rows, valid,
    R: tl.constexpr, RP: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """C2 φ(C1a (g ⊙ v) + u), (BN, RP) float32. KEEP writes the pre-activation and φ of it to row `rows`."""
    FULL: tl.constexpr = R == RP
    EVEN: tl.constexpr = R % BC == 0
    dtype: tl.constexpr = V.dtype.element_ty
    all_r = tl.arange(0, RP)
    h = tl.zeros((BN, RP), tl.float32)
    if BR == 0:
        x = scaled(V, G, tokens, operations, valid, all_r, R, FULL)
    for start in range(0, R, BC):
        c = start + tl.arange(0, BC)
        pre = load_rows(U, tokens, valid, c, R, EVEN).to(tl.float32)
        if BR == 0:
            pre = dot(x, tl.trans(load_weight(C1a, c, all_r, R, FULL and EVEN)), pre, PRECISION)
        else:
            for begin in range(0, R, BR):
                r = begin + tl.arange(0, BR)
                x = scaled(V, G, tokens, operations, valid, r, R, R % BR == 0)
                weight = load_weight(C1a, c, r, R, EVEN and R % BR == 0)
                pre = dot(x, tl.trans(weight), pre, PRECISION)
        hidden = narrow(activate(pre, ACTIVATION), dtype)
        if KEEP:
            store_rows(PRE, pre, rows, valid, c, R, EVEN)
            store_rows(HIDDEN, hidden, rows, valid, c, R, EVEN)
        weight = load_weight(C2, all_r, c, R, FULL and EVEN)
        h = dot(hidden, tl.trans(weight), h, PRECISION)
    return h


@triton.jit
def halves(tile):
    """The left and the right half of a tile's columns."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(tile, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def score(
    h, L, c2, w, p, operations, valid, begin, seed, draw, threshold, scale,
    R: tl.constexpr, FULL: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """w · drop(φ((h + c2) ⊙ l)) over the columns of h, which start at `begin`."""
    width: tl.constexpr = h.shape[1]
    r = begin + tl.arange(0, width)
    l = load_rows(L, operations, valid, r, R, FULL).to(tl.float32)
    y = activate((h + load_vector(c2, r, R, FULL)[None, :]) * l, ACTIVATION)
    if DROP:
        y *= multipliers(seed, draw, threshold, scale, p * R + begin, width, R % 4 == 0)
    return tl.sum(y * load_vector(w, r, R, FULL)[None, :], 1)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def logits_kernel(
    V, U, G, L, C1a, C2, c2, w, LOGITS, seed, draw, threshold, scale, pairs, N, K,
    R: tl.constexpr, RP: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """s_kn = w · drop(φ(h ⊙ l)), float32. The end of it goes over h in PARTS, so as not to run out of registers."""
    FULL: tl.constexpr = R == RP
    tile = tl.program_id(0)
    p = tile.to(tl.int64) * BN + tl.arange(0, BN)
    valid = p < pairs
    operations, tokens = locate(tile, N, K, BN)
    h = chain_forward(
        V, U, G, C1a, C2, LOGITS, LOGITS, tokens, operations, p, valid, R, RP, BN, BC, BR, ACTIVATION, PRECISION, False
    )
    W: tl.constexpr = RP // PARTS
    if PARTS == 1:
        s = score(h, L, c2, w, p, operations, valid, 0, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP)
    else:
        h0, h1 = halves(h)
        if PARTS == 2:
            s = score(h0, L, c2, w, p, operations, valid, 0, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP)
            s += score(h1, L, c2, w, p, operations, valid, W, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP)
        else:
            h00, h01 = halves(h0)
            h10, h11 = halves(h1)
            s = score(h00, L, c2, w, p, operations, valid, 0, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP)
            s += score(h01, L, c2, w, p, operations, valid, W, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP)
            s += score(
                h10, L, c2, w, p, operations, valid, 2 * W, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP
            )
            s += score(
                h11, L, c2, w, p, operations, valid, 3 * W, seed, draw, threshold, scale, R, FULL, ACTIVATION, DROP
            )
    tl.store(LOGITS + p, s, mask=valid)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def recompute_kernel(
    V, U, G, C1a, C2, c2, PRE, HIDDEN, H, pairs, N, K,
    R: tl.constexpr, RP: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The forward chain again, with pre, φ(pre) and h kept in the buffers."""
    FULL: tl.constexpr = R == RP
    tile = tl.program_id(0)
    p = tile.to(tl.int64) * BN + tl.arange(0, BN)
    valid = p < pairs
    operations, tokens = locate(tile, N, K, BN)
    h = chain_forward(
        V, U, G, C1a, C2, PRE, HIDDEN, tokens, operations, p, valid, R, RP, BN, BC, BR, ACTIVATION, PRECISION, True
    )
    r = tl.arange(0, RP)
    store_rows(H, h + load_vector(c2, r, R, FULL)[None, :], p, valid, r, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def hidden_kernel(
    U, PRE, HIDDEN, pairs, N, K, R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, ACTIVATION: tl.constexpr
):
    """From C1a (g ⊙ v) to pre, over it, and φ(pre), where the library multiplies."""
    FULL: tl.constexpr = R % BR == 0
    tile = tl.program_id(0)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    p = tile.to(tl.int64) * BN + tl.arange(0, BN)
    valid = p < pairs
    _, tokens = locate(tile, N, K, BN)
    pre = load_rows(PRE, p, valid, r, R, FULL).to(tl.float32) + load_rows(U, tokens, valid, r, R, FULL).to(tl.float32)
    store_rows(HIDDEN, activate(pre, ACTIVATION), p, valid, r, R, FULL)
    tl.debug_barrier()  # every thread has read this tile of pre
    store_rows(PRE, pre, p, valid, r, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def d_hidden_kernel(PRE, D_PRE, pairs, R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, ACTIVATION: tl.constexpr):
    """From dφ(pre) to d pre, over it, where the library multiplies."""
    FULL: tl.constexpr = R % BR == 0
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    p = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    valid = p < pairs
    pre = load_rows(PRE, p, valid, r, R, FULL).to(tl.float32)
    d_hidden = load_rows(D_PRE, p, valid, r, R, FULL).to(tl.float32)
    tl.debug_barrier()  # every thread has read this tile
    store_rows(D_PRE, d_hidden * slope(pre, ACTIVATION), p, valid, r, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def gate_backward_kernel(
    L, w, D_LOGITS, H, DL, SUM_W, SUM_C2, seed, draw, threshold, scale, first, N,
    R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Of one operation and BR columns: from ds to dh, which overwrites h. With π = h ⊙ l and dπ = ds w ⊙ mask ⊙ φ'(π):

        dh = dπ ⊙ l,  dl = Σ_n dπ ⊙ h,  and the parts of dw and dc2,  SUM_W = Σ_n ds φ(π) ⊙ mask,  SUM_C2 = Σ_n dh

    The operations are those of some samples; `first` is the number, in the whole batch, of their first pair.
    """
    FULL: tl.constexpr = R % BR == 0
    operation = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * BR
    r = begin + tl.arange(0, BR)
    l = load_vector(L + operation * R, r, R, FULL)[None, :]
    weight = load_vector(w, r, R, FULL)[None, :]
    d_l = tl.zeros((BR,), tl.float32)
    d_w = tl.zeros((BR,), tl.float32)
    d_c2 = tl.zeros((BR,), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        valid = n < N
        p = operation * N + n
        h = load_rows(H, p, valid, r, R, FULL).to(tl.float32)
        ds = tl.load(D_LOGITS + p, mask=valid, other=0.0)[:, None]
        if DROP:
            ds = ds * multipliers(seed, draw, threshold, scale, (first + p) * R + begin, BR, R % 4 == 0)
        product = h * l
        d_product = ds * weight * slope(product, ACTIVATION)
        dh = d_product * l
        d_l += tl.sum(d_product * h, 0)
        d_w += tl.sum(ds * activate(product, ACTIVATION), 0)
        d_c2 += tl.sum(dh, 0)
        tl.debug_barrier()  # every thread has read this tile of h
        store_rows(H, dh, p, valid, r, R, FULL)
    row = operation * R + r
    tl.store(DL + row, narrow(d_l, DL.dtype.element_ty), mask=r < R)
    tl.store(SUM_W + row, d_w, mask=r < R)
    tl.store(SUM_C2 + row, d_c2, mask=r < R)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def chain_backward_kernel(
    C1a, C2, PRE, D_PRE, D_H, pairs,
    R: tl.constexpr, RP: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From dh to d pre, and to dx = d(g ⊙ v), which overwrites dh."""
    FULL: tl.constexpr = R == RP
    EVEN: tl.constexpr = R % BC == 0
    dtype: tl.constexpr = PRE.dtype.element_ty
    p = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    valid = p < pairs
    all_r = tl.arange(0, RP)
    dx = tl.zeros((BN, RP), tl.float32)
    if BR == 0:
        dh = load_rows(D_H, p, valid, all_r, R, FULL)
    for start in range(0, R, BC):
        c = start + tl.arange(0, BC)
        if BR == 0:
            d_hidden = dot(dh, load_weight(C2, all_r, c, R, FULL and EVEN), tl.zeros((BN, BC), tl.float32), PRECISION)
        else:
            d_hidden = tl.zeros((BN, BC), tl.float32)
            for begin in range(0, R, BR):
                r = begin + tl.arange(0, BR)
                dh = load_rows(D_H, p, valid, r, R, R % BR == 0)
                weight = load_weight(C2, r, c, R, EVEN and R % BR == 0)
                d_hidden = dot(dh, weight, d_hidden, PRECISION)
        pre = load_rows(PRE, p, valid, c, R, EVEN).to(tl.float32)
        d_pre = narrow(d_hidden * slope(pre, ACTIVATION), dtype)
        store_rows(D_PRE, d_pre, p, valid, c, R, EVEN)
        dx = dot(d_pre, load_weight(C1a, c, all_r, R, EVEN and FULL), dx, PRECISION)
    tl.debug_barrier()  # every thread has read this tile of dh
    store_rows(D_H, dx, p, valid, all_r, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def reduce_kernel(
    V, G, D_X, D_PRE, SCALED, DV, DU, SUM_G, N, K,
    R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Of one sample, BN tokens and BR columns: dv = Σ_k g ⊙ dx, du = Σ_k d pre, and this tile's part of
    dg = Σ_n v ⊙ dx. SCALED takes g ⊙ v, the other factor of dC1a = Σ d preᵀ (g ⊙ v).
    """
    FULL: tl.constexpr = R % BR == 0
    tile_count = (N + BN - 1) // BN
    b, tile = (tl.program_id(0) // tile_count).to(tl.int64), tl.program_id(0) % tile_count
    n = tile * BN + tl.arange(0, BN)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    valid, inside = n < N, r < R
    v = load_rows(V, b * N + n, valid, r, R, FULL).to(tl.float32)
    dv = tl.zeros((BN, BR), tl.float32)
    du = tl.zeros((BN, BR), tl.float32)
    for k in range(K):
        p = (b * K + k) * N + n
        g = load_vector(G + (b * K + k) * R, r, R, FULL)[None, :]
        dx = load_rows(D_X, p, valid, r, R, FULL).to(tl.float32)
        part = ((b * tile_count + tile) * K + k) * R + r
        tl.store(SUM_G + part, tl.sum(dx * v, 0), mask=inside)
        dv += dx * g
        du += load_rows(D_PRE, p, valid, r, R, FULL).to(tl.float32)
        store_rows(SCALED, v * g, p, valid, r, R, FULL)
    store_rows(DV, dv, b * N + n, valid, r, R, FULL)
    store_rows(DU, du, b * N + n, valid, r, R, FULL)
