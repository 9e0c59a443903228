"""Runs the tests beside it on the CPU, in processes of their own: the interpreter must be chosen before the kernels are
imported, and once chosen would serve "auto" for all other tests too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already interpreted")
@pytest.mark.parametrize("file", ["test_cores.py", "test_triton_planted.py", "test_contract.py", "test_overflow.py"])
def test_interpreted(file):
    pytest.importorskip("triton.language")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(HERE / file)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert re.search(r"\d+ passed", run.stdout)
    assert "skipped" not in run.stdout.splitlines()[-1]
