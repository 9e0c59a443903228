"""drop(x) as an op of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels.backends.triton.configs import cdiv
from iprm_kernels.backends.triton.launch import Grid, launch, threshold_of


def dropout(x: Tensor, p: float, seed: Tensor, stream: int) -> Tensor:
    x = x.contiguous()
    y, (threshold, scale) = torch.empty_like(x), threshold_of(p)
    if x.numel():
        grid: Grid = lambda meta: (cdiv(x.numel(), meta["BLOCK"]),)  # noqa: E731
        launch("dropout", grid, x, y, seed, stream, threshold, scale, x.numel(), like=x)
    return y
