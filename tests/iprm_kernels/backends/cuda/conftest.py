"""Where these tests run: on a CUDA device, or on the CPU with the module that IPRM_CUDA_ON_HOST names (see
tests/cuda_on_host)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import pytest
import torch
from device_cores import on, poisoned  # noqa: F401

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for on a device
ON_HOST = bool(os.environ.get("IPRM_CUDA_ON_HOST"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    from iprm_kernels.backends import cuda

    found = torch.device("cpu" if ON_HOST else "cuda")
    if reason := cuda.unsupported(found, torch.float32):
        assert not ON_HOST, reason
        pytest.skip(f"{reason}; tests/cuda_on_host runs this on the CPU")
    return found


@pytest.fixture
def on_host(device) -> None:
    """Only on the CPU."""
    if not ON_HOST:
        pytest.skip("for the CPU: tests/cuda_on_host runs it")


@pytest.fixture
def backend() -> str:
    return "cuda"


@pytest.fixture
def answers(device, monkeypatch) -> list[str | None]:
    """Each time that the backend is asked why a call is not one launch for all steps, what it says."""
    from iprm_kernels.backends import cuda

    found, ask = [], cuda.not_at_once

    def asked(*args):
        found.append(ask(*args))
        return found[-1]

    monkeypatch.setattr(cuda, "not_at_once", asked)
    return found


@pytest.fixture
def launches(on_host) -> Callable[[], int]:
    """How many kernels were launched until now."""
    count = ctypes.CDLL(os.environ["IPRM_CUDA_ON_HOST"]).iprm_on_host_launches
    count.restype = ctypes.c_uint64
    return count
