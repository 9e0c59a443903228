"""Every table of kernels this processor can run, each chosen in a process of its own, against the definition."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iprm_kernels.backends import BACKENDS

RANKS = (40, 96)  # a panel with padding; whole ones, and a tile of rows that is not
PROGRAM = f"""
from functools import partial

import torch
from comparison import compare
from test_execution import CORES, options
from iprm_kernels.backends import cpu

torch.manual_seed(0)
for rank in {RANKS}:
    core, definition, make = CORES["full"]
    compare(core, definition, partial(make, 2, 3, 75, rank, 24), torch.float32, "cpu", **options(2, 75, True, True))
print(cpu.extension().cpu_capability())
"""


def table_in_use(**environment) -> str:
    """The table that a process with these variables uses, having held its execution core to the definition."""
    here = Path(__file__).parent
    kept = {k: v for k, v in os.environ.items() if k not in ("ATEN_CPU_CAPABILITY", "IPRM_CPU_AMX")}
    path = os.pathsep.join([str(here), str(here.parents[1]), kept.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | {"PYTHONPATH": path} | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture(autouse=True)
def built():
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")


def test_best_table_of_the_processor():
    assert table_in_use() in ("default", "avx2", "avx512", "amx")


def test_without_amx():
    assert table_in_use(IPRM_CPU_AMX="0") in ("default", "avx2", "avx512")


@pytest.mark.parametrize("name", ["default", "avx2"])
def test_smaller_tables(name):
    assert table_in_use(ATEN_CPU_CAPABILITY=name) in ("default", name)
