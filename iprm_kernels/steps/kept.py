"""What a forward keeps for its backward, besides the attentions that it returns.

With the default options a step keeps 12 D + 2 R numbers for each of its B·K rows, and once in a forward the keys
(B, N, 2R) are kept; with the default dropout 17 D + 2 R, and no keys, which are then made anew in every step. No tensor
of B·K·N is among them. In the inputs' dtype; on the CPU, which computes 16 bits in float32, in that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels.steps.weights import Options, Weights


def widths(w: Weights, o: Options) -> dict[str, tuple[int, str]]:
    """By name, of what is kept of every step: how many times (B, K, ·), and its width, "D", "2D", "R" or "2R"."""
    p, φ, table = o.rates, o.activations, {}

    def keep(name: str, width: str = "D", times: int = 1, *, where: bool = True) -> None:
        if where:
            table[name] = times, width

    def norm(name: str) -> None:
        keep(name, where=getattr(w, name) is not None)

    def two_layers(first: str, second: str, activation: str, rate: float, width: str) -> None:
        keep(first + "φ", width, where=rate > 0.0 or activation == "gelu")  # else the second's input tells
        keep(second, width)

    keep("O")
    keep("E")
    # 1. Formation
    two_layers("F1", "F2", φ.formation, p.formation, "D")
    if w.G1 is not None:
        two_layers("G1", "G2", φ.result_query, p.formation, "D")
    keep("J_formation", "2D", where=w.J_formation is not None)
    keep("q")
    norm("formation_norm")
    keep("z")
    # 2. Execution: the inputs of We and Wz, where they are dropped
    keep("We", where=p.variational > 0.0 or (p.result > 0.0 and w.We2 is None))
    keep("Wz", where=p.operation > 0.0 and w.Wz2 is None)
    if w.We2 is not None:
        two_layers("We", "We2", "tanh", p.result, "R")
    if w.Wz2 is not None:
        two_layers("Wz", "Wz2", "tanh", p.operation, "R")
    keep("J_execution", "2R", where=w.J_execution is not None)
    for name in ("g", "l") if w.Wk is not None else ("p",):
        keep(name, "R")
    keep("Wv")
    norm("execution_norm")
    # 3. Composition
    keep("r", where=w.Uo is not None)
    norm("update_norm_o")
    norm("update_norm_r")
    if w.Qo is None:
        return table
    keep("o")
    keep("e")
    keep("Qo")
    keep("folded", where=w.Ko is not None and p.composition_product == 0.0)
    columns = 1 if o.window == 0 else 2  # of the current states, and of the memory before them
    keep("key", times=columns, where=w.Ko is not None and p.composition_product > 0.0)
    for name in ("operation", "result"):
        keep(name, times=columns, where=p.composition_value > 0.0)
    for name in ("pooled_o", "pooled_r"):
        keep(name, where=p.composition_value == 0.0)
    norm("composition_norm_o")
    norm("composition_norm_r")
    return table


def once(w: Weights, o: Options) -> tuple[str, ...]:
    """What is kept once in a forward, (B, N, R) each: the keys, where all steps share them."""
    if o.rates.visual > 0.0:
        return ()
    return ("κ",) if w.Wk is None else ("v", "u")


def shapes(w: Weights, o: Options, B: int, K: int, N: int) -> list[tuple[int, ...]]:
    """The shapes of all that is kept, in order."""
    D, R = w.F1.weight.shape[-1], w.reduced
    numbers = {"D": D, "2D": 2 * D, "R": R, "2R": 2 * R}
    steps = [(times * o.steps, B, K, numbers[width]) for times, width in widths(w, o).values()]
    return [*steps, *[(B, N, R) for _ in once(w, o)]]


def stacked(kept: dict, w: Weights, o: Options) -> list[Tensor]:
    """From lists of all steps, by name, to tensors in order; the lists are emptied."""
    return [*(torch.stack(kept.pop(name)) for name in widths(w, o)), *(kept.pop(name) for name in once(w, o))]


def names(w: Weights, o: Options) -> tuple[str, ...]:
    """The names of all that is kept, in order."""
    return (*widths(w, o), *once(w, o))


def named(tensors: list[Tensor], w: Weights, o: Options) -> dict[str, Tensor]:
    """The inverse of `stacked`, but that each name has one tensor of all steps."""
    return dict(zip(names(w, o), tensors, strict=True))
