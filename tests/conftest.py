"""Shared fixtures: the backends that can run here, and the seed of every test."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from seeds import SEED

from iprm_kernels.backends import BACKENDS


def pytest_report_header(config):
    usable = [name for name, backend in BACKENDS.items() if not backend.unsupported(torch.device("cpu"), torch.float32)]
    run = f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed {SEED}"
    return f"{run}, backends on the CPU: {', '.join(usable)}"


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(SEED)


@pytest.fixture(params=list(BACKENDS))
def backend(request) -> str:
    """Each backend by name; skipped, with its reason, where it cannot run."""
    if reason := BACKENDS[request.param].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def threads():
    """Set the number of threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def inductor() -> None:
    """Where torch's inductor has a C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        pytest.skip("inductor needs a C++ compiler")
