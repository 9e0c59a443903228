"""The CUDA C++ kernels: the compiled extension iprm_kernels._cuda, for CUDA devices, loaded on first use.

IPRM_CUDA_ON_HOST names a module of the same kernels compiled for the CPU, as the tests build it: then that is loaded,
and serves CPU tensors. The kernels launch on the current stream and never wait for it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from iprm_kernels.backends import at_once, compiled, devices, eager, native
from iprm_kernels.backends.calls import ANY, Call
from iprm_kernels.checks import name_of
from iprm_kernels.steps.walk import Gradients, Outputs
from iprm_kernels.steps.weights import Options, Weights, options_of, unflattened

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ON_HOST = "IPRM_CUDA_ON_HOST"


@functools.cache
def _load_on_host(path: str) -> tuple[ModuleType | None, str | None]:
    """The module at `path`, or None and why it cannot be had."""
    try:
        spec = importlib.util.spec_from_file_location(Path(path).name.partition(".")[0], path)
        if spec is None or spec.loader is None:
            return None, f"{ON_HOST}: {path} is not a module"
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        return None, f"{ON_HOST}: {path} does not load: {error}"
    return module, None


def load() -> tuple[ModuleType | None, str | None]:
    """The extension, or None and why it cannot be had."""
    if path := os.environ.get(ON_HOST):
        return _load_on_host(path)
    return compiled.load("cuda", "iprm_kernels._cuda")


def runs_on(capability: tuple[int, int], architecture: str) -> bool:
    """Whether code for `architecture`, such as sm_80, sm_90a or compute_100, runs on a device.

    Machine code runs on the devices of its major version from its minor version on, PTX (compute_) on all later ones,
    and what uses features of one architecture (a) on that alone.
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", architecture)
    kind, number, feature = found.groups()  # pyright: ignore[reportOptionalMemberAccess] - the build writes no others
    built = divmod(int(number), 10)
    if feature == "a":
        return capability == built
    return capability >= built and ((kind == "compute" and not feature) or capability[0] == built[0])


@functools.cache
def _unfit(module: ModuleType, card: devices.Card) -> str | None:
    """Why the extension's code does not run on a card, or None where it does."""
    architectures = module.build_info()["architectures"]
    if any(runs_on(card.capability, architecture) for architecture in architectures):
        return None
    return f"built for {', '.join(architectures)}, and the device is {devices.name_of(card.architecture)}"


def _shared(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for on a device that the kernels run on."""
    return extension().shared_limit() if os.environ.get(ON_HOST) else devices.card(device).shared


def _too_large(call: Call, dtype: torch.dtype, shared: int) -> str | None:
    """Why the kernels do not run a call where a block may have so many bytes of shared memory. The figures are those
    that the launches are made with."""
    module = extension()
    if call.R and not (call.op or "").startswith("execution_simple"):
        widest = module.most_width(dtype, shared)
        if widest < call.R:
            return f"R = {call.R}, of {widest} at most in {name_of(dtype)} with {shared} bytes of shared memory a block"
    if call.blocks > module.MOST_BLOCKS:
        return f"a window of {call.blocks} states, of {module.MOST_BLOCKS} at most"
    return None


def _too_large_at_once(call: Call, dtype: torch.dtype, shared: int) -> str | None:
    """Why a call of the recurrence that the kernels run is too large for the one launch."""
    columns = call.K * call.blocks
    needed = extension().steps_shared(dtype, call.R, columns)
    if needed <= shared:
        return None
    return (
        f"all steps at once take {needed} bytes of shared memory a block with {columns} columns of the window"
        f" (K (1 + W)), and the device has {shared}"
    )


def unsupported(device: torch.device, dtype: torch.dtype, call: Call = ANY) -> str | None:
    """Why this backend cannot serve the device, dtype and call, or None where it can."""
    on_host = bool(os.environ.get(ON_HOST))
    if device.type != ("cpu" if on_host else "cuda"):
        return f"its kernels run on {'the CPU' if on_host else 'CUDA devices'}, not on {device.type}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    if torch.version.hip and not on_host:
        return f"its kernels are for NVIDIA's cards, and torch is built for AMD's, ROCm {torch.version.hip}"
    if reason := load()[1]:
        return reason
    unfit = None if on_host else devices.obstacle(device) or _unfit(extension(), devices.card(device))
    return unfit or _too_large(call, dtype, _shared(device))


def limits(device: torch.device) -> str:
    """What it serves on a device that it supports, in words."""
    module, shared = extension(), _shared(device)
    widest = ", ".join(f"{module.most_width(dtype, shared)} in {name_of(dtype)}" for dtype in DTYPES)
    blocks = f"windows of up to {module.MOST_BLOCKS} states"
    fits = [n for n in range(module.MOST_STEP_COLUMNS + 1) if module.steps_shared(DTYPES[0], 0, n) <= shared]
    return f"R up to {widest}; {blocks}; all steps at once with up to {max(fits, default=0)} columns K (1 + W)"


def extension() -> ModuleType:
    """The extension, see `compiled.usable`."""
    return compiled.usable(load(), "CUDA")


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

working_dtype = eager.working_dtype
pair_unit = eager.pair_unit


def not_at_once(weights: Weights, options: Options, O: Tensor, language: Tensor) -> str | None:
    """Why a call without gradients is not one launch for all steps, or None where it is."""
    (B, K, _), L = O.shape, language.shape[1]
    call = Call("recurrence", K=K, R=weights.reduced, blocks=1 + options.window)
    return (
        at_once.refusal(weights, options, B, K, L)
        or unsupported(O.device, O.dtype, call)
        or _too_large_at_once(call, O.dtype, _shared(O.device))
    )


def takes_all_steps(O: Tensor, language: Tensor, weights: list[Tensor], maps: str, options: list[Any]) -> bool:
    """Whether a call of the recurrence without gradients is one launch for all steps."""
    if unsupported(O.device, O.dtype):
        return False
    return not_at_once(unflattened(weights, maps), options_of(*options), O, language) is None


def recurrence(
    O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor, visual_mask: Tensor | None,
    weights: list[Tensor], maps: str, seed: Tensor | None, *options_and_keep: Any,
) -> Outputs:  # fmt: skip
    *options, keep = options_and_keep
    w, o = unflattened(weights, maps), options_of(*options)
    if keep or not_at_once(w, o, O, language):
        inputs = (O, E, language, language_mask, visual, visual_mask, weights, maps, seed)
        return native.forward(extension(), pair_unit, *inputs, *options_and_keep)
    args = at_once.arguments(O, E, language, language_mask, visual, visual_mask, w, o)
    operations, results, a_language, a_visual, a_operations = extension().steps(*args)
    return operations[-1].clone(), results[-1].clone(), a_language, a_visual, a_operations, []


def recurrence_backward(*args: Any) -> Gradients:
    return native.backward(extension(), pair_unit, *args)
