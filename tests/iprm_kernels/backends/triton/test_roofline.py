"""The roofline counts the launches that the launch code makes, and says of all its figures that they are predicted."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton.language")
sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from benchmarks import roofline
from iprm_kernels.backends.triton import composition, execution, formation, launch

SIZES = roofline.Sizes(B=64, K=6, N=196, L=24, D=512, r=2, W=2)


@pytest.fixture
def launched(monkeypatch) -> Counter:
    """How often each kernel is launched, by name; nothing runs."""
    counts = Counter()

    class Counted:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            counts[self.name] += 1
            return lambda *args, **options: None

    monkeypatch.setattr(launch, "KERNELS", {name: Counted(name) for name in launch.KERNELS})
    return counts


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def run(name):
    """The launch code of one core and pass."""
    B, K, N, L, D, R = (getattr(SIZES, letter) for letter in "BKNLDR")
    state, row, gate, square = meta(B, K, D), meta(R), meta(D), meta(R, R)
    core, kind = name.split()
    forward = kind == "forward"
    if core == "formation":
        a = meta(B, K, L, dtype=torch.float32)
        if forward:
            return formation.formation(state, meta(B, L, D), gate, None, None, 0, 0.0)
        return formation.formation_backward(state, a, state, meta(B, L, D), gate, a, None, 0, 0.0, [True] * 3)
    if core == "composition":
        window, options = ([state] * (1 + SIZES.W),) * 3, (True, None, 0, 0.0, 0.0, 0.0)
        if forward:
            return composition.composition(state, *window, gate, *options)
        a = meta(B, K, SIZES.columns, dtype=torch.float32)
        return composition.composition_backward(state, state, a, state, *window, gate, a, *options)
    keys, small = meta(B, N, R), meta(B, K, R)
    inputs = (keys, keys, small, small, square, square, row, row, meta(B, N, D))
    if forward:
        return execution.execution(*inputs, None, None, 0, 0.0, 0.0, "elu")
    a = meta(B, K, N, dtype=torch.float32)
    return execution.execution_backward(state, a, *inputs, a, None, 0, 0.0, 0.0, "elu", [True] * 9)


@pytest.mark.parametrize("name", roofline.PASSES)
def test_counts_the_launches_that_are_made(name, launched):
    run(name)
    counted = {part.name: part.times for part in roofline.PASSES[name](SIZES).ours}
    assert launched
    assert {kernel: counted[kernel] for kernel in launched} == launched


def test_floor_of_execution_is_the_mechanisms():
    """4·B·K·N·R² operations for the pairs and 2·B·K·N·D for the pooling; six products backward."""
    s = SIZES
    pooling = 2 * s.pairs * s.D
    assert roofline.execution_forward(s).operations == 4 * s.pairs * s.R**2 + pooling
    assert roofline.execution_backward(s).operations == 12 * s.pairs * s.R**2 + 2 * pooling


def test_every_table_says_predicted(capsys):
    roofline.main(["--num-ops", "1,6", "--dtype", "float32"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == len(roofline.CARDS)
    assert all("*predicted*" in table.splitlines()[0] for table in tables)
