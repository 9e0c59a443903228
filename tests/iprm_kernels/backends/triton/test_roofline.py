"""The roofline counts the launches that the launch code makes and the machine code that Triton writes, and says of all
its figures that they are predicted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton.language")
import triton

from benchmarks import machine_code, roofline
from benchmarks.roofline import __main__ as command
from benchmarks.roofline import machine, module
from iprm_kernels.backends.triton import composition, execution, formation, launch

SIZES = roofline.Sizes(B=64, K=6, N=196, L=24, D=512, r=2, W=2)


@pytest.fixture
def arguments() -> list:
    """Those of all launches."""
    return []


@pytest.fixture
def launched(monkeypatch, arguments) -> Counter:
    """How often each kernel is launched, by name; nothing runs."""
    counts = Counter()

    class Counted:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            counts[self.name] += 1
            return lambda *args, **options: arguments.extend(args)

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
    counted = Counter()
    for part in roofline.PASSES[name](SIZES).ours:
        counted[part.name] += part.times
    assert launched
    assert {kernel: counted[kernel] for kernel in launched} == launched


def test_floor_of_execution_is_the_mechanisms():
    """4·B·K·N·R² operations for the pairs and 2·B·K·N·D for the pooling; six products backward."""
    s = SIZES
    pooling = 2 * s.pairs * s.D
    assert roofline.PASSES["execution forward"](s).operations == 4 * s.pairs * s.R**2 + pooling
    assert roofline.PASSES["execution backward"](s).operations == 12 * s.pairs * s.R**2 + 2 * pooling


def test_backward_moves_eight_rows_a_pair(launched, arguments):
    """R elements each, through the buffers from one kernel to the next."""
    run("execution backward")
    buffers = [t for t in arguments if isinstance(t, torch.Tensor) and t.shape == (SIZES.pairs, SIZES.R)]
    assert len(buffers) <= 8


@pytest.mark.parametrize(
    ("name", "kept", "most"),
    [("execution forward", False, 45e-6), ("execution backward", False, 190e-6), ("execution backward", True, 160e-6)],
)
def test_what_execution_is_predicted_to_take(name, kept, most):
    """On an H100. Backward it is the second-level cache that sets the time of most launches."""
    count, card = roofline.PASSES[name](replace(SIZES, kept=kept)), roofline.CARDS["H100"]
    assert count.floor(card, SIZES.dtype) < roofline.predicted(count.ours, card, SIZES.dtype) < most


def test_every_table_says_predicted(capsys):
    command.main(["--num-ops", "1,6", "--dtype", "float32", "--num-steps", "2"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == len(roofline.CARDS)
    for table in tables:
        first, *rows = table.splitlines()
        assert "*predicted*" in first
        assert all("*predicted*" in row for row in rows if "whole" in row)


COUNTED = {("forward", False): 236, ("training", False): 738, ("training", True): 967}
"""Launches, copies and sets that `benchmarks.launches` found in bfloat16, with torch 2.14.1+cu130 and Triton 3.8.0."""


@pytest.mark.parametrize(("step", "dropout"), COUNTED)
def test_whole_step_has_the_launches_that_the_stub_device_counted(step, dropout):
    found = module.step_of(step, replace(SIZES, dropout=dropout))
    assert found.launches == pytest.approx(COUNTED[step, dropout], rel=0.06)
    card = roofline.CARDS["H100"]
    assert found.device(card, SIZES.dtype) < found.eager(card, SIZES.dtype)


def test_table_of_the_machine_code_is_of_the_first_configurations():
    """`python -m benchmarks.roofline --compile` makes it anew."""
    found = {key: entry["entry"] for key, entry in machine.table()["entries"].items()}
    assert found == {key: machine.label_of(case.entry) for key, case in machine.cases()}


@pytest.mark.parametrize("key", ["logits sm_90 bfloat16", "chain_backward sm_80 bfloat16", "weights sm_100 bfloat16"])
def test_table_of_the_machine_code_is_not_stale(key):
    if triton.__version__ != machine.table()["triton"]:
        pytest.skip(f"the table is of Triton {machine.table()['triton']}, and {triton.__version__} is installed")
    assert machine.record(dict(machine.cases())[key]) == machine.table()["entries"][key]


CODE = """
        /*0000*/                   MOV R1, R2 ;
.L_x_0:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
.L_x_1:
        /*0020*/                   FFMA R4, R5, R6, R4 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/              @!P1 BRA `(.L_x_3) ;
.L_x_2:
        /*0050*/               @P2 BRA `(.L_x_0) ;
        /*0060*/                   EXIT ;
.L_x_3:
        /*0070*/                   NANOSLEEP R1 ;
        /*0080*/               @P3 BRA `(.L_x_3) ;
        /*0090*/                   BRA `(.L_x_2) ;
"""


def test_instructions_are_counted_by_the_loops_that_they_stand_in():
    """What waits stands behind the code, and is in the loop that waits, but no loop of its own that multiplies."""
    assert machine_code.counted(CODE) == ([2, 6, 2], {"HMMA.16816.F32.BF16": [0, 1, 0]})
