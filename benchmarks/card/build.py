"""Compiles the extensions in place, against the torch that is there: python -m benchmarks.card.build ENTRIES DEVICE.

An extension that loads with this torch and runs on the device is left as it is. CUDA code is compiled for the card
alone where TORCH_CUDA_ARCH_LIST names nothing else: a third of the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.card.record import ABSENT, BAD, GOOD, note
from iprm_kernels import info
from iprm_kernels.backends import reasons

ROOT = Path(__file__).resolve().parents[2]


def compile_for(device: str) -> int:
    """The exit status of the build, which installs nothing and fetches nothing."""
    environment = dict(os.environ)
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        environment.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    return subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, env=environment).returncode


def report(path: Path) -> None:
    """What can run, and why the rest cannot."""
    for device, found in info.record()["devices"].items():
        for backend, state in found["backends"].items():
            note(path, f"{backend} on {device}", GOOD[0] if state["usable"] else ABSENT, message=state["says"])


def main(path: Path, device: str, built: str = "") -> int:
    if built or reasons(device)[device] is None:  # the compiled backends are named after their devices
        report(path)
        return 0
    if status := compile_for(device):
        note(path, "setup.py build_ext", BAD[0], message=f"exit status {status}")
    # A fresh process: this one knows the build before.
    return subprocess.run([sys.executable, "-m", "benchmarks.card.build", str(path), device, "built"]).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
