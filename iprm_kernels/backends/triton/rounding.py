"""Narrowing and products. The interpreter truncates to bfloat16 and multiplies its bit patterns: here it does neither,
and so rounds as a device does.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """A float32 tile in `dtype`, to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.uint32).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(left, right, total, PRECISION: tl.constexpr):
    """total + left · right, in float32."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)
