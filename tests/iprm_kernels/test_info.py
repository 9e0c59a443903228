"""`python -m iprm_kernels.info` says what is installed, what was built and why a backend cannot run."""

from __future__ import annotations

import subprocess
import sys

import torch

from iprm_kernels import info
from iprm_kernels.backends import BACKENDS, cpu


def test_report_names_versions_and_every_backend():
    sections = info.report()
    assert sections["versions"]["torch"] == torch.__version__
    (states,) = (facts for title, facts in sections.items() if title.startswith("backends on cpu"))
    assert list(states) == list(BACKENDS)
    assert states["eager"] == "usable"


def test_a_missing_extension_is_explained(monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: (None, "no C++ compiler"))
    sections = info.report()
    assert sections["extension"] == {"not usable": "no C++ compiler"}
    (states,) = (facts for title, facts in sections.items() if title.startswith("backends on cpu"))
    assert states["cpu"] == "no: no C++ compiler"


def test_runs_as_a_program():
    run = subprocess.run([sys.executable, "-m", "iprm_kernels.info"], capture_output=True, text=True, check=True)
    assert "backends on cpu" in run.stdout
