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


def kept_of(name: str, x: Tensor, y: Tensor) -> Tensor:
    """What `gradient` needs of y = φ(x): y itself, which is kept anyway, but for gelu."""
    return x if name == "gelu" else y


_aten = torch.ops.aten
_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda dy, y: dy,
    "tanh": lambda dy, y: _aten.tanh_backward(dy, y),
    "elu": lambda dy, y: _aten.elu_backward(dy, 1.0, 1.0, 1.0, True, y),
    "relu": lambda dy, y: _aten.threshold_backward(dy, y, 0),
    "gelu": lambda dy, x: _aten.gelu_backward(dy, x),
    "sigmoid": lambda dy, y: _aten.sigmoid_backward(dy, y),
}


def gradient(name: str, dy: Tensor, kept: Tensor) -> Tensor:
    """The gradient of x from that of φ(x), given what `kept_of` names."""
    return _GRADIENTS[name](dy, kept)
