"""The dropout multipliers of a tile, drawn in registers: the bits that `iprm_kernels.philox` defines. And drop(x).

Word e mod 4 of Philox block e div 4 belongs to element e. Where a tile's rows begin at multiples of four, a block is
drawn once for its four elements; otherwise once for each element.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.rounding import narrow


@triton.jit
def words(seed, stream, block):
    """The four words of each 64-bit block counter."""
    low = (block & 0xFFFFFFFF).to(tl.uint32)
    high = ((block >> 32) & 0xFFFFFFFF).to(tl.uint32)
    zero = low * 0
    return tl.philox(tl.load(seed), low, high, zero + stream.to(tl.uint32), zero)


@triton.jit
def of_keep(word, threshold, scale):
    """0, or 1 / (1 - p) where the word's upper 24 bits reach ceil(p · 2^24)."""
    return tl.where((word >> 8).to(tl.int32) >= threshold, scale, 0.0)


@triton.jit
def multipliers(seed, stream, threshold, scale, starts, COLUMNS: tl.constexpr, ALIGNED: tl.constexpr):
    """(rows, COLUMNS) float32: those of elements starts[row], starts[row] + 1, ... of the mask `stream`.

    ALIGNED promises that every start is a multiple of four.
    """
    if ALIGNED:
        block = (starts // 4)[:, None] + tl.arange(0, COLUMNS // 4)[None, :]
        w0, w1, w2, w3 = words(seed, stream, block)
        even = tl.join(of_keep(w0, threshold, scale), of_keep(w2, threshold, scale))
        odd = tl.join(of_keep(w1, threshold, scale), of_keep(w3, threshold, scale))
        return tl.reshape(tl.join(even, odd), (starts.shape[0], COLUMNS))
    else:
        element = starts[:, None] + tl.arange(0, COLUMNS)[None, :]
        w0, w1, w2, w3 = words(seed, stream, element // 4)
        which = element % 4
        word = tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))
        return of_keep(word, threshold, scale)


@triton.jit(do_not_specialize=["draw", "threshold"])
def dropout_kernel(X, Y, seed, draw, threshold, scale, count, BLOCK: tl.constexpr):
    """BLOCK elements of the op of its own."""
    starts = tl.program_id(0).to(tl.int64) * BLOCK + tl.zeros((1,), tl.int64)
    e = starts[:, None] + tl.arange(0, BLOCK)[None, :]
    x = tl.load(X + e, mask=e < count, other=0.0).to(tl.float32)
    y = x * multipliers(seed, draw, threshold, scale, starts, BLOCK, True)
    tl.store(Y + e, narrow(y, Y.dtype.element_ty), mask=e < count)
