"""The backends, and which of them serves a call.

A backend is a module with one function per op (`formation`, `formation_backward`, ...); `unsupported`, which says why
it cannot serve a device, dtype and call, or None where it can; and `limits`, which says in words what it serves there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from iprm_kernels import transforms
from iprm_kernels.autocast import without_autocast
from iprm_kernels.backends import cpu, cuda, eager
from iprm_kernels.backends.calls import Call, call_of
from iprm_kernels.backends.triton import ops as triton_ops  # `triton` here is the subpackage
from iprm_kernels.checks import check_choice, name_of

BACKENDS: dict[str, ModuleType] = {"triton": triton_ops, "cuda": cuda, "cpu": cpu, "eager": eager}
"""Best first: "auto" takes the first that supports the call, in the order of `candidates`."""

HOST_BOUND = {2: 2**34, 4: 2**30}
"""B·K·N·R² of a step, by the bytes of a number, up to which a card waits for the host that walks Triton's launches in
Python, which takes three times as long as the walk of the CUDA backend in C++: docs/backends.md has the counts."""


def reasons(
    device: torch.device | str, dtype: torch.dtype = torch.float32, op: str | None = None, **sizes: int
) -> dict[str, str | None]:
    """For each backend, best first, why it cannot serve this device, dtype and call; None where it can.

    Args:
        op: a registered op, such as "execution" or "composition_backward"; None asks about all of them.
        sizes: B, K, L, N, D, R and blocks (1 + W), as far as they are known, see `calls.Call`:
            `reasons("cuda", torch.bfloat16, R=512, K=6)`.
    Raises:
        ValueError: no such size.
    """
    for size in sizes:
        check_choice("sizes", size, Call._fields[1:])
    device, call = torch.device(device), Call(op, **sizes)
    return {name: refusal(name, device, dtype, call) for name in candidates(call, dtype)}


def refusal(name: str, device: torch.device, dtype: torch.dtype, call: Call) -> str | None:
    """Why the backend of this name cannot serve the call, or None where it can."""
    if call.op is not None and not hasattr(BACKENDS[name], call.op):
        return f"the {name} backend has no kernel for {call.op}"
    return BACKENDS[name].unsupported(device, dtype, call)


def candidates(call: Call, dtype: torch.dtype) -> list[str]:
    """The backends in the order in which "auto" asks them about a call."""
    names = list(BACKENDS)
    if call.op in ("recurrence", "recurrence_backward"):
        work = call.B * call.K * call.N * (call.R or 64) ** 2  # execution = "simple" has no products of pairs
        if work <= HOST_BOUND.get(dtype.itemsize, 0):
            names.sort(key=lambda name: name != "cuda")
    return names


def select(name: str, call: Call, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The backend that runs the call of an op: the named one, or for "auto" the best that supports it.

    Raises:
        ValueError: no such backend.  RuntimeError: the named backend, or none at all, can run the call, and why.
    """
    check_choice("backend", name, ("auto", *BACKENDS))
    found: dict[str, str | None] = {}
    for candidate in candidates(call, dtype) if name == "auto" else [name]:
        found[candidate] = refusal(candidate, device, dtype, call)
        if found[candidate] is None:
            if candidate == "eager" and name == "auto" and device.type == "cpu":
                cpu.warn_if_lost()
            return BACKENDS[candidate]
    why = found[name] if name != "auto" else "; ".join(f"{key}: {reason}" for key, reason in found.items())
    raise RuntimeError(f"backend {name!r} cannot run {call.op} for {name_of(dtype)} on {device}: {why}")


def of_recurrence(name: str, like: Tensor, args: Sequence[Any]) -> ModuleType:
    """The backend whose recurrence runs on the device of `like` with these arguments. "auto" goes by their sizes on a
    card alone: elsewhere they may be open, and a look would settle them."""
    call = call_of("recurrence", args) if like.is_cuda else Call("recurrence")
    return select(name, call, like.device, like.dtype)


def run(name: str, op: str, first: Tensor, *args: Any) -> Any:
    """Run `op` on the backend that `select` chooses by the first argument, which is always a tensor, and the sizes.

    Autocast has chosen the inputs' dtype before; inside the op it is off.
    """
    transforms.refuse_tangents(op)
    function = getattr(select(name, call_of(op, (first, *args)), first.device, first.dtype), op)
    with without_autocast(first.device):
        return function(first, *args)


def implementation(op: str) -> Callable[..., Any]:
    """The implementation of a registered op whose last argument names the backend."""

    def call(*args: Any) -> Any:
        *given, backend = args
        return run(backend, op, *given)

    return call
