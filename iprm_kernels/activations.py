"""The activations φ that every backend knows, by name, and their slopes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _identity(x: Tensor) -> Tensor:
    return x


def _elu_slope(x: Tensor) -> Tensor:
    return torch.exp(x.clamp(max=0.0))


def _tanh_slope(x: Tensor) -> Tensor:
    return 1.0 - torch.tanh(x) ** 2


def _sigmoid_slope(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y * (1.0 - y)


def _relu_slope(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _gelu_slope(x: Tensor) -> Tensor:
    cdf = 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))
    return cdf + x * torch.exp(-0.5 * x * x) * (0.5 * math.sqrt(2.0 / math.pi))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "tanh": torch.tanh,
    "elu": F.elu,
    "relu": F.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "tanh": _tanh_slope,
    "elu": _elu_slope,
    "relu": _relu_slope,
    "gelu": _gelu_slope,
    "sigmoid": _sigmoid_slope,
}
"""dφ/dx as a function of x."""
