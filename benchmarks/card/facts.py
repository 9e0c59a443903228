"""What a run is on: the card, or the processor where there is none, versions and tools, as JSON on standard output."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import build_cuda
from benchmarks.conditions import cpu_model, device_name, version
from iprm_kernels import info

TOOLS = ("pytest", "triton", "ninja", "setuptools")


def driver() -> str | None:
    """Its version, as nvidia-smi tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if not shutil.which(command[0]):
        return None
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().partition("\n")[0] or None


def card() -> dict[str, Any]:
    """The first device that torch finds."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": torch.cuda.get_device_name(0),
        "kind": "cuda",
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": driver(),
    }


def nvcc() -> str | None:
    """Its version, or None where there is none."""
    try:
        return build_cuda.nvcc_version()
    except build_cuda.Obstacle:
        return None


def compiler() -> str | None:
    """The name of the C++ compiler, where it is there."""
    name = os.environ.get("CXX", "c++").split()[0]
    return Path(name).name if shutil.which(name) else None


def facts() -> dict[str, Any]:
    """All of it. A tool that is missing is null."""
    found = torch.cuda.is_available() and not torch.version.hip
    return {
        "device": card() if found else {"name": device_name("cpu"), "kind": "cpu"},
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "versions": info.versions(),
        "tools": {name: version(name) if importlib.util.find_spec(name) else None for name in TOOLS}
        | {"nvcc": nvcc(), "C++ compiler": compiler()},
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
