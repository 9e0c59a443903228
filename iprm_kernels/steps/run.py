"""What the stages share in one pass over the steps: the backend's cores, the weights, dropout, norms, what is kept, and
the rows that weight gradients are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, gradient, kept_of
from iprm_kernels.philox import Role, stream_of
from iprm_kernels.steps.weights import Map, Options, Weights

Cores = ModuleType | SimpleNamespace
"""A backend's module, or anything with the same functions."""
Site = tuple[float, Role, int]
"""A dropout mask: its rate, role and step."""
Sites = tuple[Site, ...]
"""Dropout masks that follow one another."""


class Run:
    """One pass over the steps.

    keeps: the names of what a backward pass will need.
    kept: by name, what the backward needs, of each step (see `kept.py` for the list and its bytes).
    needs: the fields of `Weights` whose gradients are asked for.
    """

    def __init__(
        self,
        cores: Cores,
        weights: Weights,
        options: Options,
        seed: Tensor | None,
        keeps: Collection[str] = (),
        kept: dict[str, Tensor] | None = None,
        needs: frozenset[str] = frozenset(),
    ) -> None:
        self.cores, self.o, self.seed, self.keeps, self.needs = cores, options, seed, keeps, needs
        self.w: Any = weights  # `NEEDS` says which of the maps are there together, which no checker can know
        self.returning = kept is not None  # this is the walk back
        self.kept: dict[str, Any] = defaultdict(list) if kept is None else kept  # lists until they are stacked
        self.rows: dict[str, list[Any]] = {}  # None until the step is through
        self.sums: dict[str, Tensor] = {}
        self.parts: list[tuple[Tensor, Tensor]] = []

    def keep(self, **tensors: Tensor) -> None:
        """Keep tensors of this step for the backward."""
        for name, tensor in tensors.items():
            if name in self.keeps:
                self.kept[name].append(tensor)

    def inputs(self, name: str, otherwise: str) -> Tensor:
        """The rows that went into a map: kept under its name where they were dropped, otherwise under another."""
        return self.kept[name if name in self.kept else otherwise]

    # Products of rows with a weight: (B, K, inputs) -> (B, K, outputs) and back.

    def linear(self, m: Map, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """m.weight x + m.bias, or + an addend in the bias's place, of its or of the result's shape."""
        return self.cores.linear(x, m.weight, m.bias if addend is None else addend)

    def linear_back(self, m: Map, dy: Tensor, addend: Tensor | None = None) -> Tensor:
        """The gradient of x from that of m.weight x, plus an addend."""
        return self.cores.linear_back(dy, m.weight, addend)

    # Dropout.

    def drop(self, x: Tensor, *sites: Site) -> Tensor:
        """drop(x), one site after the other; of a gradient too, as a mask is its own transpose."""
        for p, role, step in sites:
            x = x if p == 0.0 else self.cores.dropout(x, p, self.seed, stream_of(step, role))
        return x

    def dropped_input(self, name: str, x: Tensor, sites: Sites) -> Tensor:
        """drop(x), which goes into the map of that name; kept where it is not x itself."""
        dropped = self.drop(x, *sites)
        if dropped is not x:
            self.keep(**{name: dropped})
        return dropped

    def dropped_linear(self, name: str, x: Tensor, sites: Sites, addend: Tensor | None = None) -> Tensor:
        """W drop(x) plus bias or addend, for the map of that name."""
        return self.linear(getattr(self.w, name), self.dropped_input(name, x, sites), addend)

    def dropped_linear_back(self, name: str, dy: Tensor, sites: Sites, addend: Tensor) -> Tensor:
        m = getattr(self.w, name)
        if not any(p for p, *_ in sites):
            return self.linear_back(m, dy, addend)
        return addend + self.drop(self.linear_back(m, dy), *sites)

    # Two layers: second drop(φ(first x)).

    def two_layers(self, names: tuple[str, str], second: Map, x: Tensor, φ: str, site: Site) -> Tensor:
        before = self.linear(getattr(self.w, names[0]), x)
        hidden = ACTIVATIONS[φ](before)
        dropped = self.drop(hidden, site)
        slope = kept_of(φ, before, hidden)
        if slope is not dropped:
            self.keep(**{names[0] + "φ": slope})
        self.keep(**{names[1]: dropped})
        return self.linear(second, dropped)

    def two_layers_back(self, names: tuple[str, str], second: Map, t: int, dy: Tensor, φ: str, site: Site) -> Tensor:
        """-> the gradient of what the first layer gives; both layers' rows are put down."""
        self.row(names[1], t, dy)
        slope = self.inputs(names[0] + "φ", names[1])[t]
        d_before = gradient(φ, self.drop(self.linear_back(second, dy), site), slope)
        self.row(names[0], t, d_before)
        return d_before

    # A map after the pooling: Σ_j drop(a_kj) (W x_j + b) = W (Σ_j drop(a_kj) x_j) + b Σ_j drop(a_kj).

    def project(self, name: str, pooled: Tensor, a: Tensor, site: Site, addend: Tensor | None = None) -> Tensor:
        """W pooled + b Σ_j drop(a_kj), plus an addend."""
        m = getattr(self.w, name)
        bias: Any = None
        if site[0] > 0.0:
            bias = m.bias * self.drop(a, site).sum(-1, keepdim=True).to(pooled.dtype)
        elif addend is not None:
            bias = m.bias
        return self.linear(m, pooled, bias if addend is None else addend + bias)

    def project_back(
        self, name: str, t: int, dy: Tensor, a: Tensor, da: Tensor | None, site: Site
    ) -> tuple[Tensor, Tensor | None]:
        """-> the gradient of pooled, and that of the attention a."""
        m = getattr(self.w, name)
        self.row(name, t, dy)
        if site[0] > 0.0:
            total = self.drop(a, site).sum(-1, keepdim=True).to(dy.dtype)
            self.add(name + ".bias", (dy * total).sum((0, 1)))
            d_total = (dy @ m.bias)[..., None].to(a.dtype)
            d_a = self.drop(d_total.expand_as(a), site)
            da = d_a if da is None else da + d_a
        return self.linear_back(m, dy), da

    # LN?

    def norm(self, name: str, x: Tensor) -> Tensor:
        """LN(x) by the norm of that name; x where there is none."""
        m = getattr(self.w, name)
        if m is None:
            return x
        self.keep(**{name: x})
        return F.layer_norm(x, x.shape[-1:], m.weight, m.bias, getattr(self.o.epsilons, name))

    def norm_back(self, name: str, t: int, dy: Tensor) -> Tensor:
        m = getattr(self.w, name)
        if m is None:
            return dy
        x, shape = self.kept[name][t], dy.shape[-1:]
        _, mean, rstd = torch.native_layer_norm(x, shape, m.weight, m.bias, getattr(self.o.epsilons, name))
        needs = [True, name in self.needs, name in self.needs]
        dx, *grads = torch.ops.aten.native_layer_norm_backward(
            dy.contiguous(), x, shape, mean, rstd, m.weight, m.bias, needs
        )
        if name in self.needs:
            self.add(name, grads[0])
            self.add(name + ".bias", grads[1])
        return dx

    # Weight gradients.

    def row(self, name: str, t: int, dy: Tensor) -> None:
        """Put down the gradient (B, K, outputs) of what a map gives in step t."""
        self.rows.setdefault(name, [None] * self.o.steps)[t] = dy

    def products(self, rows: str, *inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """The rows put down under a name, of all steps, times each of the inputs (T, B, K, ·); and their sum."""
        dy = torch.stack(self.rows[rows]).flatten(0, 2)
        return [dy.mT @ x.flatten(0, 2) for x in inputs], dy.sum(0)

    def map_gradient(self, name: str, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias gradients of a map whose inputs (T, B, K, ·) are joined along the width."""
        parts, bias = self.products(name, *inputs)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1), self.sums.get(name + ".bias", bias)

    def summed_gradient(self, name: str) -> tuple[Tensor, Tensor]:
        """Both gradients of what was added up step by step: a layer norm, or a map of the tokens."""
        return self.sums[name], self.sums[name + ".bias"]

    def gate_gradient(self, name: str) -> tuple[Tensor, Tensor]:
        """Of a map to one logit. Its bias shifts a whole row of logits, and drops out of the softmax."""
        return self.sums[name][None], torch.zeros_like(getattr(self.w, name).bias)

    def add(self, name: str, grad: Tensor) -> None:
        """Add a step's part of a gradient that is no product over rows; `add_up` does so, for a step at once."""
        if name in self.sums:
            self.parts.append((self.sums[name], grad))
        else:
            self.sums[name] = grad

    def add_up(self) -> None:
        """Add what `add` was given: one launch for all, where a device has launches."""
        if self.parts:
            torch._foreach_add_(*map(list, zip(*self.parts, strict=True)))
            self.parts = []

    def add_product(self, name: str, dy: Tensor, x: Tensor) -> None:
        """Add dyᵀ x, for (B, N, ·) both."""
        dy, x = dy.flatten(0, 1).mT, x.flatten(0, 1)
        self.sums[name] = self.sums[name].addmm_(dy, x) if name in self.sums else dy @ x
