"""What formation and execution share: K queries attend over N tokens of width D. In every tile the tokens are read
once for up to BK operations.

    products   s_kn = (q_k ⊙ f) · x_n, or the gradient of the probabilities, da_kn = m_kn (grad_k · x_n) + extra_kn
    pool       a = softmax_n(masked s),  pooled_k = Σ_n m_kn a_kn x_n            m: the attention's dropout multipliers
    slope      ds = a ⊙ (da - Σ_n a da), in place
    d_tokens   dx_n = Σ_k m_kn a_kn grad_k + Σ_k ds_kn (q_k ⊙ f)
    d_query    dq_k = f ⊙ Σ_n ds_kn x_n,  and the part Σ_k q_k ⊙ Σ_n ds_kn x_n of df

Logits and pooling are two kernels. The softmax needs a whole row of logits and the sum over the tokens is cut along D
to fill the card, so one kernel would compute each logit D / BD times, which for the pairs of execution is the whole
cost; the logits between them are 4·B·K·N bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.rounding import dot, narrow
from iprm_kernels.backends.triton.tiles import PLAIN, load_rows, load_vector, store_rows

MASK_BIAS = tl.constexpr(-1e30)


@triton.jit
def sample_and_token(N, BN: tl.constexpr):
    """Of this program, whose first index counts the tiles of all samples (the other two end at 65535): the sample, and
    the first token of the tile."""
    tiles = (N + BN - 1) // BN
    return (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BN


@triton.jit
def gated(Q, gate, rows, valid, d, D: tl.constexpr, BD: tl.constexpr, GATED: tl.constexpr):
    """A tile of q ⊙ f, or of q, in the inputs' dtype."""
    q = load_rows(Q, rows, valid, d, D, D % BD == 0)
    if GATED:
        q = narrow(q.to(tl.float32) * load_vector(gate, d, D, D % BD == 0)[None, :], q.dtype)
    return q


