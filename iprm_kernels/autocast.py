"""Autocast: the cores take all their floating inputs in one dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def cast(device: torch.device, *tensors: Tensor | list[Tensor]) -> list:
    """The tensors in autocast's dtype where it is on for `device`; as they are otherwise. float64 stays."""
    if not torch.is_autocast_enabled(device.type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device.type)

    def one(tensor: Tensor) -> Tensor:
        lower = tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if lower else tensor

    return [[one(t) for t in tensor] if isinstance(tensor, list | tuple) else one(tensor) for tensor in tensors]
