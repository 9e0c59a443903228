"""Autocast: the cores take all their floating inputs in one dtype, and compute without it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast casts to on this kind of device, or None where it is off or, as for meta, unknown."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def is_cast(dtype: torch.dtype, weight: Tensor) -> bool:
    """Whether autocast brings an input of this dtype and such a weight together: it leaves float64 alone, and refuses
    another 16-bit dtype than its own."""
    lower = autocast_dtype(weight.device)
    return lower is not None and weight.dtype != torch.float64 and dtype in (torch.float32, lower)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it autocast is off for this kind of device."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def cast(device: torch.device, *tensors: Tensor | list[Tensor] | None) -> list[Any]:
    """The tensors in autocast's dtype where it is on for `device`; as they are otherwise. float64 stays."""
    dtype = autocast_dtype(device)
    if dtype is None:
        return list(tensors)

    def one(tensor: Tensor | None) -> Tensor | None:
        """What is no tensor, or one that autocast leaves alone, is for the checks that follow."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        return tensor.to(dtype)

    return [[one(t) for t in tensor] if isinstance(tensor, list | tuple) else one(tensor) for tensor in tensors]