@triton.jit(do_not_specialize=PLAIN)
def products_kernel(
    Q, gate, X, EXTRA, OUT, seed, draw, threshold, scale, K, N, ALIGNED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, GATED: tl.constexpr, DROP: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    b, first = sample_and_token(N, BN)
    n = first + tl.arange(0, BN)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    out = tl.zeros((BK, BN), tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        q = gated(Q, gate, b * K + k, k < K, d, D, BD, GATED)
        x = load_rows(X, b * N + n, n < N, d, D, D % BD == 0)
        out = dot(q, tl.trans(x), out, PRECISION)
    rows = (b * K + k) * N
    if DROP:
        out *= multipliers(seed, draw, threshold, scale, rows + first, BN, ALIGNED)
    inside = (k < K)[:, None] & (n < N)[None, :]
    if ADD:
        out += tl.load(EXTRA + rows[:, None] + n[None, :], mask=inside, other=0.0)
    tl.store(OUT + rows[:, None] + n[None, :], out, mask=inside)


@triton.jit
def masked_logits(LOGITS, MASK, b, k, n, K, N, MASKED: tl.constexpr):
    """(k, n) float32; -inf outside the row."""
    inside = (k < K)[:, None] & (n < N)[None, :]
    s = tl.load(LOGITS + ((b * K + k) * N)[:, None] + n[None, :], mask=inside, other=0.0)
    if MASKED:
        keep = tl.load(MASK + b * N + n, mask=n < N, other=1)
        s += tl.where(keep != 0, 0.0, MASK_BIAS)[None, :]
    return tl.where((n < N)[None, :], s, float("-inf"))


@triton.jit(do_not_specialize=PLAIN)
def pool_kernel(
    LOGITS, MASK, X, POOLED, ATTENTION, seed, draw, threshold, scale, K, N, ALIGNED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """One pass over the tokens with a running maximum; the programs of the first columns then write a."""
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    highest = tl.full((BK,), float("-inf"), tl.float32)
    total = tl.zeros((BK,), tl.float32)
    pooled = tl.zeros((BK, BD), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        s = masked_logits(LOGITS, MASK, b, k, n, K, N, MASKED)
        now = tl.maximum(highest, tl.max(s, 1))
        e = tl.exp(s - now[:, None])
        rescale = tl.exp(highest - now)
        total = total * rescale + tl.sum(e, 1)
        highest = now
        if DROP:
            e *= multipliers(seed, draw, threshold, scale, (b * K + k) * N + start, BN, ALIGNED)
        x = load_rows(X, b * N + n, n < N, d, D, D % BD == 0)
        pooled = dot(narrow(e, x.dtype), x, pooled * rescale[:, None], PRECISION)
    store_rows(POOLED, pooled / total[:, None], b * K + k, k < K, d, D, D % BD == 0)
    if tl.program_id(1) == 0:
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            s = masked_logits(LOGITS, MASK, b, k, n, K, N, MASKED)
            a = tl.exp(s - highest[:, None]) / total[:, None]
            inside = (k < K)[:, None] & (n < N)[None, :]
            tl.store(ATTENTION + ((b * K + k) * N)[:, None] + n[None, :], a, mask=inside)


@triton.jit(do_not_specialize=PLAIN)
def slope_kernel(ATTENTION, DA, N, BN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N
    mean = 0.0
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        a = tl.load(ATTENTION + row + n, mask=n < N, other=0.0)
        mean += tl.sum(a * tl.load(DA + row + n, mask=n < N, other=0.0), 0)
    tl.debug_barrier()  # every thread has read the row
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        a = tl.load(ATTENTION + row + n, mask=n < N, other=0.0)
        da = tl.load(DA + row + n, mask=n < N, other=0.0)
        tl.store(DA + row + n, a * (da - mean), mask=n < N)


@triton.jit(do_not_specialize=PLAIN)
def d_tokens_kernel(
    ATTENTION, GRAD, DS, Q, gate, DX, seed, draw, threshold, scale, K, N, ALIGNED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, GATED: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """GATED adds the term of the logits, which execution does not have."""
    b, first = sample_and_token(N, BN)
    n = first + tl.arange(0, BN)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    dx = tl.zeros((BN, BD), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        rows = b * K + k
        cells = (rows * N)[:, None] + n[None, :]
        inside = (k < K)[:, None] & (n < N)[None, :]
        a = tl.load(ATTENTION + cells, mask=inside, other=0.0)
        if DROP:
            a *= multipliers(seed, draw, threshold, scale, rows * N + first, BN, ALIGNED)
        grad = load_rows(GRAD, rows, k < K, d, D, D % BD == 0)
        dx = dot(tl.trans(narrow(a, grad.dtype)), grad, dx, PRECISION)
        if GATED:
            ds = tl.load(DS + cells, mask=inside, other=0.0)
            q = gated(Q, gate, rows, k < K, d, D, BD, True)
            dx = dot(tl.trans(narrow(ds, q.dtype)), q, dx, PRECISION)
    store_rows(DX, dx, b * N + n, n < N, d, D, D % BD == 0)


@triton.jit(do_not_specialize=PLAIN)
def d_query_kernel(
    DS, X, Q, gate, DQ, D_GATE, K, N,
    D: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """D_GATE (B, blocks of operations, D) float32 takes this program's part of df."""
    FULL: tl.constexpr = D % BD == 0
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    rows = b * K + k
    product = tl.zeros((BK, BD), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        x = load_rows(X, b * N + n, n < N, d, D, FULL)
        inside = (k < K)[:, None] & (n < N)[None, :]
        ds = tl.load(DS + (rows * N)[:, None] + n[None, :], mask=inside, other=0.0)
        product = dot(narrow(ds, x.dtype), x, product, PRECISION)
    store_rows(DQ, product * load_vector(gate, d, D, FULL)[None, :], rows, k < K, d, D, FULL)
    q = load_rows(Q, rows, k < K, d, D, FULL).to(tl.float32)
    part = (b * tl.num_programs(2) + tl.program_id(2)) * D
    tl.store(D_GATE + part + d, tl.sum(q * product, 0), mask=d < D)
