"""The weights of the recurrence, by the letters of mechanism.md, and its options that are not weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Map(NamedTuple):
    """y = weight x + bias; of a layer norm, its gain and shift."""

    weight: Tensor  # (outputs, inputs); a norm's (D,)
    bias: Tensor  # (outputs,)


class Weights(NamedTuple):
    """The linear maps and layer norms of all stages. What is None is switched off: the weights say which form runs.

    Widths are inputs -> outputs. `F2` has one map, or one for each step. With G1 and G2 the query takes the prior
    results too, joined by `J_formation` where that is given. With `Wk` execution is full, without it simple; then
    `We2`, `Wz2` make two-layer maps of We, Wz, and `J_execution` joins the two. Without `Uo` and `Ur` nothing is
    updated, without `Qo` nothing composed.
    """

    F1: Map  # D -> D
    F2: tuple[Map, ...]  # D -> D
    f: Map  # D -> 1
    C1: Map  # 2R -> R, simple: D -> R
    C2: Map  # R -> R
    We: Map  # D -> R
    Wz: Map  # D -> R
    w: Map  # R -> 1
    Wv: Map  # D -> D
    G1: Map | None = None  # D -> D
    G2: Map | None = None  # D -> D
    J_formation: Map | None = None  # 2D -> D
    formation_norm: Map | None = None
    Wk: Map | None = None  # D -> R
    Wq: Map | None = None  # D -> R
    We2: Map | None = None  # R -> R
    Wz2: Map | None = None  # R -> R
    J_execution: Map | None = None  # 2R -> R
    execution_norm: Map | None = None
    Uo: Map | None = None  # 2D -> D
    Ur: Map | None = None  # 2D -> D
    update_norm_o: Map | None = None
    update_norm_r: Map | None = None
    Qo: Map | None = None  # D -> D
    Ko: Map | None = None  # D -> D
    c: Map | None = None  # D -> 1
    Vo: Map | None = None  # D -> D
    Vr: Map | None = None  # D -> D
    So: Map | None = None  # D -> D
    Sr: Map | None = None  # D -> D
    composition_norm_o: Map | None = None
    composition_norm_r: Map | None = None

    @property
    def reduced(self) -> int:
        """R."""
        return self.C2.weight.shape[0]

    def shapes(self, D: int) -> dict[str, tuple[int, ...]]:
        """The shape of each map's weight for this D, and R of these maps, by field."""
        R = self.reduced
        square = ("F1", "F2", "G1", "G2", "Wv", "Qo", "Ko", "Vo", "Vr", "So", "Sr")
        return {
            **dict.fromkeys(square, (D, D)),
            **dict.fromkeys(("J_formation", "Uo", "Ur"), (D, 2 * D)),
            **dict.fromkeys(("We", "Wz", "Wq", "Wk"), (R, D)),
            **dict.fromkeys(("C2", "We2", "Wz2"), (R, R)),
            **dict.fromkeys(("f", "c"), (1, D)),
            **dict.fromkeys((name for name in self._fields if "norm" in name), (D,)),
            "C1": (R, 2 * R if self.Wk is not None else D),
            "J_execution": (R, 2 * R),
            "w": (1, R),
        }


NEEDS: dict[str, tuple[str, ...]] = {
    "G1": ("G2",),
    "G2": ("G1",),
    "J_formation": ("G1",),
    "Wk": ("Wq",),
    "Wq": ("Wk",),
    "Uo": ("Ur",),
    "Ur": ("Uo",),
    **dict.fromkeys(("update_norm_o", "update_norm_r"), ("Uo",)),
    "Qo": ("c", "Vo", "Vr", "So", "Sr"),
    **dict.fromkeys(("Ko", "c", "Vo", "Vr", "So", "Sr", "composition_norm_o", "composition_norm_r"), ("Qo",)),
}
"""Of the fields of `Weights` that may be None, those that are nothing without others."""
ONLY_SIMPLE = ("We2", "Wz2", "J_execution")


def flattened(weights: Weights) -> tuple[list[Tensor], str]:
    """Weight and bias of each map in turn, and the maps' names, joined by commas; `F2` may stand several times."""
    maps = [(name, m) for name, m in zip(weights._fields, weights, strict=True) if isinstance(m, Map)]
    maps += [("F2", m) for m in weights.F2]
    return [t for _, m in maps for t in m], ",".join(name for name, _ in maps)


def unflattened(flat: Sequence[Tensor], names: str) -> Weights:
    """The inverse of `flattened`."""
    maps = [(name, Map(*pair)) for name, *pair in zip(names.split(","), flat[::2], flat[1::2], strict=True)]
    single = {name: m for name, m in maps if name != "F2"}
    return Weights(**single, F2=tuple(m for name, m in maps if name == "F2"))


def reduced_of(flat: Sequence[Tensor], names: str) -> int:
    """R, of flattened weights."""
    return flat[2 * names.split(",").index("C2")].shape[0]


class Activations(NamedTuple):
    """Names in `iprm_kernels.activations.ACTIVATIONS`: φ_l, φ_g, φ_v, φ_o, φ_r of mechanism.md."""

    formation: str = "tanh"
    result_query: str = "tanh"
    execution: str = "elu"
    op: str = "identity"
    result: str = "identity"


class Rates(NamedTuple):
    """Dropout rates, each in [0, 1): the sites of `iprm_kernels.philox.Role`."""

    formation: float = 0.0
    formation_attention: float = 0.0
    visual: float = 0.0
    result: float = 0.0
    operation: float = 0.0
    product: float = 0.0
    execution_attention: float = 0.0
    variational: float = 0.0
    composition_product: float = 0.0
    composition_value: float = 0.0
    composition_attention: float = 0.0


class Epsilons(NamedTuple):
    """What each layer norm adds to the variance."""

    formation_norm: float = 1e-5
    execution_norm: float = 1e-5
    update_norm_o: float = 1e-5
    update_norm_r: float = 1e-5
    composition_norm_o: float = 1e-5
    composition_norm_r: float = 1e-5


class Options(NamedTuple):
    """What of the mechanism is no weight."""

    steps: int  # T
    window: int  # W
    mask_self: bool
    activations: Activations
    rates: Rates
    epsilons: Epsilons
    room: int = 0  # bytes, for what `kept.py` keeps beyond the rows, or its AUTO


def options_of(
    steps: int, window: int, mask_self: bool, activations: str, rates: Sequence[float], epsilons: Sequence[float],
    room: int,
) -> Options:  # fmt: skip
    """Options from the plain values of an op's schema, the names of the activations joined by commas."""
    φ, p, ε = Activations(*activations.split(",")), Rates(*rates), Epsilons(*epsilons)
    return Options(steps, window, mask_self, φ, p, ε, room)
