"""The kernels over pairs of execution = "simple": y = drop(φ(p_k ⊙ κ_n)), s_kn = w · y. No product of matrices."""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.activations import activate, kept, slope, value
from iprm_kernels.backends.triton.pairs import locate
from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.tiles import PLAIN, load_rows, load_vector, store_rows


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def simple_logits_kernel(
    KEYS, QUERY, w, LOGITS, seed, draw, threshold, scale, pairs, N, K,
    R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """One row of a tile is one pair, numbered as in `pairs.py`."""
    FULL: tl.constexpr = R % BR == 0
    p, valid, operations, tokens = locate(pairs, N, K, BN)
    s = tl.zeros((BN,), tl.float32)
    for begin in range(0, R, BR):
        r = begin + tl.arange(0, BR)
        keys = load_rows(KEYS, tokens, valid, r, R, FULL).to(tl.float32)
        query = load_rows(QUERY, operations, valid, r, R, FULL).to(tl.float32)
        y = activate(keys * query, ACTIVATION)
        if DROP:
            y *= multipliers(seed, draw, threshold, scale, p * R + begin, BR, R % 4 == 0)
        s += tl.sum(y * load_vector(w, r, R, FULL)[None, :], 1)
    tl.store(LOGITS + p, s, mask=valid)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def simple_backward_kernel(
    KEYS, QUERY, w, D_LOGITS, D_KEYS, SUM_QUERY, SUM_W, seed, draw, threshold, scale, N, K,
    R: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Of one sample, BN tokens and BR columns: dκ whole, and this tile's part of the gradients of p and w."""
    FULL: tl.constexpr = R % BR == 0
    tile_count = (N + BN - 1) // BN
    b, tile = (tl.program_id(0) // tile_count).to(tl.int64), tl.program_id(0) % tile_count
    n = tile * BN + tl.arange(0, BN)
    begin = tl.program_id(1) * BR
    r = begin + tl.arange(0, BR)
    valid, inside = n < N, r < R
    keys = load_rows(KEYS, b * N + n, valid, r, R, FULL).to(tl.float32)
    weight = load_vector(w, r, R, FULL)[None, :]
    d_keys = tl.zeros((BN, BR), tl.float32)
    d_w = tl.zeros((BR,), tl.float32)
    for k in range(K):
        p = (b * K + k) * N + n
        query = load_vector(QUERY + (b * K + k) * R, r, R, FULL)[None, :]
        y = kept(keys * query, ACTIVATION)
        ds = tl.load(D_LOGITS + p, mask=valid, other=0.0)[:, None]
        if DROP:
            ds = ds * multipliers(seed, draw, threshold, scale, p * R + begin, BR, R % 4 == 0)
        d_w += tl.sum(ds * value(y, ACTIVATION), 0)
        d_product = ds * weight * slope(y, ACTIVATION)
        d_keys += d_product * query
        part = ((b * tile_count + tile) * K + k) * R
        tl.store(SUM_QUERY + part + r, tl.sum(d_product * keys, 0), mask=inside)
    store_rows(D_KEYS, d_keys, b * N + n, valid, r, R, FULL)
    tl.store(SUM_W + (b * tile_count + tile) * R + r, d_w, mask=inside)
