"""Importing the packages compiles nothing, needs no Triton, no extension and no device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import iprm, iprm.fast, iprm.reference, iprm_kernels, torch
assert not torch.cuda.is_initialized()
assert not any(name.startswith("iprm.vqa") for name in sys.modules)
model = iprm.fast.IPRM(iprm.IPRMConfig(dim=8, num_ops=2, num_steps=2))
out = model(torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 5, 8))
out.sum().backward()
print(iprm_kernels.reasons("cpu"))
"""


@pytest.mark.parametrize("blocked", [[], ["triton"], ["triton", "iprm_kernels._C"]])
def test_import_in_a_fresh_process(blocked):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(blocked=blocked)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    if "iprm_kernels._C" in blocked:
        assert "'cpu': None" not in run.stdout


MODULES = """
import pkgutil, sys
import iprm, iprm_kernels, benchmarks
faults = []
for package in (iprm, iprm_kernels, benchmarks):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        found = {{}}
        try:
            exec(f"import {{module.name}} as x", found)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in {optional!r}:
                faults.append((module.name, error))
        except BaseException as error:
            faults.append((module.name, error))
        else:
            if found["x"] is not sys.modules[module.name] and module.name not in {functions!r}:
                faults.append((module.name, found["x"]))
assert not faults, faults
"""
OPTIONAL = ["triton", "matplotlib", "pytest_benchmark", "rich", "omegaconf", "safetensors", "tensorboard", "h5py"]
"""What need not be installed; without it, a module that needs it cannot be imported."""
FUNCTIONS = [f"iprm_kernels.{name}" for name in ("composition", "dropout", "execution", "formation", "recurrence")]
"""Rooms whose public function has their name, and stands for them in the package."""


def test_every_module_can_be_imported_under_another_name():
    """No package binds the name of a module in it to something else."""
    program = MODULES.format(optional=OPTIONAL, functions=FUNCTIONS)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
