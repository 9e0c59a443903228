"""The Triton kernels, for CUDA devices, which are AMD's where torch is built for ROCm; under TRITON_INTERPRET=1 also
for the CPU, one program after the other.

Triton and the kernels are imported on first use. The kernels launch on the current stream and never wait for it; the
dropout seed is read by the kernels. A CUDA graph can be captured once each kernel has run, and been tuned, before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends import devices, eager
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.backends.triton import configs
from iprm_kernels.steps import walk

LEAST_VERSION = (3, 4)
"""The oldest that the kernels are checked with. 3.2 knows no tuples of pointers, which are how composition gets its
window."""
LEAST_CAPABILITY = (8, 0)
"""The least that Triton compiles for, and the first with tensor cores for bfloat16 and with asynchronous copies."""
MOST_TOKENS = 2**24 - 1
"""The kernels of execution divide 32-bit numbers up to N times the largest tile, see `pairs.locate`."""
MOST_BLOCKS = 16
"""Of a window: the kernels of composition are written out for each state in it; with 16 the compiler takes minutes."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ROOMS = {
    "dropout": "dropout",
    "formation": "formation",
    "formation_backward": "formation",
    "execution": "execution",
    "execution_backward": "execution",
    "execution_simple": "execution",
    "execution_simple_backward": "execution",
    "composition": "composition",
    "composition_backward": "composition",
}


@functools.cache
def _missing() -> str | None:
    """Why Triton cannot be imported, or None; it is not imported to find out."""
    try:
        spec = importlib.util.find_spec("triton")
    except (ImportError, ValueError):
        spec = None
    return None if spec and spec.origin else "triton is not installed"  # a mere folder of that name has no origin


@functools.cache
def version() -> tuple[int, int] | str:
    """Triton's version, or why it does not load. This imports Triton."""
    try:
        numbers = importlib.import_module("triton").__version__.split(".")
    except ImportError as error:
        return f"triton does not load: {error}"
    return int(numbers[0]), int(numbers[1])


def _too_old() -> str | None:
    """Why this version of Triton does not serve, or None where it does."""
    found = version()
    if isinstance(found, str):
        return found
    written = ".".join(map(str, LEAST_VERSION))
    return f"triton {found[0]}.{found[1]} is installed, and {written} is the least" if found < LEAST_VERSION else None


def _unfit(device: torch.device) -> str | None:
    """Why the kernels do not run on a CUDA device, or None where they do."""
    if reason := devices.obstacle(device):
        return reason
    card = devices.card(device)
    if card.amd or card.capability >= LEAST_CAPABILITY:
        return None
    least, found = (".".join(map(str, numbers)) for numbers in (LEAST_CAPABILITY, card.capability))
    return f"the device has compute capability {found}, and Triton compiles for {least} and later"


def _too_large(call: Call) -> str | None:
    """Why the kernels do not run a call of these sizes, or None where they do."""
    if call.N > MOST_TOKENS:
        return f"N = {call.N} visual tokens, of {MOST_TOKENS} at most"
    if call.blocks > MOST_BLOCKS:
        return f"a window of {call.blocks} states, of {MOST_BLOCKS} at most"
    return None


def unsupported(device: torch.device, dtype: torch.dtype, call: Call = ANY) -> str | None:
    """Why this backend cannot serve the device, dtype and call, or None where it can. Triton is imported only where all
    else is right."""
    if reason := _missing():
        return reason
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"its kernels run on CUDA devices, not on {device.type} (but for TRITON_INTERPRET=1 on the CPU)"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return (None if interpreted else _unfit(device)) or _too_old() or _too_large(call)


def limits(device: torch.device) -> str:
    """What it serves on the device, in words."""
    amd = device.type == "cuda" and devices.card(device).amd
    caution = "; on AMD's cards compiled ahead of time, never run" if amd else ""
    return f"any R; up to {MOST_TOKENS} visual tokens; windows of up to {MOST_BLOCKS} states{caution}"


@functools.cache
def _launches(name: str) -> Callable[..., Any]:
    """The function that launches the op `name`; its room is imported."""
    return getattr(importlib.import_module(f"{__package__}.{_ROOMS[name]}"), name)


def _op(name: str) -> Callable[..., Any]:
    """The op `name`, on the device of its first argument."""

    def run(first: Tensor, *args: Any) -> Any:
        if first.is_cuda and first.device.index != torch.cuda.current_device():
            with torch.cuda.device(first.device):
                return _launches(name)(first, *args)
        return _launches(name)(first, *args)

    run.__name__ = name
    return run


dropout = _op("dropout")
formation = _op("formation")
formation_backward = _op("formation_backward")
execution = _op("execution")
execution_backward = _op("execution_backward")
execution_simple = _op("execution_simple")
execution_simple_backward = _op("execution_simple_backward")
composition = _op("composition")
composition_backward = _op("composition_backward")

# What the recurrence is made of besides: dense products are the library's, as in the definition.
linear = eager.linear
linear_back = eager.linear_back
pack = eager.pack
working_dtype = eager.working_dtype


def pair_unit(R: int, dtype: torch.dtype) -> int:
    """Pairs are kept as they are, where programs of the backward chain hold all columns."""
    return int(configs.is_fused("chain_backward", R, dtype))


@functools.cache
def _cores() -> SimpleNamespace:
    """The same for the walk over the steps, whose ops need not look for the device each."""
    own = {name: _launches(name) for name in _ROOMS}
    return SimpleNamespace(linear=linear, linear_back=linear_back, pack=pack, pair_unit=pair_unit, **own)


def recurrence(memory: Tensor, *args: Any) -> walk.Outputs:
    with torch.cuda.device_of(memory):
        return walk.forward(_cores(), memory, *args)


def recurrence_backward(grad: Tensor, *args: Any) -> walk.Gradients:
    with torch.cuda.device_of(grad):
        return walk.backward(_cores(), grad, *args)
