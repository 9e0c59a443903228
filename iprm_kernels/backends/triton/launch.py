"""What every launch needs: contiguous tensors, a mask of bytes, dropout arguments and the precision of products."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from iprm_kernels.philox import Role, stream_of

cdiv = triton.cdiv
power_of_2 = triton.next_power_of_2


def contiguous(*tensors: Tensor) -> list[Tensor]:
    """The tensors as the kernels read them. One of other strides is copied; its bytes are the caller's to avoid."""
    return [t.contiguous() for t in tensors]


def bytes_of(mask: Tensor | None) -> Tensor | None:
    """A bool mask as int8, without a copy where it is contiguous."""
    return None if mask is None else mask.contiguous().view(torch.int8)


def threshold_of(p: float) -> tuple[int, float]:
    """What the upper 24 bits of a kept element's word reach, and what it is scaled by."""
    return math.ceil(p * 2**24), 1.0 / (1.0 - p)


def draws(p: float, seed: Tensor | None, stream: int) -> dict:
    """The kernel arguments of one dropout mask. The seed stays on the device: the kernel reads it there."""
    threshold, scale = threshold_of(p)
    return {
        "seed": seed if p else None,
        "stream": stream,
        "threshold": threshold,
        "scale": scale,
        "DROP": p > 0.0,
    }


def draws_of(p: float, seed: Tensor | None, step: int, role: Role) -> dict:
    """`draws` for the mask of `role` in step `step`."""
    return draws(p, seed, stream_of(step, role))


def precision(dtype: torch.dtype) -> str:
    """How products are rounded: float32 exactly unless torch.backends.cuda.matmul.allow_tf32 is set."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"
