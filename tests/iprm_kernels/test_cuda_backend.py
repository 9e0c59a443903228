"""When the CUDA backend serves a call, and what it says where it cannot; no device is needed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

import pytest
import torch

from iprm_kernels.backends import compiled, cuda

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def not_on_host(monkeypatch):
    monkeypatch.delenv("IPRM_CUDA_ON_HOST", raising=False)


@pytest.mark.parametrize(
    ("capability", "architecture", "runs"),
    [
        ((8, 0), "sm_80", True),
        ((8, 6), "sm_80", True),
        ((9, 0), "sm_80", False),
        ((8, 0), "sm_86", False),
        ((9, 0), "sm_90a", True),
        ((10, 0), "sm_100", True),
        ((12, 0), "sm_100", False),
        ((12, 0), "compute_100", True),
        ((9, 0), "compute_100", False),
        ((10, 3), "compute_100f", True),
        ((12, 0), "compute_100f", False),
        ((12, 0), "compute_100a", False),
    ],
)
def test_code_runs_on(capability, architecture, runs):
    assert cuda.runs_on(capability, architecture) is runs


def test_cpu_tensors_are_not_served():
    assert cuda.unsupported(CPU, torch.float32) == "its kernels run on CUDA devices, not on cpu"


def test_float64_is_not_served():
    assert cuda.unsupported(GPU, torch.float64) == "it has no kernels for torch.float64"


def test_a_build_that_was_left_out_says_why(monkeypatch):
    monkeypatch.setattr(compiled, "build_records", lambda: {"cuda": {"extension": False, "reason": "no nvcc"}})
    compiled.load.cache_clear()
    assert cuda.unsupported(GPU, torch.float32) == "no nvcc"
    with pytest.raises(RuntimeError, match="the CUDA kernels cannot be used: no nvcc"):
        cuda.dropout(torch.ones(1), 0.5, None, 0)
    compiled.load.cache_clear()


def test_without_a_device_it_says_so(monkeypatch):
    monkeypatch.setattr(cuda, "load", lambda: (object(), None))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cuda.unsupported(GPU, torch.float32) == "torch finds no CUDA device"


def test_a_device_beyond_the_last_is_named(monkeypatch):
    monkeypatch.setattr(cuda, "load", lambda: (object(), None))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cuda.unsupported(torch.device("cuda", 2), torch.float32) == "torch finds 2 CUDA devices"


def test_a_module_for_the_host_that_does_not_load_is_named(monkeypatch, tmp_path):
    path = tmp_path / f"none{sysconfig.get_config_var('EXT_SUFFIX')}"
    monkeypatch.setenv("IPRM_CUDA_ON_HOST", str(path))
    assert f"IPRM_CUDA_ON_HOST: {path} does not load" in cuda.unsupported(CPU, torch.float32)
    assert cuda.unsupported(GPU, torch.float32) == "its kernels run on the CPU, not on cuda"


def test_the_extension_loads_without_a_device():
    """Where it was built: in a process that sees no device, driver or not."""
    record = compiled.build_record("cuda")
    if not record["extension"]:
        assert not record["reason"].startswith("compiling failed"), record["reason"]
        pytest.skip(f"iprm_kernels._cuda: {record['reason']}")
    program = "import torch, iprm_kernels._cuda as m; print(m.build_info()); assert not torch.cuda.is_initialized()"
    run = subprocess.run(
        [sys.executable, "-c", program], env={"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "architectures" in run.stdout
