"""The kernels of composition. Column j = (i, k') is row k' of the i-th tensor of the window, which the kernels get as
tuples of pointers: no state is copied.

    s_kj = c · (m_kj ⊙ q_k ⊙ k_j),  a = softmax_j(masked s),  pooled_k = Σ_j m_kj a_kj (m_j ⊙ value_j)

K·columns·D products a sample are too few for matrix units to matter, and with drop_mod they are no matrix product: all
is elementwise in float32. One program serves one operation of one sample, forward and for what belongs to the
operation backward; what belongs to the columns is summed over the operations, in order, by one program for each BD
columns of the width.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.rounding import narrow
from iprm_kernels.backends.triton.tiles import PLAIN, load_rows, load_vector, store_rows


@triton.jit
def window_rows(
    STATE, b, row, i: tl.constexpr, j, begin, seed, stream, threshold, scale, K, columns,
    D: tl.constexpr, BD: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Rows j of one tensor of the window times those of a mask, (j, BD) float32. `row` says which (columns, D) of the
    mask: that of the sample, b, for values, and of the operation, b·K + k, for the product with keys."""
    d = begin + tl.arange(0, BD)
    x = load_rows(STATE, b * K + j, j < K, d, D, D % BD == 0).to(tl.float32)
    if DROP:
        starts = (row * columns + i * K + j) * D + begin
        x *= multipliers(seed, stream, threshold, scale, starts, BD, D % 4 == 0)
    return x


@triton.jit
def of_attention(row, i: tl.constexpr, j, seed, stream, threshold, scale, K, columns, DROP: tl.constexpr):
    """The multipliers of the attention in the i-th block of row `row`, (j)."""
    if DROP:
        starts = row * columns + i * K + j
        return tl.sum(multipliers(seed, stream, threshold, scale, starts, 1, False), 1)
    else:
        return tl.zeros_like(j).to(tl.float32) + 1.0


