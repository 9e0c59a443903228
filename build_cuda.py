"""How the CUDA kernels are compiled: the toolkit, the architectures and the flags.

setup.py builds iprm_kernels._cuda with it, and benchmarks/cuda_static.py compiles the same code for a look at it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

SOURCES = "csrc/cuda"
FLAGS = ["-O3", "-std=c++17", "-Xcompiler=-fvisibility=hidden"]
"""Beside those that torch compiles all CUDA code with."""
ARCHITECTURES = ("8.0", "9.0", "10.0")
"""What is built for by default: PTX of the last, and machine code of each, as far as nvcc knows them."""
LEAST = 80
"""mma of bfloat16 and cp.async came with sm_80."""


class Obstacle(Exception):
    """Why the kernels cannot be compiled here."""


@cache
def output(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Obstacle(f"{error} {getattr(error, 'stderr', '')}".strip()) from error
    return run.stdout + run.stderr


@cache
def home() -> Path:
    """The toolkit's folder, which nvcc itself says: the one on PATH may be a script that calls another."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = Path(named, "bin", "nvcc") if named else Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    if not nvcc.exists():
        place = f"not at {nvcc}" if named else "not on PATH, not in /usr/local/cuda, and CUDA_HOME not set"
        raise Obstacle(f"no nvcc was found: {place}")
    top = re.search(r"^#\$ TOP=(.+?)\s*$", output(str(nvcc), "--dryrun", "-E", "-x", "cu", os.devnull), re.MULTILINE)
    return Path(top[1]).resolve() if top else nvcc.parents[1]


def nvcc() -> str:
    """The compiler."""
    return str(home() / "bin/nvcc")


def nvcc_version() -> str:
    """`13.0.88`"""
    return re.search(r"\bV([\d.]+)", output(nvcc(), "--version"))[1]


def known() -> list[str]:
    """The architectures that nvcc compiles to machine code: `sm_80`, ..."""
    return re.findall(r"\bsm_\d+[af]?\b", output(nvcc(), "--list-gpu-code"))


def default_targets() -> list[str]:
    """`sm_80`, `sm_90`, `sm_100` and `compute_100`, trimmed to what nvcc knows."""
    targets = [name for name in (f"sm_{a.replace('.', '')}" for a in ARCHITECTURES) if name in known()]
    return [*targets, *(name.replace("sm_", "compute_") for name in targets[-1:])]


def targets() -> list[str]:
    """What to compile for: TORCH_CUDA_ARCH_LIST as torch reads it, without what is too old, or the default."""
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        from torch.utils.cpp_extension import _get_cuda_arch_flags

        try:
            flags = _get_cuda_arch_flags()
        except Exception as error:
            raise Obstacle(f"TORCH_CUDA_ARCH_LIST={chosen!r}: {error}") from error
        found = [re.search(r",code=(\w+)", flag)[1] for flag in flags]
    else:
        found = default_targets()
    kept = [target for target in found if int(re.search(r"\d+", target)[0]) >= LEAST]
    if not kept:
        wanted = f"TORCH_CUDA_ARCH_LIST={chosen!r}" if chosen else f"nvcc {nvcc_version()}"
        raise Obstacle(f"the kernels need compute capability 8.0 or more, which {wanted} does not go up to")
    return kept


def code_flag(target: str) -> str:
    """The flag that asks for `sm_80` or `compute_100`."""
    return f"-gencode=arch={target.replace('sm_', 'compute_')},code={target}"


def flags() -> list[str]:
    """All flags but for the architecture."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    return [*COMMON_NVCC_FLAGS, *FLAGS]


def check_versions() -> None:
    """Raise Obstacle unless torch is built for CUDA of nvcc's major version."""
    import torch

    if torch.version.cuda is None:
        raise Obstacle(f"torch {torch.__version__} was built without CUDA")
    if torch.version.cuda.split(".")[0] != nvcc_version().split(".")[0]:
        raise Obstacle(
            f"nvcc is of CUDA {nvcc_version()} and torch {torch.__version__} of CUDA {torch.version.cuda}: "
            "their major versions must be the same"
        )
