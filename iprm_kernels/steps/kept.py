"""What a forward keeps for its backward, besides the attentions that it returns.

With the default options a step keeps 12 D + 2 R numbers for each of its B·K rows, and once in a forward the keys
(B, N, 2R) are kept; with the default dropout 17 D + 2 R, and no keys, which every step then makes anew. In the inputs'
dtype; on the CPU, which computes 16 bits in float32, in that.

Where there is room, more is kept, and less computed again: the keys of all steps, T (B, N, 2R), which saves the
products that make them; and then, on backends that can, the pairs of all steps, 2 T (B, K, N, R), which saves two of
the eight products of a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iprm_kernels.checks import check_choice, check_number
from iprm_kernels.steps.weights import Options

AUTO = -1
"""As many bytes as the rows take."""
PAIRS = ("C1φ", "h")
"""The names of pairs: φ(C1a (g ⊙ v) + u), or of GELU what it is applied to, and C2 of it without the bias."""
EVERYTHING = 2**62
MEMORY = {"auto": AUTO, "least": 0, "fast": EVERYTHING}


_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Of torch 2.6 the latter, which says the same of every graph."""

KEYS = frozenset({"v", "u", "κ"})
"""The names of keys, in the full form of execution and the simple one."""


class Sizes(NamedTuple):
    """Those of a call, for a backend that works in numbers of `itemsize` bytes, and where it keeps pairs rounds R up to
    a multiple of `pair_unit`; 0 where it keeps none."""

    B: int
    K: int
    N: int
    D: int
    R: int
    itemsize: int
    pair_unit: int


def sizes_of(memory: Tensor, visual: Tensor, R: int, dtype: torch.dtype, pair_unit: int) -> Sizes:
    """Those of a call with such tensors (B, K, D) and (B, N, D), by a backend that works in `dtype`."""
    (B, K, D), N = memory.shape, visual.shape[1]
    return Sizes(B, K, N, D, R, dtype.itemsize, pair_unit)


def room_of(memory: str | int) -> int:
    """The bytes that `memory` names. In an exported program "auto" is "least": what fits depends on sizes that it
    may leave open, and the number of tensors that it keeps cannot.

    Raises:
        ValueError: it is neither a number nor one of the names.
    """
    if isinstance(memory, str):
        check_choice("memory", memory, tuple(MEMORY))
        return MEMORY["least" if memory == "auto" and _is_exporting() else memory]
    check_number("memory", memory, EVERYTHING)
    return memory


@functools.lru_cache(maxsize=64)
def widths(maps: str, o: Options) -> Mapping[str, tuple[int, str]]:
    """By name, of what is kept of every step: how many times (B, K, ·), and its width, "D", "2D", "R" or "2R".

    maps: the names of those that are given, joined by commas.
    """
    p, φ = o.rates, o.activations
    table: dict[str, tuple[int, str]] = {}
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


def rows(maps: str, o: Options, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shapes of what is kept of rows, by name."""
    B, K, _, D, R, *_ = sizes
    numbers = {"D": D, "2D": 2 * D, "R": R, "2R": 2 * R}
    return {name: (times * o.steps, B, K, numbers[width]) for name, (times, width) in widths(maps, o).items()}


def numel(shapes: Mapping[Any, tuple[int, ...]]) -> int:
    """Of all of them."""
    return sum(map(prod, shapes.values()))


def shapes(maps: str, o: Options, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shapes of all that is kept, by name: of rows, of keys, and of pairs."""
    B, K, N, _, R, itemsize, pair_unit = sizes
    rows_: dict[str, tuple[int, ...]] = rows(maps, o, sizes)
    full, shared = "Wk" in maps.split(","), o.rates.visual == 0.0  # whether all steps have the same keys
    keys = dict.fromkeys(("v", "u") if full else ("κ",), (1 if shared else o.steps, B, N, R))
    pairs: dict[str, tuple[int, ...]] = {}
    if full and pair_unit:
        pairs = dict.fromkeys(PAIRS, (o.steps, B, K, N, -(-R // pair_unit) * pair_unit))
    of_keys, of_pairs = 0 if shared else numel(keys), numel(pairs)

    def fits(numbers: int) -> bool:
        """Of "least" and "fast" without a look at the sizes, which an exported program leaves open."""
        if o.room in (0, EVERYTHING):
            return o.room == EVERYTHING
        return numbers * itemsize <= (numel(rows_) * itemsize if o.room == AUTO else o.room)

    if not shared and not fits(of_keys):
        return rows_
    return rows_ | keys | (pairs if fits(of_keys + of_pairs) else {})


def stacked(kept: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """From lists of all steps, by name, to tensors in the order of `shapes`; the lists are emptied. Pairs are tensors
    from the start, which the cores write into."""
    return [_stacked(name, kept.pop(name)) for name in shapes]


def _stacked(name: str, parts: Any) -> Tensor:
    """Copied, since what is kept of rows may be an input of the op; keys are not, and those of all steps are large."""
    if name in PAIRS:
        return parts
    return parts[0][None] if name in KEYS and len(parts) == 1 else torch.stack(parts)
