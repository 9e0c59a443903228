"""What the extension of the CUDA kernels says of itself, for tests without it; `test_cuda_limits.py` holds the
figures to the extension's own."""

from __future__ import annotations

import torch

TILE = {torch.float32: (31_104, 16, 4), torch.bfloat16: (74_496, 64, 8), torch.float16: (74_496, 64, 8)}
"""Of a tile of 16 pairs: the bytes that do not depend on R, the columns that R is rounded up to, and the padding."""
LINEAR = 99_840
"""Bytes that the linear maps of all steps take, beside 128 for each column of the window."""


def tile(dtype: torch.dtype, R: int) -> int:
    """Bytes of shared memory of a tile and its product."""
    fixed, depth, padding = TILE[dtype]
    return fixed + 2 * 16 * dtype.itemsize * (-(-R // depth) * depth + padding)


class Extension:
    """In the place of iprm_kernels._cuda."""

    MOST_BLOCKS = 64
    MOST_STEP_COLUMNS = 256

    @staticmethod
    def build_info() -> dict:
        return {"nvcc": "13.0", "architectures": ["sm_80", "sm_90", "sm_100", "compute_100"], "flags": "-O3"}

    @staticmethod
    def most_width(dtype: torch.dtype, shared: int) -> int:
        depth = TILE[dtype][1]
        return max((R for R in range(0, 4096, depth) if tile(dtype, R) <= shared), default=0)

    @staticmethod
    def steps_shared(dtype: torch.dtype, R: int, columns: int) -> int:
        return max(LINEAR + 128 * columns, tile(dtype, R))
