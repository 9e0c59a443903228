"""The backends, and which of them serves a call.

A backend is a module with one function per op (`formation`, `formation_backward`, ...) and `unsupported`, which says
why it cannot serve a device and dtype, or None where it can.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from iprm_kernels import transforms
from iprm_kernels.autocast import without_autocast
from iprm_kernels.backends import cpu, cuda, eager
from iprm_kernels.backends.triton import ops as triton
from iprm_kernels.checks import check_choice, name_of

BACKENDS: dict[str, ModuleType] = {"triton": triton, "cuda": cuda, "cpu": cpu, "eager": eager}
"""Best first: "auto" takes the first that supports the call."""


def reasons(device: torch.device | str, dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """For each backend, best first, why it cannot serve this device and dtype; None where it can."""
    device = torch.device(device)
    return {name: backend.unsupported(device, dtype) for name, backend in BACKENDS.items()}


def select(name: str, op: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The backend that runs `op`: the named one, or for "auto" the best that supports the call.

    Raises:
        ValueError: no such backend.  RuntimeError: the named backend cannot run here, and why.
    """
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.unsupported(device, dtype) is None)
    check_choice("backend", name, ("auto", *BACKENDS))
    if reason := BACKENDS[name].unsupported(device, dtype):
        raise RuntimeError(f"backend {name!r} cannot run {op} for {name_of(dtype)} on {device}: {reason}")
    return BACKENDS[name]


def run(name: str, op: str, first: Tensor, *args):
    """Run `op` on the backend that `select` chooses by the first argument, which is always a tensor.

    Autocast has chosen the inputs' dtype before; inside the op it is off.
    """
    transforms.refuse_tangents(op)
    function = getattr(select(name, op, first.device, first.dtype), op)
    with without_autocast(first.device):
        return function(first, *args)


def implementation(op: str) -> Callable:
    """The implementation of a registered op whose last argument names the backend."""

    def call(*args):
        *args, backend = args
        return run(backend, op, *args)

    return call
