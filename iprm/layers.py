"""Layers that are not plain: which ones may not be read past.

The fast module multiplies with `layer.weight` itself. That is what a layer computes only while it is plain: an
`nn.Linear` (a parametrized one too) or a layer norm, without hooks, whose weight is an ordinary tensor. Adapters,
pruning hooks, quantised and sharded weights are not; there the layer must be called.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils.module_tracker import ModuleTracker

PLAIN = (nn.Linear, nn.LayerNorm, nn.Identity)
TENSORS = (Tensor, nn.Parameter, FakeTensor)
"""Ordinary tensors; the last stands for one while a graph is made."""


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its class's forward: its own hooks, global ones, another forward."""
    return has_own_hooks(module) or has_global_hooks()


def has_own_hooks(module: nn.Module) -> bool:
    """Whether this module has hooks, or a forward that is not its class's."""
    m = module
    hooks = m._forward_pre_hooks or m._forward_hooks or m._backward_pre_hooks or m._backward_hooks
    return bool(hooks) or "forward" in m.__dict__


def has_global_hooks() -> bool:
    """Whether calling any module runs a hook."""
    every = torch_module
    if every._global_backward_pre_hooks or every._global_backward_hooks:
        return True
    around = (*every._global_forward_pre_hooks.values(), *every._global_forward_hooks.values())
    return not all(map(only_follows, around))


def only_follows(hook: Callable[..., Any]) -> bool:
    """Whether a hook does no more than follow which module runs, as those of torch's `FlopCounterMode` do."""
    return isinstance(getattr(hook, "__self__", None), ModuleTracker)


def parameter_of(layer: nn.Module, name: str) -> Tensor | None:
    """`layer.<name>`, without the detour by which a module finds its parameters."""
    found = layer._parameters.get(name)
    return getattr(layer, name) if found is None or name in layer.__dict__ else found


def why_not_plain(layer: nn.Module) -> str | None:
    """Why the layer must be called, or None where its weight and bias, if any, may be read; global hooks aside."""
    kind = type(layer)
    if kind not in PLAIN:
        kind = type_before_parametrizations(layer)
    if kind not in PLAIN:
        return f"is a {type(layer).__module__}.{type(layer).__name__}"
    if has_own_hooks(layer):
        return "has a hook, or a forward of its own"
    if kind is nn.Identity:
        return None
    weight = parameter_of(layer, "weight")
    if weight is None or type(weight) not in TENSORS or weight.layout != torch.strided:
        return f"has a {type(weight).__name__} as its weight"
    if kind is nn.LayerNorm and layer.bias is None:
        return "has no bias"
    return None


def first_not_plain(stage: nn.Module, name: str, kind: type[nn.Module]) -> str | None:
    """The first module of a stage that must be called, and why: `execution.C1 is a LoraLayer`; None if all are plain.

    Args:
        name: of the stage.  kind: the class whose forward is read past.
    """
    if type(stage) is not kind:
        return f"{name} is a {type(stage).__name__}"
    if has_hooks(stage):
        return f"{name} has a hook, or a forward of its own"
    for path, layer in stage._modules.items():
        if layer is None:
            continue
        for number, one in enumerate(layer if type(layer) is nn.ModuleList else (layer,)):
            if why := why_not_plain(one):
                return f"{name}.{path}{f'.{number}' if one is not layer else ''} {why}"
        if type(layer) is nn.ModuleList and has_own_hooks(layer):
            return f"{name}.{path} has a hook"
    return None


def bias_of(layer: nn.Linear) -> Tensor:
    """The bias, or zeros where the layer has none."""
    bias = parameter_of(layer, "bias")
    return layer.weight.new_zeros(layer.weight.shape[0]) if bias is None else bias


@functools.cache
def warn_once(message: str) -> None:
    """Warn, the first time that this is said."""
    warnings.warn(message, stacklevel=2)
