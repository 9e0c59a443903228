"""The native CPU kernels: the compiled extension iprm_kernels._C, loaded on first use."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends import compiled, native
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.steps.walk import Gradients, Outputs

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load() -> tuple[ModuleType | None, str | None]:
    """The extension, or None and why it cannot be had."""
    return compiled.load("cpu", "iprm_kernels._C")


def unsupported(device: torch.device, dtype: torch.dtype, call: Call = ANY) -> str | None:
    """Why this backend cannot serve the device and dtype, or None where it can: it serves all sizes."""
    if device.type != "cpu":
        return f"its kernels run on the CPU, not on {device.type}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return load()[1]


def warn_if_lost() -> None:
    """See `compiled.warn_if_lost`."""
    compiled.warn_if_lost("cpu", "iprm_kernels._C", "native CPU")


def limits(device: torch.device) -> str:
    """What it serves on the device, in words."""
    return "any sizes"


def extension() -> ModuleType:
    """The extension, see `compiled.usable`."""
    return compiled.usable(load(), "native CPU")


def table_for_rows(dtype: torch.dtype) -> str:
    """The table of kernels that products of many rows of this dtype are of; without the extension, its likely name."""
    found = load()[0]
    if found is None:
        return torch.backends.cpu.get_cpu_capability().lower()
    of_bfloat16 = found.bfloat16_capability()
    own = dtype == torch.bfloat16 and of_bfloat16.endswith("_bf16")
    return of_bfloat16 if own else found.cpu_capability()


_op = functools.partial(compiled.op, extension)
dropout = _op("dropout")
formation = _op("formation")
formation_backward = _op("formation_backward")
execution_simple = _op("execution_simple")
execution_simple_backward = _op("execution_simple_backward")
composition = _op("composition")
composition_backward = _op("composition_backward")


def linear(x: Tensor, weight: Tensor, c: Tensor | None = None) -> Tensor:
    """x weightᵀ + c, without a graph and without regard to autocast.

    Where rows are few, by kernels that read the weight where it lies; else by kernels that pack it, with the same bits
    for any number of threads; on processors without AVX2 by the library, unless the weight is small.

    Args:
        x: (..., I) float32 or float64.
        weight: (O, I); rows with unit stride, in whatever distance, are not copied.
        c: (O,), a bias; or (..., O), added.
    Returns: (..., O), new and contiguous.
    Raises:
        ValueError: an argument has another shape, dtype or device; which, what was expected, and what came.
    """
    return extension().linear(x, weight, c)


def linear_back(y: Tensor, weight: Tensor, c: Tensor | None = None) -> Tensor:
    """y weight + c, from y (..., O) and weight (O, I) to (..., I), with c (I,) or (..., I); else as `linear`."""
    return extension().linear_back(y, weight, c)


def pack(C1a: Tensor, C2: Tensor, tokens: int, backward: bool = True) -> tuple[Tensor, ...]:
    """The weights in the forms that the products of `execution` read, to give to many calls as their last arguments.

    Args:
        C1a, C2: (R, R).
        tokens: N of those calls.
        backward: whether `execution_backward` will be called too; without, there are half as many forms.
    Returns: opaque tensors, for this process alone.
    Raises:
        ValueError: a weight has another shape, dtype or device.
    """
    return tuple(extension().pack(C1a, C2, tokens, backward))


def execution(*args: Any) -> tuple[Tensor, Tensor]:
    """The op, and behind its 15 arguments, if they were made, the weights of `pack`."""
    return extension().execution(*args[:15], args[15:], [])


def execution_backward(*args: Any) -> tuple[Tensor, ...]:
    """The op, and behind its 18 arguments, if they were made, the weights of `pack`."""
    return extension().execution_backward(*args[:18], args[18:], [])


def pair_unit(R: int, dtype: torch.dtype) -> int:
    """What R is rounded up to where pairs are kept (csrc/cpu/kernels.h)."""
    return 32


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the recurrence computes in, and keeps its rows in: 16 bits are widened once, not in every step."""
    return accumulator(dtype)


def recurrence(O: Tensor, *args: Any) -> Outputs:
    if O.dtype == accumulator(O.dtype):
        return native.forward(extension(), pair_unit, O, *args)
    found = native.forward(widening(O.dtype), pair_unit, *widened([O, *args]))
    memory_O, memory_E, a_language, a_visual, a_operations, tensors = found
    return memory_O.to(O.dtype), memory_E.to(O.dtype), a_language, a_visual, a_operations, tensors


def recurrence_backward(grad_O: Tensor, *args: Any) -> Gradients:
    if grad_O.dtype == accumulator(grad_O.dtype):
        return native.backward(extension(), pair_unit, grad_O, *args)
    *first, of_weights = native.backward(widening(grad_O.dtype), pair_unit, *widened([grad_O, *args]))
    dO, dE, dX, dV = (d.to(grad_O.dtype) for d in first)
    return dO, dE, dX, dV, [d.to(grad_O.dtype) for d in of_weights]


def widening(dtype: torch.dtype) -> Any:
    """The recurrence of float32 tensors that hold numbers of this dtype: products of bfloat16 may be its own."""
    return extension().bfloat16 if dtype == torch.bfloat16 else extension()


def widened(args: Any) -> Any:
    """The floating tensors among the arguments, and in lists of them, in the accumulator's dtype."""
    if isinstance(args, list):
        return [widened(arg) for arg in args]
    return args.to(accumulator(args.dtype)) if isinstance(args, Tensor) and args.is_floating_point() else args
