"""All steps of the recurrence in one launch, for forwards of few samples without gradients and dropout.

There launches bound the time and not arithmetic: the CUDA backend then runs all T steps in one cooperative launch
(csrc/cuda/step.cuh), where the options allow it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels.steps.weights import Options, Weights

MAPS = ("F1", "We", "Wz", "Wq", "Wv", "Uo", "Ur", "Qo", "Vo", "Vr", "So", "Sr")
"""Of which the kernel takes weight and bias, in this order; then C1a, C2, c2, w, c; then Ko's, if there is one."""

MOST_SAMPLES = 16
"""From here on the pairs of execution outweigh launches (at K = 6, N = 196, R = 256 some 5·10⁹ operations a step),
and the library's matrix products serve more rows better than the kernel's, which are made for latency."""
MOST_ROWS = 256  # B·K
MOST_COLUMNS = 256  # language tokens, and columns K (1 + W) of the window: shared memory holds a row of logits
MOST_WIDTH = 1024  # R: what a tile of pairs in float32 leaves room for


def refusal(w: Weights, o: Options, B: int, K: int, L: int) -> str | None:
    """Why the kernel does not serve these options and sizes, or None where it does."""
    if w.Wk is None or w.G1 is not None or w.Uo is None or w.Qo is None:
        return "the kernel for all steps has full execution, update and composition, and no results in the query"
    if any(getattr(w, name) is not None for name in o.epsilons._fields):
        return "the kernel for all steps has no layer norms"
    if any(o.rates):
        return "the kernel for all steps has no dropout"
    if B == 0:
        return "there are no samples"
    sizes = {
        "samples": (B, MOST_SAMPLES),
        "states (B·K)": (B * K, MOST_ROWS),
        "language tokens": (L, MOST_COLUMNS),
        "columns of the window": (K * (1 + o.window), MOST_COLUMNS),
        "reduced columns (R)": (w.reduced, MOST_WIDTH),
    }
    return next((f"{got} {name} of at most {most}" for name, (got, most) in sizes.items() if got > most), None)


def language_keys(w: Weights, X: Tensor) -> tuple[Tensor, Tensor]:
    """y = F2ᵀ (f ⊙ x) (1 or T, B, L, D) and F2's bias · (f ⊙ x) (1 or T, B, L).

    With them (F2 h_k + bias) · (f ⊙ x_j) = h_k · y_j + bias_j: the logits without the query.
    """
    x = w.f.weight[0] * X
    return torch.stack([x @ F2.weight for F2 in w.F2]), torch.stack([x @ F2.bias for F2 in w.F2])


def weights_of(w: Weights) -> list[Tensor]:
    """What the kernel takes, in its order."""
    of_maps = [t for name in MAPS for t in getattr(w, name)]
    of_pairs = [w.C1.weight[:, : w.reduced], w.C2.weight, w.C2.bias, w.w.weight[0]]
    c = w.c.weight[0]  # pyright: ignore[reportOptionalMemberAccess] - see `refusal`
    return [*of_maps, *of_pairs, c, *(w.Ko or ())]


def arguments(
    O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor, visual_mask: Tensor | None,
    w: Weights, o: Options,
) -> tuple[Any, ...]:  # fmt: skip
    """What the launch is given: the inputs with their keys, the weights and the options."""
    v = torch.nn.functional.linear(visual, *w.Wk)  # pyright: ignore[reportOptionalIterable] - see `refusal`
    u = torch.nn.functional.linear(v, w.C1.weight[:, w.reduced :], w.C1.bias)
    φ = o.activations
    activations = [φ.formation, φ.execution, φ.op, φ.result]
    keys = language_keys(w, language)
    return (
        O, E, language, *keys, language_mask, visual.contiguous(), v, u, visual_mask, weights_of(w), o.steps, o.window,
        o.mask_self, activations,
    )  # fmt: skip
