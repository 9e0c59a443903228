"""Where these tests run: on a CUDA device, or interpreted on the CPU (TRITON_INTERPRET=1, see test_interpreter.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from device_cores import on, poisoned  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))  # of `benchmarks`, whose tables are held to the kernels
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for on a device
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    pytest.importorskip("triton.language")
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_interpreter.py runs this interpreted")
    return torch.device("cuda")


@pytest.fixture
def interpreted() -> None:
    """Only under the interpreter."""
    if not INTERPRETED:
        pytest.skip("for the interpreter: test_interpreter.py runs it")


@pytest.fixture
def backend() -> str:
    return "triton"
