"""What a forward keeps for its backward, besides the attentions that it returns.

With the default options a step keeps 12 D + 2 R numbers for each of its B·K rows, and once in a forward the keys
(B, N, 2R) are kept; with the default dropout 17 D + 2 R, and no keys, which are then made anew in every step. No tensor
of B·K·N is among them. In the inputs' dtype; on the CPU, which computes 16 bits in float32, in that.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from iprm_kernels.steps.weights import Options


@functools.lru_cache(maxsize=64)
def widths(maps: str, o: Options) -> Mapping[str, tuple[int, str]]:
    """By name, of what is kept of every step: how many times (B, K, ·), and its width, "D", "2D", "R" or "2R".

    maps: the names of those that are given, joined by commas.
    """
    p, φ, table = o.rates, o.activations, {}
    given = frozenset(maps.split(","))

    def keep(name: str, width: str = "D", times: int = 1, *, where: bool = True) -> None:
        if where:
            table[name] = times, width

    def norm(name: str) -> None:
        keep(name, where=name in given)

    def two_layers(first: str, second: str, activation: str, rate: float, width: str) -> None:
        keep(first + "φ", width, where=rate > 0.0 or activation == "gelu")  # else the second's input tells
        keep(second, width)

    keep("O")
    keep("E")
    # 1. Formation
    two_layers("F1", "F2", φ.formation, p.formation, "D")
    if "G1" in given:
        two_layers("G1", "G2", φ.result_query, p.formation, "D")
    keep("J_formation", "2D", where="J_formation" in given)
    keep("q")
    norm("formation_norm")
    keep("z")
    # 2. Execution: the inputs of We and Wz, where they are dropped
    keep("We", where=p.variational > 0.0 or (p.result > 0.0 and "We2" not in given))
    keep("Wz", where=p.operation > 0.0 and "Wz2" not in given)
    if "We2" in given:
        two_layers("We", "We2", "tanh", p.result, "R")
    if "Wz2" in given:
        two_layers("Wz", "Wz2", "tanh", p.operation, "R")
    keep("J_execution", "2R", where="J_execution" in given)
    for name in ("g", "l") if "Wk" in given else ("p",):
        keep(name, "R")
    keep("Wv")
    norm("execution_norm")
    # 3. Composition
    keep("r", where="Uo" in given)
    norm("update_norm_o")
    norm("update_norm_r")
    if "Qo" not in given:
        return MappingProxyType(table)
    keep("o")
    keep("e")
    keep("Qo")
    keep("folded", where="Ko" in given and p.composition_product == 0.0)
    columns = 1 if o.window == 0 else 2  # of the current states, and of the memory before them
    keep("key", times=columns, where="Ko" in given and p.composition_product > 0.0)
    for name in ("operation", "result"):
        keep(name, times=columns, where=p.composition_value > 0.0)
    for name in ("pooled_o", "pooled_r"):
        keep(name, where=p.composition_value == 0.0)
    norm("composition_norm_o")
    norm("composition_norm_r")
    return MappingProxyType(table)


def once(maps: str, o: Options) -> tuple[str, ...]:
    """What is kept once in a forward, (B, N, R) each: the keys, where all steps share them."""
    if o.rates.visual > 0.0:
        return ()
    return ("v", "u") if "Wk" in maps.split(",") else ("κ",)


def shapes(maps: str, o: Options, B: int, K: int, N: int, D: int, R: int) -> list[tuple[int, ...]]:
    """The shapes of all that is kept, in order."""
    numbers = {"D": D, "2D": 2 * D, "R": R, "2R": 2 * R}
    steps = [(times * o.steps, B, K, numbers[width]) for times, width in widths(maps, o).values()]
    return [*steps, *[(B, N, R) for _ in once(maps, o)]]


def stacked(kept: dict, maps: str, o: Options) -> list[Tensor]:
    """From lists of all steps, by name, to tensors in order; the lists are emptied."""
    return [*(torch.stack(kept.pop(name)) for name in widths(maps, o)), *(kept.pop(name) for name in once(maps, o))]


def names(maps: str, o: Options) -> tuple[str, ...]:
    """The names of all that is kept, in order."""
    return (*widths(maps, o), *once(maps, o))


def named(tensors: list[Tensor], maps: str, o: Options) -> dict[str, Tensor]:
    """The inverse of `stacked`, but that each name has one tensor of all steps."""
    return dict(zip(names(maps, o), tensors, strict=True))
