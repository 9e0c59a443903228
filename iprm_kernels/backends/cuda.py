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

import torch

from iprm_kernels.backends import compiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ON_HOST = "IPRM_CUDA_ON_HOST"


@functools.cache
def _load_on_host(path: str) -> tuple[ModuleType | None, str | None]:
    """The module at `path`, or None and why it cannot be had."""
    try:
        spec = importlib.util.spec_from_file_location(Path(path).name.partition(".")[0], path)
        if spec is None:
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
    kind, number, feature = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", architecture).groups()
    built = divmod(int(number), 10)
    if feature == "a":
        return capability == built
    return capability >= built and ((kind == "compute" and not feature) or capability[0] == built[0])


@functools.cache
def _unfit(index: int | None) -> str | None:
    """Why the extension's code does not run on this CUDA device, or None where it does."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability(index)
    architectures = extension().build_info()["architectures"]
    if any(runs_on(capability, architecture) for architecture in architectures):
        return None
    return f"built for {', '.join(architectures)}, and the device is sm_{capability[0]}{capability[1]}"


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve the device and dtype, or None where it can."""
    on_host = bool(os.environ.get(ON_HOST))
    if device.type != ("cpu" if on_host else "cuda"):
        return f"its kernels run on {'the CPU' if on_host else 'CUDA devices'}, not on {device.type}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return load()[1] or (None if on_host else _unfit(device.index))


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
