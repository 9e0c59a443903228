"""The recurrence of the compiled backends: the walk over the steps in C++ (csrc/recurrence), as one call.

It mirrors `iprm_kernels.steps` room by room. There a step makes some hundred calls, and where rows are few Python costs
more than what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from iprm_kernels.steps import kept
from iprm_kernels.steps.walk import Gradients, Outputs
from iprm_kernels.steps.weights import options_of, reduced_of

PairUnit = Callable[[int, torch.dtype], int]


def forward(
    extension: ModuleType, pair_unit: PairUnit, O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None,
    visual: Tensor, visual_mask: Tensor | None, weights: list[Tensor], maps: str, seed: Tensor | None, *rest: Any,
) -> Outputs:  # fmt: skip
    """`iprm::recurrence`, in the dtype of its inputs."""
    *options, keep = rest
    shapes = _shapes(pair_unit, O, visual, weights, maps, options) if keep else {}
    inputs = (O, E, language, language_mask, visual, visual_mask, weights, maps, seed)
    return extension.recurrence(*inputs, *options[:-1], list(shapes), list(shapes.values()))


def _shapes(
    pair_unit: PairUnit, memory: Tensor, visual: Tensor, weights: list[Tensor], maps: str, options: list[Any]
) -> dict[str, tuple[int, ...]]:
    R = reduced_of(weights, maps)
    sizes = kept.sizes_of(memory, visual, R, memory.dtype, pair_unit(R, memory.dtype))
    return kept.shapes(maps, options_of(*options), sizes)


def backward(
    extension: ModuleType, pair_unit: PairUnit, dO: Tensor, dE: Tensor, d_language: Tensor | None,
    d_visual: Tensor | None, d_operations: Tensor | None, language: Tensor, visual: Tensor, weights: list[Tensor],
    maps: str, a_language: Tensor, a_visual: Tensor, a_operations: Tensor, tensors: list[Tensor], seed: Tensor | None,
    *options_and_needs: Any,
) -> Gradients:  # fmt: skip
    """`iprm::recurrence_backward`, likewise."""
    *options, needs = options_and_needs
    names = list(_shapes(pair_unit, dO, visual, weights, maps, options))
    return extension.recurrence_backward(
        dO, dE, d_language, d_visual, d_operations, language, visual, weights, maps, a_language, a_visual,
        a_operations, names, tensors, seed, *options[:-1], needs,
    )  # fmt: skip
