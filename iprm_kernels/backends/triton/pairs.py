"""The kernels over pairs (k, n) of execution = "full". One row of a tile is one pair.

The pairs of all samples and operations are numbered p = (b·K + k)·N + n. Forward they are cut into tiles of BN,
wherever a sample or an operation ends: with N = 196, tiles that began anew for each operation would compute a quarter
in vain. Backward a tile has some tokens with all their operations, up to GROUPED of them, whose gradients it adds up.

A tile is a chain of two products that stream the weights in chunks of BC columns, and the middle of the chain exists
only as a chunk (BN, BC):

    x = g ⊙ v ;     for chunk c:  pre_c = x C1aᵀ[:, c] + u_c ;  h += φ(pre_c) C2ᵀ[c, :]           (forward)
    dh = dπ ⊙ l ;   for chunk c:  d pre_c = (dh C2[:, c]) ⊙ φ'(pre_c) ;  dx += d pre_c C1a[c, :]   (backward)

A program holds BD columns of the second product's sum: all R, or, where that is too wide, a block of them. Then the
middle of the chain is made once for all blocks, by `hidden_kernel` and `d_pre_kernel`, and read here.

The backward needs φ and φ' of pre: HIDDEN holds what `activations.kept` says, φ(pre) or, for GELU, pre.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.activations import activate, kept, slope, value
from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.rounding import dot, narrow
from iprm_kernels.backends.triton.tiles import PLAIN, load_rows, load_vector, load_weight, store_rows


@triton.jit
def locate(pairs, N, K, BN: tl.constexpr):
    """Of a program's BN pairs: p, and whether there is such a pair; the row of g and l, b·K + k, and the row of v and
    u, b·N + n. int64.

    With tile = i·N + j the first pair is i·N·BN + j·BN: 32-bit divisions are enough, for N < 2^31 / BN. A 64-bit one
    is a subroutine, around which the compiler spills registers.
    """
    tile = tl.program_id(0)
    p = tile.to(tl.int64) * BN + tl.arange(0, BN)
    ahead = tile % N * BN
    pair = ahead % N + tl.arange(0, BN)
    first = tile // N * BN + ahead // N
    operation = first % K + pair // N
    token = (first // K + operation // K).to(tl.int64) * N + pair % N
    return p, p < pairs, first.to(tl.int64) + pair // N, token


@triton.jit
def scaled(V, G, tokens, operations, valid, r, R: tl.constexpr, FULL: tl.constexpr):
    """g ⊙ v in the inputs' dtype."""
    v = load_rows(V, tokens, valid, r, R, FULL)
    g = load_rows(G, operations, valid, r, R, FULL)
    return narrow(v.to(tl.float32) * g.to(tl.float32), V.dtype.element_ty)


