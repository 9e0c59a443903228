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
TOKENS = (75, 110)  # the second is enough for a matrix unit
PROGRAM = f"""
from functools import partial

import torch
from comparison import compare
from test_execution import CORES, options
from iprm_kernels.backends import cpu

torch.manual_seed(0)
core, definition, make = CORES["full"]
for rank in {RANKS}:
    for tokens in {TOKENS}:
        for dtype in (torch.float32, torch.bfloat16):
            given = options(2, tokens, True, True)
            compare(core, definition, partial(make, 2, 3, tokens, rank, 24), dtype, "cpu", **given)
of = cpu.extension()
print(of.cpu_capability(), of.pairs_capability(), of.bfloat16_capability())
"""
OF_SWITCHES = ("ATEN_CPU_CAPABILITY", "IPRM_CPU_AMX", "IPRM_CPU_BFLOAT16")


def tables_in_use(**environment) -> list[str]:
    """The tables that a process with these variables uses, for rows, for many pairs and for bfloat16, having held its
    execution core to the definition."""
    here = Path(__file__).parent
    kept = {k: v for k, v in os.environ.items() if k not in OF_SWITCHES}
    path = os.pathsep.join([str(here), str(here.parents[1]), kept.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | {"PYTHONPATH": path} | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.fixture(autouse=True)
def built():
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")


def test_best_table_of_the_processor():
    best, of_pairs, of_bfloat16 = tables_in_use()
    assert best in ("default", "avx2", "avx512")
    assert of_pairs in (best, "amx")
    assert of_bfloat16 in (of_pairs, "amx_bf16" if of_pairs == "amx" else "avx512_bf16")


def test_without_amx():
    best, of_pairs, _ = tables_in_use(IPRM_CPU_AMX="0")
    assert of_pairs == best


@pytest.mark.parametrize("amx", ["0", "1"])
def test_products_of_bfloat16(amx):
    """Where the processor has them, they are used when they are asked for, and only then where they are slow."""
    best, of_pairs, asked = tables_in_use(IPRM_CPU_BFLOAT16="1", IPRM_CPU_AMX=amx)
    if asked == of_pairs:
        pytest.skip("no AVX512-BF16 in this processor or compiler")
    assert asked == ("amx_bf16" if of_pairs == "amx" else "avx512_bf16")
    assert tables_in_use(IPRM_CPU_BFLOAT16="0", IPRM_CPU_AMX=amx) == [best, of_pairs, of_pairs]


@pytest.mark.parametrize("name", ["default", "avx2"])
def test_smaller_tables(name):
    best, of_pairs, of_bfloat16 = tables_in_use(ATEN_CPU_CAPABILITY=name)
    assert best in ("default", name)
    assert of_pairs == of_bfloat16 == best
