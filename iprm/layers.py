"""Layers that are not plain: which ones may not be read past.

The fast module multiplies with `layer.weight` itself at some layers. That is what the layer computes only while it is
plain: an `nn.Linear` (a parametrized one too), without hooks, whose weight is an ordinary tensor. Adapters, pruning
hooks, quantised and sharded weights are not; there the layer must be called.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import type_before_parametrizations

TENSORS = (Tensor, nn.Parameter, FakeTensor)
"""Ordinary tensors; the last stands for one while a graph is made."""


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its class's forward: its own hooks, global ones, another forward."""
    m, every = module, torch_module
    own = m._forward_pre_hooks or m._forward_hooks or m._backward_pre_hooks or m._backward_hooks
    shared = every._global_forward_pre_hooks or every._global_forward_hooks
    shared = shared or every._global_backward_pre_hooks or every._global_backward_hooks
    return bool(own or shared or "forward" in m.__dict__)


def why_not_plain(layer: nn.Module) -> str | None:
    """Why the layer must be called, or None where its weight and bias may be read."""
    if type_before_parametrizations(layer) is not nn.Linear:
        return f"is a {type(layer).__name__}"
    if has_hooks(layer):
        return "has a hook, or a forward of its own"
    weight = layer.weight
    if type(weight) not in TENSORS or weight.layout != torch.strided:
        return f"has a {type(weight).__name__} as its weight"
    return None


def first_not_plain(stage: nn.Module, names: Iterable[str]) -> str | None:
    """The first of these layers that is not plain, and why: `C1 is a LoraLayer`; None where all are plain."""
    for name in names:
        found = getattr(stage, name)
        for layer in found if isinstance(found, nn.ModuleList | list) else [found]:
            if why := why_not_plain(layer):
                return f"{name} {why}"
    return None


def bias_of(layer: nn.Linear) -> Tensor:
    """The bias, or zeros where the layer has none."""
    return layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias


@functools.cache
def warn_once(message: str) -> None:
    """Warn, the first time that this is said."""
    warnings.warn(message, stacklevel=2)
