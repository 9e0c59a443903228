"""What torch's `FlopCounterMode` counts of the registered ops: the matrix products of their algebra.

As torch counts, two operations for each multiply-add of a product of matrices, and nothing for sums, elementwise work
and products with a vector. A backward pass is counted with the products of pairs that it makes again, as that of
torch's own fused attention is; a gradient that nobody asked for is not. The numbers are those of mechanism.md, "What
the algebra allows", whichever backend runs.

The attention cores have a formula each. What is made of them and of dense products is run once more on the meta device,
where tensors have shapes and no numbers, and torch counts what it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from iprm_kernels import dropped_execution
from iprm_kernels.backends import eager
from iprm_kernels.backends.calls import Call, call_of
from iprm_kernels.steps import walk

BACKEND = "eager"  # of the ops that are called for their shapes alone


def attention(c: Call, columns: int) -> int:
    """One product of (B, K, D) with (B, columns, D): logits, a pooled sum, or a gradient of one of the two."""
    return 2 * c.B * c.K * columns * c.D


def pairs(c: Call) -> int:
    """One product of all pairs (B·K·N, R) with a weight (R, R)."""
    return 2 * c.B * c.K * c.N * c.R**2


# By op, the operations of a call of these sizes; `needs` says which gradients are asked for.
CORES: dict[str, Callable[[Call, Sequence[bool]], int]] = {
    "formation": lambda c, _: 2 * attention(c, c.L),
    "formation_backward": lambda c, needs: (2 + 2 * needs[1]) * attention(c, c.L),
    "execution": lambda c, _: 2 * pairs(c) + attention(c, c.N),
    # Both products again, their gradients, and those of C1a and C2; then those of the pooled sum.
    "execution_backward": lambda c, needs: (4 + needs[4] + needs[5]) * pairs(c) + (1 + needs[8]) * attention(c, c.N),
    "execution_simple": lambda c, _: attention(c, c.N),
    "execution_simple_backward": lambda c, needs: (1 + needs[3]) * attention(c, c.N),
    "composition": lambda c, _: 3 * attention(c, c.K * c.blocks),
    "composition_backward": lambda c, _: 6 * attention(c, c.K * c.blocks),
}


def of_core(op: str, *args: Any) -> int:
    """The operations of a call of `torch.ops.iprm.<op>`, from its formula."""
    *_, needs, _ = args  # where the op has them, they stand before the backend
    return CORES[op](call_of(op, args), needs)


def part(op: str) -> Callable[..., Any]:
    """An op as the walk over the steps calls it: without its last argument, and of some with pairs that are kept."""

    def call(*args: Any) -> Any:
        packet = getattr(torch.ops.iprm, op)
        return packet(*args[: len(packet.default._schema.arguments) - 1], BACKEND)

    return call


PARTS = SimpleNamespace(
    linear=eager.linear,
    linear_back=eager.linear_back,
    pack=eager.pack,
    pair_unit=eager.pair_unit,
    **{op: part(op) for op in ("dropout", *CORES)},
)
"""What the steps of the recurrence are made of."""


def is_of_pairs(value: object) -> TypeGuard[Tensor]:
    """Whether this is one of the (T, B, K, N, R) that a recurrence may keep: nothing else has as many dimensions."""
    return isinstance(value, Tensor) and value.dim() == 5


def without_pairs(args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of a backward of the recurrence without the pairs that were kept."""
    return tuple([t for t in arg if not is_of_pairs(t)] if isinstance(arg, list) else arg for arg in args)


COMPOSED: dict[str, Callable[..., Any]] = {
    "recurrence": lambda *args: walk.forward(PARTS, *args[:-1]),
    "recurrence_backward": lambda *args: walk.backward(PARTS, *without_pairs(args)[:-1]),
    "execution_dropped": dropped_execution._registered(dropped_execution._full),
    "execution_dropped_backward": dropped_execution._registered(dropped_execution._full_backward),
    "execution_simple_dropped": dropped_execution._registered(dropped_execution._simple),
    "execution_simple_dropped_backward": dropped_execution._registered(dropped_execution._simple_backward),
}


def of_composed(op: str, *args: Any) -> int:
    """The operations of a call of `torch.ops.iprm.<op>`, from what it is composed of."""
    kept = [t for arg in args if isinstance(arg, list) for t in arg if is_of_pairs(t)]
    saved = sum(map(len, kept)) * pairs(call_of(op, args)) if kept else 0  # one product each, in every step
    shapes = tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device="meta"), args)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        COMPOSED[op](*shapes)
    return counter.get_total_flops() - saved


def register(op: str, count: Callable[..., int]) -> None:
    """Give `count` to torch, which hands on arguments as they came, in order or by name."""
    packet = getattr(torch.ops.iprm, op)
    names = [argument.name for argument in packet.default._schema.arguments]

    def formula(*args: Any, out_val: Any = None, **named: Any) -> int:
        return count(op, *args, *(named[name] for name in names[len(args) :]))

    register_flop_formula(packet, get_raw=True)(formula)


def register_formulas() -> None:
    """Give torch the counts of all ops, once they are defined."""
    for ops, count in ((CORES, of_core), (COMPOSED, of_composed)):
        for op in ops:
            register(op, count)
