"""The recurrence of the compiled backends: the walk over the steps in C++ (csrc/recurrence), as one call.

It mirrors `iprm_kernels.steps` room by room. There a step makes some hundred calls, and where rows are few Python costs
more than what they do.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from iprm_kernels.steps import kept
from iprm_kernels.steps.weights import options_of, reduced_of


def forward(
    extension: ModuleType, O: Tensor, E, language, language_mask, visual, visual_mask, weights, maps, seed, *rest
):
    """`iprm::recurrence`, in the dtype of its inputs."""
    *options, keep = rest
    names, shapes = (), []
    if keep:
        o, R = options_of(*options), reduced_of(weights, maps)
        (B, K, D), N = O.shape, visual.shape[1]
        names, shapes = kept.names(maps, o), kept.shapes(maps, o, B, K, N, D, R)
    inputs = (O, E, language, language_mask, visual, visual_mask, weights, maps, seed)
    return extension.recurrence(*inputs, *options, names, shapes)


def backward(
    extension: ModuleType, dO: Tensor, dE, d_language, d_visual, d_operations, language, visual, weights, maps,
    a_language, a_visual, a_operations, tensors, seed, *options_and_needs,
):  # fmt: skip
    """`iprm::recurrence_backward`, likewise."""
    names = kept.names(maps, options_of(*options_and_needs[:-1]))
    return extension.recurrence_backward(
        dO, dE, d_language, d_visual, d_operations, language, visual, weights, maps, a_language, a_visual,
        a_operations, names, tensors, seed, *options_and_needs,
    )  # fmt: skip
