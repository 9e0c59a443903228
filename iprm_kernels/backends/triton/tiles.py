"""Loads of tiles from contiguous matrices; what lies outside reads as zero. And what a launch does not specialise."""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.rounding import narrow

SIZES = ["K", "pairs", "first", "count", "grouped", "operations", "each", "stride", "later", "parts", "other_parts"]
DRAWS = [
    "draw", "threshold", "product_stream", "operation_stream", "result_stream", "attention_stream",
    "product_threshold", "value_threshold", "attention_threshold",
]  # fmt: skip
PLAIN = [*SIZES, *DRAWS]
"""Integers that a kernel is not compiled anew for, be they 1, multiples of 16 or neither: what is compiled ahead of
time is then what is launched, and a step with another stream is no other kernel."""


@triton.jit
def load_rows(pointer, rows, valid, columns, WIDTH: tl.constexpr, FULL: tl.constexpr):
    """(rows, columns) of a matrix of WIDTH columns. `rows` is int64; FULL promises that every column exists."""
    offsets = rows[:, None] * WIDTH + columns[None, :]
    if FULL:
        return tl.load(pointer + offsets, mask=valid[:, None], other=0.0)
    else:
        return tl.load(pointer + offsets, mask=valid[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(pointer, tile, rows, valid, columns, WIDTH: tl.constexpr, FULL: tl.constexpr):
    """The counterpart of `load_rows`, in the matrix's dtype."""
    offsets = rows[:, None] * WIDTH + columns[None, :]
    tile = narrow(tile.to(tl.float32), pointer.dtype.element_ty)
    if FULL:
        tl.store(pointer + offsets, tile, mask=valid[:, None])
    else:
        tl.store(pointer + offsets, tile, mask=valid[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def load_vector(pointer, columns, WIDTH: tl.constexpr, FULL: tl.constexpr):
    """(columns) float32 of a vector of WIDTH entries."""
    if FULL:
        return tl.load(pointer + columns).to(tl.float32)
    else:
        return tl.load(pointer + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def load_weight(pointer, rows, columns, WIDTH: tl.constexpr, FULL: tl.constexpr):
    """(rows, columns) of a (WIDTH, WIDTH) matrix."""
    offsets = rows[:, None] * WIDTH + columns[None, :]
    if FULL:
        return tl.load(pointer + offsets)
    else:
        return tl.load(pointer + offsets, mask=(rows < WIDTH)[:, None] & (columns < WIDTH)[None, :], other=0.0)
