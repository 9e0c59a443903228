"""Importing the packages compiles nothing, needs no Triton, no extension and no device."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import iprm, iprm.fast, iprm.reference, iprm_kernels, torch
assert not torch.cuda.is_initialized()
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
