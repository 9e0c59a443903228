"""What a backend is asked about a call: its op, and the sizes of its inputs in the symbols of the mechanism."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Call(NamedTuple):
    """One call of an op. A size of 0 is not asked about; without an op, the sizes are those of a model with
    execution = "full"."""

    op: str | None = None
    B: int = 0  # samples
    K: int = 0  # operations
    L: int = 0  # language tokens
    N: int = 0  # visual tokens
    D: int = 0
    R: int = 0
    blocks: int = 0  # states of the window, 1 + W


ANY = Call()
"""Any call: nothing is asked but whether the backend runs at all."""


def _dropout(x: Tensor, *_) -> dict:
    return {}


def _formation(query: Tensor, tokens: Tensor, *_) -> dict:
    B, K, D = query.shape
    return {"B": B, "K": K, "L": tokens.shape[1], "D": D}


def _execution(v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a, C2, c2, w, tokens: Tensor, *_) -> dict:
    B, N, R = v.shape
    return {"B": B, "K": g.shape[1], "N": N, "D": tokens.shape[2], "R": R}


def _execution_simple(keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor, *_) -> dict:
    B, N, R = keys.shape
    return {"B": B, "K": query.shape[1], "N": N, "D": tokens.shape[2], "R": R}


def _composition(query: Tensor, keys: Sequence[Tensor], *_) -> dict:
    B, K, D = query.shape
    return {"B": B, "K": K, "D": D, "blocks": len(keys)}


def _steps(O, E, language, keys, bias, language_mask, visual, v, u, visual_mask, weights, steps, window, *_) -> dict:
    B, K, D = O.shape
    _, N, R = v.shape
    return {"B": B, "K": K, "L": language.shape[1], "N": N, "D": D, "R": R, "blocks": 1 + window}


_SIZES = {
    "dropout": _dropout,
    "formation": _formation,
    "execution": _execution,
    "execution_simple": _execution_simple,
    "composition": _composition,
    "steps": _steps,
}
_GRADIENTS = {"formation": 2, "execution": 2, "execution_simple": 2, "composition": 3}
"""How many gradients stand before the inputs of an op in those of its backward."""


def call_of(op: str, args: Sequence) -> Call:
    """The call of a registered op with these arguments."""
    forward = op.removesuffix("_backward")
    inputs = args if forward == op else args[_GRADIENTS[forward] :]
    return Call(op, **_SIZES[forward](*inputs))
