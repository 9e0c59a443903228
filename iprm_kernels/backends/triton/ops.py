"""The Triton kernels, for CUDA devices; under TRITON_INTERPRET=1 also for the CPU, one program after the other.

Triton and the kernels are imported on first use. The kernels launch on the current stream and never wait for it; the
dropout seed is read by the kernels. A CUDA graph can be captured once each kernel has run, and been tuned, before.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os

import torch

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


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve the device and dtype, or None where it can."""
    if reason := _missing():
        return reason
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"its kernels run on CUDA devices, not on {device.type} (but for TRITON_INTERPRET=1 on the CPU)"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return None


def _op(name: str):
    """The op `name`, its room imported when it first runs."""

    def run(first, *args):
        function = getattr(importlib.import_module(f"{__package__}.{_ROOMS[name]}"), name)
        with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
            return function(first, *args)

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
