"""Small mistakes, planted where a backend's kernels get their arguments: the kernels run, on one argument too wrong.

`every_mistake` walks the ops, forward and backward, and what can be wrong of each argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import oracle
import test_composition
import test_execution
import test_formation
import torch

import iprm_kernels
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.backends import BACKENDS, eager
from iprm_kernels.steps import walk
from iprm_kernels.testing import map_tensors

RATE, WRONG_RATE = 0.15, 0.14
SEED = torch.tensor([0x123456789ABC])

# The arguments of each op after those of its backward alone; the backward has the attention where these have a mask.
ARGUMENTS = {
    "dropout": "x p seed stream",
    "formation": "query tokens gate mask seed step p_attention",
    "execution": "v u g l C1a C2 c2 w tokens mask seed step p_product p_attention activation",
    "execution_simple": "keys query w tokens mask seed step p_product p_attention activation",
    "composition": "query keys operations results gate mask_self seed step p_product p_value p_attention",
}
OF_BACKWARD = {
    "formation": ("grad_z grad_attention", "mask"),
    "execution": ("grad_pooled grad_attention", "mask"),
    "execution_simple": ("grad_pooled grad_attention", "mask"),
    "composition": ("grad_operations grad_results grad_attention", None),
}


def arguments_of(op: str) -> list[str]:
    """The names of an op's arguments, in order."""
    base = op.removesuffix("_backward")
    names = ARGUMENTS[base].split()
    if op == base:
        return names
    first, mask = OF_BACKWARD[base]
    if mask:
        names[names.index(mask)] = "attention"
    else:
        names.insert(names.index("mask_self"), "attention")
    return [*first.split(), *names]


def scaled(share: float) -> Callable:
    """All entries off by a share."""
    return lambda x: map_tensors(lambda t: t * (1 + share), x)


def one_entry(x: torch.Tensor) -> torch.Tensor:
    """The largest entry off by 1 %."""
    x = x.clone(memory_format=torch.contiguous_format)
    x.view(-1)[x.abs().argmax()] *= 1.01
    return x


def neighbour(activation: str) -> str:
    names = list(ACTIVATIONS)
    return names[(names.index(activation) + 1) % len(names)]


WEIGHTS, BIASES = ("gate", "C1a", "C2", "w"), ("c2",)
KINDS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "another rate": (("p", "p_product", "p_value", "p_attention"), lambda p: WRONG_RATE if p == RATE else p),
    "left out": (BIASES, torch.zeros_like),
    "shifted": (("mask",), lambda mask: mask.roll(1, 1)),
    "turned over": (("mask_self",), lambda on: not on),
    "1 % off": (WEIGHTS, scaled(0.01)),
    "an entry 1 % off": (WEIGHTS, one_entry),
    "its neighbour": (("activation",), neighbour),
}
"""What is wrong of which arguments."""


@dataclass(frozen=True)
class Mistake:
    op: str
    argument: str
    kind: str

    def __str__(self) -> str:
        return f"{self.op}, {self.argument} {self.kind}"

    def plant(self, monkeypatch, backend: str, change: Callable | None = None) -> None:
        """Have the backend's op, and all steps over it, run with the argument changed.

        The walk in Python takes the ops from the backend's module, where the one in C++ would not find the change.
        """
        module, index = BACKENDS[backend], arguments_of(self.op).index(self.argument)
        run, change = getattr(module, self.op), change or KINDS[self.kind][1]

        def wrong(*args):
            args = list(args)
            args[index] = change(args[index])
            return run(*args)

        monkeypatch.setattr(module, self.op, wrong)
        for name in ("linear", "linear_back", "pack"):  # eager: weights packed before would hide what is wrong of them
            monkeypatch.setattr(module, name, getattr(eager, name), raising=False)
        monkeypatch.setattr(module, "recurrence", partial(walk.forward, module))
        monkeypatch.setattr(module, "recurrence_backward", partial(walk.backward, module))


def every_mistake() -> list[Mistake]:
    ops = [*ARGUMENTS, *(f"{op}_backward" for op in OF_BACKWARD)]
    return [
        Mistake(op, argument, kind)
        for op in ops
        for kind, (arguments, _) in KINDS.items()
        for argument in arguments_of(op)
        if argument in arguments and (op, argument) != ("composition_backward", "mask_self")  # the attention has it
    ]


def dropped(x, *, p, seed, stream, backend):
    return (iprm_kernels.dropout(x, p, seed, stream, backend=backend),)


def dropped_by_definition(x, *, p, seed, stream):
    return (x * oracle.scaled_mask(x.shape, p, seed, stream, x.dtype),)


def case(op: str) -> tuple[Callable, Callable, Callable, dict]:
    """Of an op: the core, its definition, what makes its inputs, and options that use every argument."""
    drops = {"seed": SEED, "step": 3, "p_attention": RATE}
    looks = drops | {"p_product": RATE, "activation": "elu"}
    full, simple = test_execution.CORES["full"], test_execution.CORES["simple"]
    return {
        "dropout": (
            dropped, dropped_by_definition, lambda: {"x": torch.randn(40, 16)}, {"p": RATE, "seed": SEED, "stream": 5}
        ),
        "formation": (
            iprm_kernels.formation, oracle.formation, partial(test_formation.make, 2, 3, 13, 16),
            drops | {"mask": torch.rand(2, 13) > 0.4},
        ),
        "execution": (
            *full[:2], partial(full[2], 2, 3, 21, 16, 8), looks | {"mask": torch.rand(2, 21) > 0.4}
        ),
        "execution_simple": (
            *simple[:2], partial(simple[2], 2, 3, 21, 16, 8), looks | {"mask": torch.rand(2, 21) > 0.4}
        ),
        "composition": (
            iprm_kernels.composition, oracle.composition, partial(test_composition.make, 2, 4, 16, 2),
            drops | {"p_product": RATE, "p_value": RATE, "mask_self": True},
        ),
    }[op.removesuffix("_backward")]  # fmt: skip
