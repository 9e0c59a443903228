"""The conditions a figure was measured under: what it ran on, with which versions, at which sizes."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.points import Point
from iprm_kernels.precision import float32_products


@lru_cache
def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The installed version, None where it is not installed. Imports nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's with the vector instructions that PyTorch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()} ({torch.backends.cpu.get_cpu_capability()})"


def conditions(point: Point) -> dict:
    """All that a reader needs to judge a figure, or to measure it again."""
    return {
        "sizes": point.as_dict(),
        "machine": {
            "device": device_name(point.device),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "float32_products": float32_products(torch.device(point.device).type),
            "load": round(os.getloadavg()[0], 1),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": version("triton"),
            "cuda": torch.version.cuda,
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
