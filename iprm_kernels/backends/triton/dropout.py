"""drop(x) as an op of its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from iprm_kernels.backends.triton.launch import cdiv, threshold_of
from iprm_kernels.backends.triton.philox import multipliers
from iprm_kernels.backends.triton.rounding import narrow

BLOCK = 1024


@triton.jit(do_not_specialize=["stream", "threshold"])
def dropout_kernel(X, Y, seed, stream, threshold, scale, count, BLOCK: tl.constexpr):
    starts = tl.program_id(0).to(tl.int64) * BLOCK + tl.zeros((1,), tl.int64)
    e = starts[:, None] + tl.arange(0, BLOCK)[None, :]
    x = tl.load(X + e, mask=e < count, other=0.0).to(tl.float32)
    y = x * multipliers(seed, stream, threshold, scale, starts, BLOCK, True)
    tl.store(Y + e, narrow(y, Y.dtype.element_ty), mask=e < count)


def dropout(x, p, seed, stream):
    x = x.contiguous()
    y, (threshold, scale) = torch.empty_like(x), threshold_of(p)
    if x.numel():
        grid = (cdiv(x.numel(), BLOCK),)
        dropout_kernel[grid](x, y, seed, stream, threshold, scale, x.numel(), BLOCK=BLOCK, num_warps=4)
    return y
