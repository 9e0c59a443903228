"""drop(x) as an op of its own."""

from __future__ import annotations

import torch

from iprm_kernels.backends.triton.launch import cdiv, launch, threshold_of


def dropout(x, p, seed, stream):
    x = x.contiguous()
    y, (threshold, scale) = torch.empty_like(x), threshold_of(p)
    if x.numel():
        grid = lambda meta: (cdiv(x.numel(), meta["BLOCK"]),)  # noqa: E731
        launch("dropout", grid, x, y, seed, stream, threshold, scale, x.numel(), like=x)
    return y
