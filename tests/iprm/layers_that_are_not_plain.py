"""Ways in which libraries and people change a linear layer, each a function of (module, path of the layer)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


def parent_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the layer, and the layer's name there."""
    *way, leaf = path.split(".")
    return model.get_submodule(".".join(way)), leaf


class Adapter(nn.Module):
    """A low-rank adapter (LoRA), W x + b + B A x, as adapter libraries wrap a layer."""

    def __init__(self, layer: nn.Linear, rank: int = 2):
        super().__init__()
        self.layer = layer
        dtype = layer.weight.dtype
        self.A = nn.Parameter(torch.randn(rank, layer.in_features, dtype=dtype))
        self.B = nn.Parameter(torch.randn(layer.out_features, rank, dtype=dtype))

    @property
    def weight(self):
        return self.layer.weight

    @property
    def bias(self):
        return self.layer.bias

    def forward(self, x):
        return self.layer(x) + F.linear(F.linear(x, self.A), self.B)


class Twice(nn.Linear):
    """A subclass of nn.Linear with a forward of its own."""

    def forward(self, x):
        return 2.0 * super().forward(x)


class Quantised(torch.Tensor):
    """A weight whose products are not those of its numbers: rounded to quarters, as a quantised one's are."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, *bias = (a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args)
            return F.linear(x, torch.round(4.0 * weight) / 4.0, *bias)
        return super().__torch_function__(function, types, args, kwargs or {})


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


def adapter(model, path):
    parent, leaf = parent_of(model, path)
    setattr(parent, leaf, Adapter(getattr(parent, leaf)))


def nonlinear(model, path):
    parent, leaf = parent_of(model, path)
    setattr(parent, leaf, nn.Sequential(getattr(parent, leaf), nn.Softsign()))


def subclass(model, path):
    model.get_submodule(path).__class__ = Twice


def forward_hook(model, path):
    model.get_submodule(path).register_forward_hook(lambda module, args, output: output * 1.5)


def forward_pre_hook(model, path):
    model.get_submodule(path).register_forward_pre_hook(lambda module, args: (args[0] * 1.5,))


def backward_hook(model, path):
    def doubled(module, grads, _):
        return tuple(None if grad is None else 2.0 * grad for grad in grads)

    model.get_submodule(path).register_full_backward_hook(doubled)


def replaced_forward(model, path):
    """As libraries do that move weights between devices."""
    layer = model.get_submodule(path)
    plain = layer.forward
    layer.forward = lambda x: 1.5 * plain(x)


def pruned(model, path):
    prune.l1_unstructured(model.get_submodule(path), "weight", 0.5)


def weight_norm_by_hook(model, path):
    torch.nn.utils.weight_norm(model.get_submodule(path))
    with torch.no_grad():
        model.get_submodule(path).weight_g.mul_(1.5)


def weight_norm(model, path):
    parametrizations.weight_norm(model.get_submodule(path))
    with torch.no_grad():
        model.get_submodule(path).parametrizations.weight.original0.mul_(1.5)


def parametrized(model, path):
    parametrize.register_parametrization(model.get_submodule(path), "weight", Doubled())


def quantised(model, path):
    layer = model.get_submodule(path)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)


def without_bias(model, path):
    model.get_submodule(path).bias = None


CHANGES = [
    adapter, nonlinear, subclass, forward_hook, forward_pre_hook, backward_hook, replaced_forward, pruned,
    weight_norm_by_hook, weight_norm, parametrized, quantised, without_bias,
]  # fmt: skip