@triton.jit
def gated_product(
    X, G, WEIGHT, rows, operations, valid, c, total,
    R: tl.constexpr, BR: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """total + (g ⊙ x) W[:, c], the contraction in chunks of BR; TRANSPOSED takes Wᵀ."""
    for begin in range(0, R, BR):
        r = begin + tl.arange(0, BR)
        x = scaled(X, G, rows, operations, valid, r, R, R % BR == 0)
        if TRANSPOSED:
            weight = tl.trans(load_weight(WEIGHT, c, r, R, EVEN and R % BR == 0))
        else:
            weight = load_weight(WEIGHT, r, c, R, EVEN and R % BR == 0)
        total = dot(x, weight, total, PRECISION)
    return total


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def hidden_kernel(
    V, U, G, C1a, HIDDEN, pairs, N, K,
    R: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """φ(C1a (g ⊙ v) + u): the first half of the chain, where h is made in blocks of columns."""
    EVEN: tl.constexpr = R % BC == 0
    p, valid, operations, tokens = locate(pairs, N, K, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    pre = load_rows(U, tokens, valid, c, R, EVEN).to(tl.float32)
    pre = gated_product(V, G, C1a, tokens, operations, valid, c, pre, R, BR, EVEN, PRECISION, True)
    store_rows(HIDDEN, kept(pre, ACTIVATION), p, valid, c, R, EVEN)


@triton.jit
def chain_forward(
    V, U, G, C1a, C2, HIDDEN, tokens, operations, rows, valid, begin,
    R: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """C2 φ(C1a (g ⊙ v) + u), its BD columns from `begin`, (BN, BD) float32. KEEP writes HIDDEN."""
    WHOLE: tl.constexpr = R % BD == 0
    EVEN: tl.constexpr = R % BC == 0
    dtype: tl.constexpr = V.dtype.element_ty
    columns = begin + tl.arange(0, BD)
    h = tl.zeros((BN, BD), tl.float32)
    if BD >= R and BR == 0:
        x = scaled(V, G, tokens, operations, valid, columns, R, WHOLE)
    for start in range(0, R, BC):
        c = start + tl.arange(0, BC)
        if BD < R:
            hidden = load_rows(HIDDEN, rows, valid, c, R, EVEN).to(tl.float32)
        else:
            pre = load_rows(U, tokens, valid, c, R, EVEN).to(tl.float32)
            if BR == 0:
                pre = dot(x, tl.trans(load_weight(C1a, c, columns, R, WHOLE and EVEN)), pre, PRECISION)
            else:
                pre = gated_product(V, G, C1a, tokens, operations, valid, c, pre, R, BR, EVEN, PRECISION, True)
            hidden = kept(pre, ACTIVATION)
            if KEEP:
                store_rows(HIDDEN, hidden, rows, valid, c, R, EVEN)
        h = dot(
            narrow(value(hidden, ACTIVATION), dtype),
            tl.trans(load_weight(C2, columns, c, R, WHOLE and EVEN)),
            h,
            PRECISION,
        )
    return h


@triton.jit
def halves(tile):
    """The left and the right half of a tile's columns."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(tile, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def parts_of(tile, PARTS: tl.constexpr):
    """A tuple of a tile's columns in so many parts, so that what follows does not run out of registers."""
    if PARTS == 1:
        return (tile,)
    else:
        left, right = halves(tile)
        if PARTS == 2:
            return left, right
        else:
            first, second = halves(left)
            third, fourth = halves(right)
            return first, second, third, fourth


@triton.jit
def store_parts(TARGET, parts, rows, valid, begin, R: tl.constexpr, FULL: tl.constexpr):
    """A tuple of column parts to the columns of TARGET from `begin` on."""
    width: tl.constexpr = parts[0].shape[1]
    for i in tl.static_range(len(parts)):
        store_rows(TARGET, parts[i], rows, valid, begin + i * width + tl.arange(0, width), R, FULL)


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
    V, U, G, L, C1a, C2, c2, w, HIDDEN, H, LOGITS, seed, draw, threshold, scale, first, pairs, N, K,
    R: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """s_kn = w · drop(φ(h ⊙ l)), float32; of each block of columns its part of the sum. `first` is the number, in the
    whole batch, of the first pair. KEEP writes HIDDEN, and h without its bias."""
    p, valid, operations, tokens = locate(pairs, N, K, BN)
    begin = tl.program_id(1) * BD
    h = chain_forward(
        V, U, G, C1a, C2, HIDDEN, tokens, operations, p, valid, begin, R, BD, BN, BC, BR, ACTIVATION, PRECISION, KEEP
    )
    parts = parts_of(h, PARTS)
    if KEEP and BR > 0:
        store_parts(H, parts, p, valid, begin, R, R % BD == 0)
    s = tl.zeros((BN,), tl.float32)
    for i in tl.static_range(PARTS):
        s += score(
            parts[i], L, c2, w, first + p, operations, valid, begin + i * (BD // PARTS), seed, draw, threshold, scale,
            R, R % BD == 0, ACTIVATION, DROP,
        )  # fmt: skip
    if KEEP and BR == 0:  # here or there, by which registers the compiler spills
        store_parts(H, parts, p, valid, begin, R, R % BD == 0)
    tl.store(LOGITS + tl.program_id(1).to(tl.int64) * pairs + p, s, mask=valid)


@triton.jit
def gate_backward(
    h, ds, L, c2, w, D_PRODUCT, SUM_W, tile, p, first, operations, valid, begin, seed, draw, threshold, scale,
    R: tl.constexpr, FULL: tl.constexpr, ACTIVATION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """dπ = ds w ⊙ mask ⊙ φ'(π), with π = (h + c2) ⊙ l, and this tile's part of dw = Σ ds φ(π) ⊙ mask."""
    width: tl.constexpr = h.shape[1]
    r = begin + tl.arange(0, width)
    l = load_rows(L, operations, valid, r, R, FULL).to(tl.float32)
    y = kept((h + load_vector(c2, r, R, FULL)[None, :]) * l, ACTIVATION)
    d_y = tl.broadcast_to(ds[:, None], y.shape)
    if DROP:
        d_y *= multipliers(seed, draw, threshold, scale, (first + p) * R + begin, width, R % 4 == 0)
    d_w = tl.sum(d_y * value(y, ACTIVATION), 0)
    tl.store(SUM_W + tile.to(tl.int64) * R + r, d_w, mask=r < R)
    d_product = d_y * load_vector(w, r, R, FULL)[None, :] * slope(y, ACTIVATION)
    store_rows(D_PRODUCT, d_product, p, valid, r, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def recompute_kernel(
    V, U, G, L, C1a, C2, c2, w, D_LOGITS, HIDDEN, D_PRODUCT, SUM_W, seed, draw, threshold, scale, first, pairs, N, K,
    R: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """The forward chain again, as far as h, and back to dπ. Keeps hidden and dπ in the buffers."""
    p, valid, operations, tokens = locate(pairs, N, K, BN)
    begin = tl.program_id(1) * BD
    h = chain_forward(
        V, U, G, C1a, C2, HIDDEN, tokens, operations, p, valid, begin, R, BD, BN, BC, BR, ACTIVATION, PRECISION, True
    )
    ds = tl.load(D_LOGITS + p, mask=valid, other=0.0)
    parts = parts_of(h, PARTS)
    for i in tl.static_range(PARTS):
        gate_backward(
            parts[i], ds, L, c2, w, D_PRODUCT, SUM_W, tl.program_id(0), p, first, operations, valid,
            begin + i * (BD // PARTS), seed, draw, threshold, scale, R, R % BD == 0, ACTIVATION, DROP,
        )  # fmt: skip


@triton.jit
def locate_grouped(count, N, K, grouped, BN: tl.constexpr, GROUP: tl.constexpr, dtype: tl.constexpr):
    """Of a tile that has BN // grouped tokens, of all `count`, with `grouped` of their operations each:

    p, operations, valid    of its rows: the number of the pair, b·K + k, and whether there is such a pair
    member                  (SUMS, BN): 1 where a row belongs to a token, the factor that adds rows up
    firsts, rows, kept      of the sums: the first pair, the row in (parts, B·N), and whether there is such a token

    GROUP ≤ grouped bounds how many tokens there are.
    """
    SUMS: tl.constexpr = BN // GROUP if BN // GROUP > 16 else 16
    row, held, k = tl.arange(0, BN), BN // grouped, tl.program_id(1) * grouped
    token, sums = row // grouped, tl.arange(0, SUMS)
    tile = tl.program_id(0)
    ahead = tile % N * held  # 32-bit divisions, as above
    b, n = (tile // N * held + ahead // N).to(tl.int64), ahead % N
    first = tile.to(tl.int64) * held
    operations = (b + (n + token) // N) * K + k + row % grouped
    valid = (token < held) & (first + token < count) & (k + row % grouped < K)
    member = narrow((sums[:, None] == token[None, :]).to(tl.float32), dtype)
    firsts = ((b + (n + sums) // N) * K + k) * N + (n + sums) % N
    rows = tl.program_id(1).to(tl.int64) * count + first + sums
    kept = (sums < held) & (first + sums < count)
    return operations * N + (n + token) % N, operations, valid, member, firsts, rows, kept


@triton.jit
def summed(tile, member, PRECISION: tl.constexpr):
    """The sums of a tile's rows over the operations of each token, in float32."""
    return dot(member, tile, tl.zeros((member.shape[0], tile.shape[1]), tl.float32), PRECISION)


@triton.jit
def store_sums(
    TARGET, SOURCE, firsts, rows, kept, begin, N, K, grouped,
    R: tl.constexpr, COLUMNS: tl.constexpr, BS: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Σ_k of what this program has just written of SOURCE, of its tokens and of COLUMNS columns from `begin`, BS at a
    time. The rows come from the caches; as a product inside the chain the sum would spill the chain's registers."""
    tl.debug_barrier()  # other threads of the block wrote them
    operations = min(grouped, K - tl.program_id(1) * grouped)
    for start in range(0, COLUMNS, BS):
        c = begin + start + tl.arange(0, BS)
        total = tl.zeros((rows.shape[0], BS), tl.float32)
        for k in range(0, operations):
            total += load_rows(SOURCE, firsts + k * N, kept, c, R, FULL).to(tl.float32)
        store_rows(TARGET, total, rows, kept, c, R, FULL)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def d_pre_kernel(
    L, C2, HIDDEN, D_PRODUCT, D_PRE, DU, count, N, K, grouped,
    R: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d pre, and du = Σ_k d pre: the first half of the chain, where dx is made in blocks of columns."""
    EVEN: tl.constexpr = R % BC == 0
    dtype: tl.constexpr = HIDDEN.dtype.element_ty
    p, operations, valid, _, firsts, rows, kept = locate_grouped(count, N, K, grouped, BN, GROUP, dtype)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    d_hidden = tl.zeros((BN, BC), tl.float32)
    d_hidden = gated_product(D_PRODUCT, L, C2, p, operations, valid, c, d_hidden, R, BR, EVEN, PRECISION, False)
    hidden = load_rows(HIDDEN, p, valid, c, R, EVEN).to(tl.float32)
    d_pre = narrow(d_hidden * slope(hidden, ACTIVATION), dtype)
    store_rows(D_PRE, d_pre, p, valid, c, R, EVEN)
    BS: tl.constexpr = BC if BC < 64 else 64
    store_sums(DU, D_PRE, firsts, rows, kept, tl.program_id(2) * BC, N, K, grouped, R, BC, BS, EVEN)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def chain_backward_kernel(
    G, L, C1a, C2, HIDDEN, D_PRODUCT, D_PRE, DV, DU, H, D_LOGITS, c2, w, SUM_W, seed, draw, threshold, scale, first,
    count, N, K, grouped,
    R: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PARTS: tl.constexpr,
    GROUP: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """From dπ to d pre, to du = Σ_k d pre, and to dv = Σ_k g ⊙ dx. Where the forward has KEPT h, dπ is made here
    too, and the tile's part of dw."""
    WHOLE: tl.constexpr = R % BD == 0
    EVEN: tl.constexpr = R % BC == 0
    dtype: tl.constexpr = HIDDEN.dtype.element_ty
    p, operations, valid, member, firsts, rows, kept = locate_grouped(count, N, K, grouped, BN, GROUP, dtype)
    columns = tl.program_id(2) * BD + tl.arange(0, BD)
    if KEPT:
        ds = tl.load(D_LOGITS + p, mask=valid, other=0.0)
        tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        for begin in range(0, BD, BD // PARTS):
            h = load_rows(H, p, valid, begin + tl.arange(0, BD // PARTS), R, WHOLE).to(tl.float32)
            gate_backward(
                h, ds, L, c2, w, D_PRODUCT, SUM_W, tile, p, first, operations, valid, begin, seed, draw, threshold,
                scale, R, WHOLE, ACTIVATION, DROP,
            )  # fmt: skip
        tl.debug_barrier()  # other threads of the block read it
    dx = tl.zeros((BN, BD), tl.float32)
    if BD >= R and BR == 0:
        dh = scaled(D_PRODUCT, L, p, operations, valid, columns, R, WHOLE)
    for start in range(0, R, BC):
        c = start + tl.arange(0, BC)
        if BD < R:
            d_pre = load_rows(D_PRE, p, valid, c, R, EVEN)
        else:
            d_hidden = tl.zeros((BN, BC), tl.float32)
            if BR == 0:
                d_hidden = dot(dh, load_weight(C2, columns, c, R, WHOLE and EVEN), d_hidden, PRECISION)
            else:
                d_hidden = gated_product(
                    D_PRODUCT, L, C2, p, operations, valid, c, d_hidden, R, BR, EVEN, PRECISION, False
                )
            hidden = load_rows(HIDDEN, p, valid, c, R, EVEN).to(tl.float32)
            d_pre = narrow(d_hidden * slope(hidden, ACTIVATION), dtype)
            store_rows(D_PRE, d_pre, p, valid, c, R, EVEN)
        dx = dot(d_pre, load_weight(C1a, c, columns, R, WHOLE and EVEN), dx, PRECISION)
    parts = parts_of(dx, PARTS)
    for i in tl.static_range(PARTS):
        r = tl.program_id(2) * BD + i * (BD // PARTS) + tl.arange(0, BD // PARTS)
        d_scaled = parts[i] * load_rows(G, operations, valid, r, R, WHOLE).to(tl.float32)
        store_rows(DV, summed(narrow(d_scaled, dtype), member, PRECISION), rows, kept, r, R, WHOLE)
    if BD >= R:
        BS: tl.constexpr = BD if BD < 64 else 64
        store_sums(DU, D_PRE, firsts, rows, kept, 0, N, K, grouped, R, R, BS, R % BS == 0)


@triton.jit(do_not_specialize=[*PLAIN, "N"])
def weights_kernel(
    LEFT, RIGHT, GATE, WEIGHT, bias, SUM, D_GATE, SUM_BIAS, operations, each, stride, later, N, K,
    R: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, HELD: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, OF_TOKENS: tl.constexpr,
):  # fmt: skip
    """A weight's gradient and its gate's, of some operations and of the weight's BM rows and BD columns.

    Both are sums over an operation's product Q_k = Σ_n left_knᵀ right_kn, which is made once:

        C2, with π = l ⊙ h:       Q_k = Σ_n dπᵀ hidden ,  dC2 = Σ_k l_k ⊙ Q_k ,   dl_k = Σ_c C2 ⊙ Q_k + c2 ⊙ s_k ,
                                  dc2 = Σ_k l_k ⊙ s_k ,   s_k = Σ_n dπ
        C1a, with x = g ⊙ v:      Q_k = Σ_n vᵀ d pre ,    dC1aᵀ = Σ_k g_k ⊙ Q_k , dg_k = Σ_c C1aᵀ ⊙ Q_k  (OF_TOKENS)

    The gate multiplies rows. HELD keeps the weight in registers instead of reading it for each operation. SUM is
    (parts, R, R), D_GATE (column blocks, all operations, R), SUM_BIAS (parts, R). What is there already of an earlier
    part of the batch, if `later` is 1, is added to.
    """
    FULL: tl.constexpr = R % BM == 0 and R % BD == 0
    blocks: tl.constexpr = (R + BD - 1) // BD
    part, block = tl.program_id(1), tl.program_id(0) % blocks
    r = tl.program_id(0) // blocks * BM + tl.arange(0, BM)
    c = block * BD + tl.arange(0, BD)
    rows = tl.where(block == 0, R, 0)  # of the bias, which one block of columns has
    inside, of_bias = (r < R)[:, None] & (c < R)[None, :], r < rows
    cells = SUM + part.to(tl.int64) * R * R + r[:, None] * R + c[None, :]
    total = tl.load(cells, mask=(r < later * R)[:, None] & (c < R)[None, :], other=0.0)
    if not OF_TOKENS:
        d_bias = tl.load(SUM_BIAS + part * R + r, mask=r < later * rows, other=0.0)
    of_weight = WEIGHT + c[None, :] * R + r[:, None] if OF_TOKENS else WEIGHT + r[:, None] * R + c[None, :]
    if HELD:
        weight = tl.load(of_weight, mask=inside, other=0.0)
    n = tl.arange(0, BN)
    for i in range(0, min(each, operations - part * each)):
        operation = part * each + i
        row, token = operation.to(tl.int64) * N, (operation // K).to(tl.int64) * N
        product = tl.zeros((BM, BD), tl.float32)
        s = tl.zeros((BM,), tl.float32)
        for start in range(0, N, BN):
            valid = start + n < N
            right = load_rows(RIGHT, row + start + n, valid, c, R, FULL)
            if OF_TOKENS:
                left = load_rows(LEFT, token + start + n, valid, r, R, FULL)
            else:
                left = load_rows(LEFT, row + start + n, valid, r, R, FULL)
                s += tl.sum(left.to(tl.float32), 0)
                if ACTIVATION == "gelu":
                    right = narrow(activate(right.to(tl.float32), ACTIVATION), left.dtype)
            product = dot(tl.trans(left), right, product, PRECISION)
        at = operation.to(tl.int64) * R + r
        gate = tl.load(GATE + at, mask=r < R, other=0.0).to(tl.float32)
        total += gate[:, None] * product
        if not HELD:
            weight = tl.load(of_weight, mask=inside, other=0.0)
        d_gate = tl.sum(product * weight.to(tl.float32), 1)
        if not OF_TOKENS:
            d_bias += gate * s
            d_gate += tl.load(bias + r, mask=of_bias, other=0.0).to(tl.float32) * s
        tl.store(D_GATE + block.to(tl.int64) * stride + at, d_gate, mask=r < R)
    tl.store(cells, total, mask=inside)
    if not OF_TOKENS:
        tl.store(SUM_BIAS + part * R + r, d_bias, mask=of_bias)
