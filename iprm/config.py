"""Every option of the mechanism, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from iprm_kernels.activations import ACTIVATIONS

CHOICES: dict[str, tuple[str, ...]] = {
    "op_init": ("learned", "language"),
    "result_init": ("learned", "language", "visual"),
    "query_from_results": ("none", "sum", "concat"),
    "execution": ("full", "simple"),
    "execution_query": ("sum", "concat"),
    "readout": ("language", "learned", "mean", "first"),
    "formation_activation": tuple(ACTIVATIONS),
    "result_query_activation": tuple(ACTIVATIONS),
    "execution_activation": tuple(ACTIVATIONS),
    "op_activation": tuple(ACTIVATIONS),
    "result_activation": tuple(ACTIVATIONS),
}
AT_LEAST = {"dim": 1, "num_ops": 1, "num_steps": 1, "window": 0, "reduction": 1}


@dataclass(frozen=True)
class IPRMConfig:
    """The options of the iterative and parallel reasoning mechanism (mechanism.md; section 2 of the paper).

    Sizes
        dim: D, the model width.  num_ops: K, parallel operations.  num_steps: T, reasoning steps.
        window: W, how many past steps composition looks back on (0 = none).
        reduction: r, the visual keys have width R = D / r, which must be whole.
    Initial memory
        op_init: "learned" or "language".  result_init: "learned", "language" or "visual".
    Operation formation
        formation_activation: φ_l.  per_step_query: one F2 for each step.
        query_from_results: "none", "sum" (add G2·φ_g(G1 E) to the query) or "concat" (join them through J).
        result_query_activation: φ_g.  formation_norm: layer norm of z.
    Operation execution
        execution: "full", or "simple" (keys that do not depend on the operation).
        execution_activation: φ_v.  execution_norm: layer norm of r.
        Only for "simple": execution_query joins its two projections by "sum" or "concat";
        operation_mlp and result_mlp make the projection of z and of E a two-layer map.
    Operation composition
        update: write z and r into the memory through Uo and Ur; otherwise they replace it.
        op_activation: φ_o.  result_activation: φ_r.  update_norm: layer norms of o and e.
        composition: attend over the window; otherwise O = o and E = e.
        mask_self: an operation does not attend to itself.  key_projection: keys are Ko ō.
        composition_norm: layer norms of the new memory.
    Read-out
        readout: "language", "learned", "mean" or "first".
    Dropout rates, each in [0, 1): see `iprm_kernels.dropout.Role` for the site of each.

    Raises:
        TypeError: a field has the wrong type.  ValueError: a field has a value that is not allowed.
        Both name the field, what is allowed and what came.
    """

    dim: int = 512
    num_ops: int = 6
    num_steps: int = 9
    window: int = 2
    reduction: int = 2

    op_init: str = "learned"
    result_init: str = "learned"

    formation_activation: str = "tanh"
    per_step_query: bool = False
    query_from_results: str = "none"
    result_query_activation: str = "tanh"
    formation_norm: bool = False

    execution: str = "full"
    execution_activation: str = "elu"
    execution_query: str = "sum"
    operation_mlp: bool = False
    result_mlp: bool = False
    execution_norm: bool = False

    update: bool = True
    op_activation: str = "identity"
    result_activation: str = "identity"
    update_norm: bool = False
    composition: bool = True
    mask_self: bool = True
    key_projection: bool = False
    composition_norm: bool = False

    readout: str = "language"

    formation_dropout: float = 0.1
    formation_attention_dropout: float = 0.0
    visual_dropout: float = 0.15
    result_dropout: float = 0.15
    operation_dropout: float = 0.15
    product_dropout: float = 0.15
    execution_attention_dropout: float = 0.0
    variational_dropout: float = 0.15
    composition_product_dropout: float = 0.1
    composition_value_dropout: float = 0.1
    composition_attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field.name, str(field.type), getattr(self, field.name))
        if self.dim % self.reduction:
            raise ValueError(f"reduction: expected a divisor of dim = {self.dim}, got {self.reduction}")
        if self.execution == "full":
            simple_only = {"execution_query": "sum", "operation_mlp": False, "result_mlp": False}
            for name, default in simple_only.items():
                if (value := getattr(self, name)) != default:
                    raise ValueError(f"{name}: expected {default!r} unless execution = 'simple', got {value!r}")

    @staticmethod
    def _check(name: str, kind: str, value: Any) -> None:
        types: dict[str, Any] = {"int": int, "bool": bool, "str": str, "float": (int, float)}
        if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise TypeError(f"{name}: expected {kind}, got {value!r} ({type(value).__name__})")
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name}: expected one of {', '.join(map(repr, CHOICES[name]))}, got {value!r}")
        if name in AT_LEAST and value < AT_LEAST[name]:
            raise ValueError(f"{name}: expected an integer of at least {AT_LEAST[name]}, got {value}")
        if kind == "float" and not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: expected a rate in [0, 1), got {value}")

    @property
    def reduced_dim(self) -> int:
        """R = D / r, the width of the visual keys."""
        return self.dim // self.reduction

    @property
    def drops(self) -> bool:
        """Whether any dropout rate is above zero."""
        return any(getattr(self, name) > 0.0 for name in RATES)

    def without_dropout(self) -> IPRMConfig:
        """The same options with every dropout rate at zero."""
        return dataclasses.replace(self, **dict.fromkeys(RATES, 0.0))


RATES = tuple(field.name for field in dataclasses.fields(IPRMConfig) if field.name.endswith("dropout"))
torch.serialization.add_safe_globals([IPRMConfig])  # a checkpoint that holds one loads with weights_only=True