@triton.jit(do_not_specialize=PLAIN)
def forward_kernel(
    Q, KEYS, OPERATIONS, RESULTS, gate, POOLED_O, POOLED_E, ATTENTION,
    seed, product_stream, product_threshold, product_scale, operation_stream, result_stream, value_threshold,
    value_scale, attention_stream, attention_threshold, attention_scale, K,
    BLOCKS: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, MASK_SELF: tl.constexpr,
    DROP_PRODUCT: tl.constexpr, DROP_VALUE: tl.constexpr, DROP_ATTENTION: tl.constexpr,
):  # fmt: skip
    b, k = (tl.program_id(0) // K).to(tl.int64), tl.program_id(0) % K
    row = b * K + k
    columns = BLOCKS * K
    FULL: tl.constexpr = D % BD == 0
    highest = float("-inf")
    total = 0.0
    for i in tl.static_range(BLOCKS):
        for j0 in range(0, K, BK):
            j = j0 + tl.arange(0, BK)
            s = tl.zeros((BK,), tl.float32)
            for begin in range(0, D, BD):
                d = begin + tl.arange(0, BD)
                keys = window_rows(
                    KEYS[i], b, row, i, j, begin, seed, product_stream, product_threshold, product_scale, K, columns,
                    D, BD, DROP_PRODUCT,
                )  # fmt: skip
                q = load_vector(Q + row * D, d, D, FULL) * load_vector(gate, d, D, FULL)
                s += tl.sum(keys * q[None, :], 1)
            if MASK_SELF and i == 0:
                s += tl.where(j == k, -1e30, 0.0)
            tl.store(ATTENTION + row * columns + i * K + j, s, mask=j < K)
            s = tl.where(j < K, s, float("-inf"))
            now = tl.maximum(highest, tl.max(s, 0))
            total = total * tl.exp(highest - now) + tl.sum(tl.exp(s - now), 0)
            highest = now
    tl.debug_barrier()  # the logits are in memory
    for i in tl.static_range(BLOCKS):
        for j0 in range(0, K, BK):
            j = j0 + tl.arange(0, BK)
            cells = ATTENTION + row * columns + i * K + j
            s = tl.load(cells, mask=j < K, other=float("-inf"))
            tl.store(cells, tl.exp(s - highest) / total, mask=j < K)
    tl.debug_barrier()  # and now the probabilities
    for begin in range(0, D, BD):
        pooled_o = tl.zeros((BD,), tl.float32)
        pooled_e = tl.zeros((BD,), tl.float32)
        for i in tl.static_range(BLOCKS):
            for j0 in range(0, K, BK):
                j = j0 + tl.arange(0, BK)
                a = tl.load(ATTENTION + row * columns + i * K + j, mask=j < K, other=0.0)
                a *= of_attention(
                    row, i, j, seed, attention_stream, attention_threshold, attention_scale, K, columns, DROP_ATTENTION
                )
                o = window_rows(
                    OPERATIONS[i], b, b, i, j, begin, seed, operation_stream, value_threshold, value_scale, K, columns,
                    D, BD, DROP_VALUE,
                )  # fmt: skip
                pooled_o += tl.sum(a[:, None] * o, 0)
                e = window_rows(
                    RESULTS[i], b, b, i, j, begin, seed, result_stream, value_threshold, value_scale, K, columns,
                    D, BD, DROP_VALUE,
                )  # fmt: skip
                pooled_e += tl.sum(a[:, None] * e, 0)
        d = begin + tl.arange(0, BD)
        tl.store(POOLED_O + row * D + d, narrow(pooled_o, POOLED_O.dtype.element_ty), mask=d < D)
        tl.store(POOLED_E + row * D + d, narrow(pooled_e, POOLED_E.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=PLAIN)
def operations_backward_kernel(
    GRAD_O, GRAD_E, EXTRA, Q, KEYS, OPERATIONS, RESULTS, gate, ATTENTION, D_LOGITS, DQ, D_GATE,
    seed, product_stream, product_threshold, product_scale, operation_stream, result_stream, value_threshold,
    value_scale, attention_stream, attention_threshold, attention_scale, K,
    BLOCKS: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, ADD: tl.constexpr,
    DROP_PRODUCT: tl.constexpr, DROP_VALUE: tl.constexpr, DROP_ATTENTION: tl.constexpr,
):  # fmt: skip
    """Of one operation: ds, dq and its part of dc."""
    b, k = (tl.program_id(0) // K).to(tl.int64), tl.program_id(0) % K
    row = b * K + k
    columns = BLOCKS * K
    FULL: tl.constexpr = D % BD == 0
    mean = 0.0
    for i in tl.static_range(BLOCKS):
        for j0 in range(0, K, BK):
            j = j0 + tl.arange(0, BK)
            da = tl.zeros((BK,), tl.float32)
            for begin in range(0, D, BD):
                d = begin + tl.arange(0, BD)
                o = window_rows(
                    OPERATIONS[i], b, b, i, j, begin, seed, operation_stream, value_threshold, value_scale, K, columns,
                    D, BD, DROP_VALUE,
                )  # fmt: skip
                da += tl.sum(o * load_vector(GRAD_O + row * D, d, D, FULL)[None, :], 1)
                e = window_rows(
                    RESULTS[i], b, b, i, j, begin, seed, result_stream, value_threshold, value_scale, K, columns,
                    D, BD, DROP_VALUE,
                )  # fmt: skip
                da += tl.sum(e * load_vector(GRAD_E + row * D, d, D, FULL)[None, :], 1)
            da *= of_attention(
                row, i, j, seed, attention_stream, attention_threshold, attention_scale, K, columns, DROP_ATTENTION
            )
            cells = row * columns + i * K + j
            if ADD:
                da += tl.load(EXTRA + cells, mask=j < K, other=0.0)
            a = tl.load(ATTENTION + cells, mask=j < K, other=0.0)
            mean += tl.sum(a * da, 0)
            tl.store(D_LOGITS + cells, da, mask=j < K)
    tl.debug_barrier()  # da is in memory
    for i in tl.static_range(BLOCKS):
        for j0 in range(0, K, BK):
            j = j0 + tl.arange(0, BK)
            cells = row * columns + i * K + j
            a = tl.load(ATTENTION + cells, mask=j < K, other=0.0)
            da = tl.load(D_LOGITS + cells, mask=j < K, other=0.0)
            tl.store(D_LOGITS + cells, a * (da - mean), mask=j < K)
    tl.debug_barrier()  # and now ds
    for begin in range(0, D, BD):
        d = begin + tl.arange(0, BD)
        product = tl.zeros((BD,), tl.float32)
        for i in tl.static_range(BLOCKS):
            for j0 in range(0, K, BK):
                j = j0 + tl.arange(0, BK)
                ds = tl.load(D_LOGITS + row * columns + i * K + j, mask=j < K, other=0.0)
                keys = window_rows(
                    KEYS[i], b, row, i, j, begin, seed, product_stream, product_threshold, product_scale, K, columns,
                    D, BD, DROP_PRODUCT,
                )  # fmt: skip
                product += tl.sum(ds[:, None] * keys, 0)
        dq = product * load_vector(gate, d, D, FULL)
        tl.store(DQ + row * D + d, narrow(dq, DQ.dtype.element_ty), mask=d < D)
        tl.store(D_GATE + row * D + d, product * load_vector(Q + row * D, d, D, FULL), mask=d < D)


@triton.jit(do_not_specialize=PLAIN)
def columns_backward_kernel(
    GRAD_O, GRAD_E, Q, gate, ATTENTION, D_LOGITS, D_KEYS, D_OPERATIONS, D_RESULTS,
    seed, product_stream, product_threshold, product_scale, operation_stream, result_stream, value_threshold,
    value_scale, attention_stream, attention_threshold, attention_scale, K,
    BLOCKS: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
    DROP_PRODUCT: tl.constexpr, DROP_VALUE: tl.constexpr, DROP_ATTENTION: tl.constexpr,
):  # fmt: skip
    """Of BK rows of every state of the window and BD columns: the gradients, summed over the operations."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * BK + tl.arange(0, BK)
    begin = tl.program_id(2) * BD
    d = begin + tl.arange(0, BD)
    columns = BLOCKS * K
    FULL: tl.constexpr = D % BD == 0
    c = load_vector(gate, d, D, FULL)
    for i in tl.static_range(BLOCKS):
        d_keys = tl.zeros((BK, BD), tl.float32)
        d_o = tl.zeros((BK, BD), tl.float32)
        d_e = tl.zeros((BK, BD), tl.float32)
        for k in range(K):
            row = b * K + k
            cells = row * columns + i * K + j
            ds = tl.load(D_LOGITS + cells, mask=j < K, other=0.0)
            d_product = ds[:, None] * (load_vector(Q + row * D, d, D, FULL) * c)[None, :]
            if DROP_PRODUCT:
                d_product *= multipliers(
                    seed, product_stream, product_threshold, product_scale, cells * D + begin, BD, D % 4 == 0
                )
            d_keys += d_product
            a = tl.load(ATTENTION + cells, mask=j < K, other=0.0)
            a *= of_attention(
                row, i, j, seed, attention_stream, attention_threshold, attention_scale, K, columns, DROP_ATTENTION
            )
            d_o += a[:, None] * load_vector(GRAD_O + row * D, d, D, FULL)[None, :]
            d_e += a[:, None] * load_vector(GRAD_E + row * D, d, D, FULL)[None, :]
        if DROP_VALUE:
            starts = (b * columns + i * K + j) * D + begin
            d_o *= multipliers(seed, operation_stream, value_threshold, value_scale, starts, BD, D % 4 == 0)
            d_e *= multipliers(seed, result_stream, value_threshold, value_scale, starts, BD, D % 4 == 0)
        store_rows(D_KEYS[i], d_keys, b * K + j, j < K, d, D, FULL)
        store_rows(D_OPERATIONS[i], d_o, b * K + j, j < K, d, D, FULL)
        store_rows(D_RESULTS[i], d_e, b * K + j, j < K, d, D, FULL)
