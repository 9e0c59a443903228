"""All steps of the mechanism as one op, for forwards without gradients and dropout of few samples.

There, launches and Python bound the time and not arithmetic: the op takes the projections' weights too, and the CUDA
backend runs all T steps in one cooperative launch (csrc/cuda/step.cuh). The other backends do not have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast
from iprm_kernels.backends import refusal, run
from iprm_kernels.backends.calls import Call
from iprm_kernels.checks import check_choice, check_floating, check_tensor, check_tokens
from iprm_kernels.library import library

MAPS = ("F1", "We", "Wz", "Wq", "Wv", "Uo", "Ur", "Qo", "Vo", "Vr", "So", "Sr")
"""The linear maps of `weights`, weight and bias of each; then C1a, C2, c2, w, c; then, if keys are projected, Ko's."""

MOST_SAMPLES = 16
"""From here on the pairs of execution outweigh launches (at K = 6, N = 196, R = 256 some 5·10⁹ operations a step),
and the library's matrix products serve more rows better than the kernel's, which are made for latency."""
MOST_ROWS = 256  # B·K
MOST_COLUMNS = 256  # language tokens, and columns K (1 + W) of the window: shared memory holds a row of logits
MOST_WIDTH = 1024  # R: what a tile of pairs in float32 leaves room for

library.define(
    "steps(Tensor O, Tensor E, Tensor language, Tensor language_keys, Tensor language_bias, Tensor? language_mask,"
    " Tensor visual, Tensor v, Tensor u, Tensor? visual_mask, Tensor[] weights, int steps, int window, bool mask_self,"
    " str[] activations, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.compiler.assume_constant_result
def missing(backend: str, device: torch.device, dtype: torch.dtype, K: int, R: int, window: int) -> str | None:
    """Why no backend runs the op where this one is asked for, or None where one does."""
    name = "cuda" if backend == "auto" else backend  # the only one that has it
    return refusal(name, device, dtype, Call("steps", K=K, R=R, blocks=1 + window))


def too_large(B: int, K: int, L: int, R: int, window: int) -> str | None:
    """Why the op does not serve these sizes, or None where it does."""
    sizes = {
        "samples": (B, MOST_SAMPLES),
        "states (B·K)": (B * K, MOST_ROWS),
        "language tokens": (L, MOST_COLUMNS),
        "columns of the window": (K * (1 + window), MOST_COLUMNS),
        "reduced columns (R)": (R, MOST_WIDTH),
    }
    return next((f"{got} {name} of at most {most}" for name, (got, most) in sizes.items() if got > most), None)


def _run(O, *args):
    *args, backend = args
    tensors = [O, *(t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor))]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise RuntimeError("steps: has no gradient, so it runs under torch.no_grad() or on inputs that require none")
    return run(backend, "steps", O, *args)


def _fake(O, E, language, keys, bias, language_mask, visual, v, u, visual_mask, weights, steps, window, *_):
    B, K, D = O.shape
    states = [O.new_empty(steps + 1, B, K, D) for _ in range(2)]
    columns = (language.shape[1], visual.shape[1], K * (1 + window))
    return *states, *(O.new_empty(steps, B, K, C, dtype=torch.float32) for C in columns)


library.impl("steps", _run, "CompositeExplicitAutograd")
torch.library.register_fake("iprm::steps", _fake, lib=library)


def steps(
    O: Tensor,  # (B, K, D)
    E: Tensor,  # (B, K, D)
    language: Tensor,  # (B, L, D)
    language_keys: Tensor,  # (1 or T, B, L, D)
    language_bias: Tensor,  # (1 or T, B, L)
    language_mask: Tensor | None,  # (B, L) bool
    visual: Tensor,  # (B, N, D)
    v: Tensor,  # (B, N, R)
    u: Tensor,  # (B, N, R)
    visual_mask: Tensor | None,  # (B, N) bool
    weights: Sequence[Tensor],
    *,
    steps: int,
    window: int,
    mask_self: bool = True,
    activations: Sequence[str] = ("tanh", "elu", "identity", "identity"),
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All T steps of the mechanism (mechanism.md, "One step") with execution = "full", update and composition, and
    without norms, dropout and results in the query.

    Args:
        O, E: the initial memory (B, K, D).
        language: X (B, L, D).  language_keys: y_j = F2ᵀ (f ⊙ x_j), once or, with one F2 per step, for each step
            (1 or T, B, L, D).  language_bias: F2's bias · (f ⊙ x_j), (1 or T, B, L).
        visual: V (B, N, D).  v: Wk V (B, N, R).  u: C1b v + c1 (B, N, R).
        language_mask, visual_mask: bool, true = keep.
        weights: weight and bias of each of `MAPS` as in nn.Linear; C1a, C2 (R, R), c2, w (R,), c (D,); then the
            weight and bias of Ko where keys are projected. All tensors of one floating dtype, any strides.
        steps: T.  window: W.  mask_self: an operation does not attend to itself.
        activations: φ_l, φ_v, φ_o, φ_r, names in `iprm_kernels.activations.ACTIVATIONS`.
        backend: "auto" or "cuda".
    Returns:
        O and E after 0, 1, ..., T steps, each (T + 1, B, K, D) in the inputs' dtype; the attention over language
        (T, B, K, L), vision (T, B, K, N) and the window (T, B, K, K (1 + W)), zero beyond a step's columns, in
        float32. Nothing is differentiable.
    Raises:
        ValueError: a wrong shape, dtype, device or activation, or more than the op serves (`too_large`).
        RuntimeError: the backend cannot run here or not in these sizes, or an input requires a gradient in grad mode.
    """
    check_floating("O", O)
    floating = cast(O.device, O, E, language, language_keys, language_bias, visual, v, u, list(weights))
    O, E, language, language_keys, language_bias, visual, v, u, weights = floating
    like = (O.dtype, O.device)
    check_tensor("O", O, ("B", "K", "D"), *like)
    B, K, D = O.shape
    check_tensor("E", E, (B, K, D), *like)
    check_tensor("language", language, (B, "L", D), *like)
    L = language.shape[1]
    check_tensor("language_keys", language_keys, ("1 or T", B, L, D), *like)
    check_tensor("language_bias", language_bias, (language_keys.shape[0], B, L), *like)
    check_tensor("visual", visual, (B, "N", D), *like)
    N = visual.shape[1]
    check_tensor("v", v, (B, N, "R"), *like)
    check_tensor("u", u, v.shape, *like)
    check_tokens("language", language)
    check_tokens("visual", visual)
    if language_mask is not None:
        check_tensor("language_mask", language_mask, (B, L), torch.bool, O.device)
    if visual_mask is not None:
        check_tensor("visual_mask", visual_mask, (B, N), torch.bool, O.device)
    for name in activations:
        check_choice("activations", name, tuple(ACTIVATIONS))
    if reason := too_large(B, K, L, v.shape[2], window):
        raise ValueError(f"steps: does not serve {reason}")
    return torch.ops.iprm.steps(
        O, E, language, language_keys, language_bias, language_mask, visual, v, u, visual_mask, weights,
        steps, window, mask_self, list(activations), backend,
    )  # fmt: skip
