"""What a backend is asked about a call: its op, and the sizes of its inputs in the symbols of the mechanism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def _dropout(x: Tensor, *_: Any) -> dict[str, int]:
    return {}


def _formation(query: Tensor, tokens: Tensor, *_: Any) -> dict[str, int]:
    B, K, D = query.shape
    return {"B": B, "K": K, "L": tokens.shape[1], "D": D}


def _execution(
    v: Tensor, u: Tensor, g: Tensor, l: Tensor, C1a: Tensor, C2: Tensor, c2: Tensor, w: Tensor, tokens: Tensor, *_: Any
) -> dict[str, int]:
    B, N, R = v.shape
    return {"B": B, "K": g.shape[1], "N": N, "D": tokens.shape[2], "R": R}


def _execution_simple(keys: Tensor, query: Tensor, w: Tensor, tokens: Tensor, *_: Any) -> dict[str, int]:
    B, N, R = keys.shape
    return {"B": B, "K": query.shape[1], "N": N, "D": tokens.shape[2], "R": R}


def _composition(query: Tensor, keys: Sequence[Tensor], *_: Any) -> dict[str, int]:
    B, K, D = query.shape
    return {"B": B, "K": K, "D": D, "blocks": len(keys)}


def _recurrence(
    O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor, visual_mask: Tensor | None,
    *rest: Any,
) -> dict[str, int]:  # fmt: skip
    return _of_recurrence(O, language, visual, *rest)


def _recurrence_backward(
    grad_O: Tensor, grad_E: Tensor, d_l: Tensor | None, d_v: Tensor | None, d_o: Tensor | None, language: Tensor,
    visual: Tensor, weights: Sequence[Tensor], maps: str, *rest: Any,
) -> dict[str, int]:  # fmt: skip
    return _of_recurrence(grad_O, language, visual, weights, maps, *rest[4:])


def _of_recurrence(
    memory: Tensor, language: Tensor, visual: Tensor, weights: Sequence[Tensor], maps: str, seed: Tensor | None,
    steps: int, window: int, *_: Any,
) -> dict[str, int]:  # fmt: skip
    """Execution of the simple form has no limit on R, and is not asked about it."""
    (B, K, D), names = memory.shape, maps.split(",")
    R = weights[2 * names.index("Wk")].shape[0] if "Wk" in names else 0
    return {"B": B, "K": K, "L": language.shape[1], "N": visual.shape[1], "D": D, "R": R, "blocks": 1 + window}


_SIZES: dict[str, Callable[..., dict[str, int]]] = {
    "dropout": _dropout,
    "formation": _formation,
    "execution": _execution,
    "execution_simple": _execution_simple,
    "composition": _composition,
    "recurrence": _recurrence,
    "recurrence_backward": _recurrence_backward,
}
_GRADIENTS = {"formation": 2, "execution": 2, "execution_simple": 2, "composition": 3}
"""How many gradients stand before the inputs of an op in those of its backward."""


def call_of(op: str, args: Sequence[Any]) -> Call:
    """The call of a registered op with these arguments."""
    if op in _SIZES:
        return Call(op, **_SIZES[op](*args))
    forward = op.removesuffix("_backward")
    return Call(op, **_SIZES[forward](*args[_GRADIENTS[forward] :]))
