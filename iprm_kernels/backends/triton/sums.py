"""Sums of the parts that programs leave of a gradient: float32, in a fixed order, stored in the gradient's dtype."""

from __future__ import annotations

import triton
import triton.language as tl

from iprm_kernels.backends.triton.rounding import narrow
from iprm_kernels.backends.triton.tiles import PLAIN


@triton.jit(do_not_specialize=PLAIN)
def add_parts_kernel(
    SUM, TOTAL, OTHER, OTHER_TOTAL, parts, other_parts, count, R: tl.constexpr, BP: tl.constexpr, BW: tl.constexpr
):
    """BW numbers of Σ_p SUM, (·, parts, count), BP parts at a time. The grid's second row takes OTHER, and where R is
    not 0 stores its sum, (R, R), transposed."""
    other = tl.program_id(1) == 1
    if other:
        SUM, TOTAL, parts = OTHER, OTHER_TOTAL, other_parts
    blocks = ((count + BW - 1) // BW).to(tl.int32)  # so that the division below is of 32 bits
    which = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks).to(tl.int64) * BW + tl.arange(0, BW)
    rows = tl.arange(0, BP)
    total = tl.zeros((BP, BW), tl.float32)
    for begin in range(0, parts, BP):
        p = begin + rows
        valid = (p < parts)[:, None] & (c < count)[None, :]
        total += tl.load(SUM + (which * parts + p)[:, None] * count + c[None, :], mask=valid, other=0.0)
    at = c
    if R > 0:
        at = tl.where(other, c % R * R + c // R, c)
    tl.store(TOTAL + which * count + at, narrow(tl.sum(total, 0), TOTAL.dtype.element_ty), mask=c < count)
