"""`python -m iprm_kernels.info` says what is installed, what was built and why a backend cannot run."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from iprm_kernels import info
from iprm_kernels.backends import BACKENDS, cpu, cuda


def test_report_names_versions_and_every_backend():
    sections = info.report()
    assert sections["versions"]["torch"] == torch.__version__
    (states,) = (facts for title, facts in sections.items() if title.startswith("backends on cpu"))
    assert list(states) == list(BACKENDS)
    assert states["eager"] == "usable: any sizes"


def test_a_missing_extension_is_explained(monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: (None, "no C++ compiler"))
    sections = info.report()
    assert sections["CPU extension"] == {"not usable": "no C++ compiler"}
    (states,) = (facts for title, facts in sections.items() if title.startswith("backends on cpu"))
    assert states["cpu"] == "no: no C++ compiler"


def test_a_missing_cuda_build_is_explained(monkeypatch):
    monkeypatch.setattr(cuda, "load", lambda: (None, "there was no nvcc"))
    assert info.report()["CUDA extension"]["not usable"] == "there was no nvcc"


def test_a_cuda_build_is_described_without_a_device(monkeypatch):
    class Module:
        @staticmethod
        def build_info():
            return {"nvcc": "13.0.88", "architectures": ["sm_80", "compute_100"], "flags": "-O3"}

    monkeypatch.setattr(cuda, "load", lambda: (Module, None))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert info.report()["CUDA extension"] == {
        "nvcc": "13.0.88",
        "architectures": "sm_80, compute_100",
        "flags": "-O3",
        "devices": "none that torch can use",
    }


def test_runs_as_a_program():
    run = subprocess.run([sys.executable, "-m", "iprm_kernels.info"], capture_output=True, text=True, check=True)
    assert "backends on cpu" in run.stdout


def test_the_record_for_programs_keeps_its_keys(capsys, monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: (None, "no C++ compiler"))
    info.main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "extensions", "devices"}
    assert found["versions"] == info.versions()
    assert set(found["versions"]) == {
        "iprm-kernels",
        "python",
        "torch",
        "CUDA of torch",
        "ROCm of torch",
        "triton",
        "numpy",
    }
    assert found["extensions"]["cpu"] == {"not usable": "no C++ compiler"}
    assert set(found["devices"]["cpu"]) == {"description", "backends"}
    backends = found["devices"]["cpu"]["backends"]
    assert list(backends) == list(BACKENDS)
    assert backends["cpu"] == {"usable": False, "says": "no C++ compiler"}
    assert backends["eager"] == {"usable": True, "says": "any sizes"}
