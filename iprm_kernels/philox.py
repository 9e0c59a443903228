"""Counter-based dropout: which element a mask keeps is a pure function of (seed, stream, element).

The bits are defined here, in plain PyTorch; every kernel reproduces them. Element e (row-major index into the mask's
full shape) of mask `stream` is

    Philox-4x32-10, key (seed mod 2^32, seed div 2^32),
    counter (e div 4 mod 2^32, e div 4 div 2^32, stream, 0), output word e mod 4 = x
    kept when (x >> 8) * 2^-24 >= p, and then scaled by 1 / (1 - p)

so no mask is ever stored: the backward pass, a recomputation and another backend all draw it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

STREAMS_PER_STEP = 16
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Role(IntEnum):
    """The dropout sites of the mechanism; the mask of `role` in step `t` is stream 16·t + role."""

    FORMATION_HIDDEN = 0  # drop(φ_l(F1 O)): (B, K, D)
    FORMATION_RESULT = 1  # drop(φ_g(G1 E)): (B, K, D)
    FORMATION_ATTENTION = 2  # (B, K, L)
    VISUAL = 3  # x̃ = drop(V): (B, N, D)
    RESULT = 4  # ê = drop(vdrop ⊙ E): (B, K, D)
    VARIATIONAL = 5  # vdrop, always step 0: (B, K, D)
    OPERATION = 6  # drop(z) in the query of execution: (B, K, D)
    PRODUCT = 7  # y = drop(φ_v(...)): (B, K, N, R)
    EXECUTION_ATTENTION = 8  # (B, K, N)
    COMPOSITION_PRODUCT = 9  # drop_mod((Qo o) ⊙ k): (B, K, columns, D)
    COMPOSITION_OPERATION = 10  # drop_upd(Vo ō): (B, columns, D)
    COMPOSITION_RESULT = 11  # drop_upd(Vr ē): (B, columns, D)
    COMPOSITION_ATTENTION = 12  # (B, K, columns)
    OPERATION_HIDDEN = 13  # inside the two-layer map of z (simple execution): (B, K, R)
    RESULT_HIDDEN = 14  # inside the two-layer map of E (simple execution): (B, K, R)


def stream_of(step: int, role: Role) -> int:
    """The stream number of `role` in reasoning step `step`."""
    return STREAMS_PER_STEP * step + int(role)


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low word of a · constant, words held in int64 (whose product would overflow past 2^63)."""
    low = a * (constant & 0xFFFF)  # < 2^48
    high = a * (constant >> 16)  # < 2^48
    middle = (low >> 16) + high  # < 2^49
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: Tensor, stream: int, block: Tensor) -> Tensor:
    """Four random words for each block: Philox-4x32-10 (Salmon et al., SC 2011).

    Args:
        seed: (1,) int64.  stream: 0 <= stream < 2^32.  block: (n,) int64, the 64-bit counter.
    Returns:
        (n, 4) int64, each in [0, 2^32).
    """
    key = [(seed & _WORD).expand_as(block), ((seed >> 32) & _WORD).expand_as(block)]
    zero = torch.zeros_like(block)
    c = [block & _WORD, (block >> 32) & _WORD, zero + stream, zero]
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c[0], _MULTIPLIERS[0])
        high1, low1 = _multiply(c[2], _MULTIPLIERS[1])
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0]
        key = [(k + weyl) & _WORD for k, weyl in zip(key, _WEYL, strict=True)]
    return torch.stack(c, -1)


def scaled_mask(
    shape: Sequence[int], p: float, seed: Tensor, stream: int, dtype: torch.dtype, start: int = 0
) -> Tensor:
    """The dropout multiplier, 0 or 1 / (1 - p), of elements start, start + 1, ... of a mask.

    Args:
        shape: of the result.  p: rate in [0, 1).  seed: (1,) int64.  stream: mask number.
        start: row-major index, in the whole mask, of the first element drawn.
    Returns:
        `shape`, `dtype`, on the seed's device.
    """
    count = math.prod(shape)
    first = start // 4
    blocks = torch.arange(first, (start + count + 3) // 4, device=seed.device, dtype=torch.int64)
    words = philox(seed, stream, blocks).flatten()[start - 4 * first :][:count]
    kept = (words >> 8) >= math.ceil(p * 2**24)
    return (kept.to(dtype) * (1.0 / (1.0 - p))).reshape(tuple(shape))
