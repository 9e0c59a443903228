"""The native CPU kernels: the compiled extension iprm_kernels._C, loaded on first use."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import torch
from torch import Tensor

from iprm_kernels.backends import compiled
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.backends.eager import accumulator, linear, linear_back, pack
from iprm_kernels.steps import walk

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


def limits(device: torch.device) -> str:
    """What it serves on the device, in words."""
    return "any sizes"


def extension() -> ModuleType:
    """The extension, see `compiled.usable`."""
    return compiled.usable(load(), "native CPU")


_op = functools.partial(compiled.op, extension)
dropout = _op("dropout")
formation = _op("formation")
formation_backward = _op("formation_backward")
execution = _op("execution")
execution_backward = _op("execution_backward")
execution_simple = _op("execution_simple")
execution_simple_backward = _op("execution_simple_backward")
composition = _op("composition")
composition_backward = _op("composition_backward")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the recurrence computes in, and keeps its rows in: 16 bits are widened once, not in every step."""
    return accumulator(dtype)


def recurrence(O: Tensor, *args):
    memory_O, memory_E, *rest = walk.forward(sys.modules[__name__], *widened([O, *args]))
    return memory_O.to(O.dtype), memory_E.to(O.dtype), *rest


def recurrence_backward(grad_O: Tensor, *args):
    *first, of_weights = walk.backward(sys.modules[__name__], *widened([grad_O, *args]))
    return *(d.to(grad_O.dtype) for d in first), [d.to(grad_O.dtype) for d in of_weights]


def widened(args: list) -> list:
    """The floating tensors among the arguments, and in lists of them, in the accumulator's dtype."""
    if isinstance(args, list):
        return [widened(arg) for arg in args]
    return args.to(accumulator(args.dtype)) if isinstance(args, Tensor) and args.is_floating_point() else args
