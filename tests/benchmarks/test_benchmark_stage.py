"""The share of the peak: the loop runs, counts what it does, and the page states its conditions."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import stage
from iprm_kernels import flops
from iprm_kernels.backends import cpu
from iprm_kernels.backends.calls import Call

SIZES = {"B": 2, "K": 2, "N": 24, "D": 32, "R": 32}


@pytest.fixture(autouse=True)
def compiler():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")


def test_loop_counts_what_it_does(tmp_path):
    loop = stage.peak_loop(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        assert stage.peak(loop, pool, 2, repeats=1000) > 0
    one, two = (loop.multiply_add(repeats, 1e-3, stage.ctypes.byref(stage.ctypes.c_float())) for repeats in (10, 20))
    assert two == 2 * one > 0


def test_broken_compiler_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RuntimeError, match="needs a C compiler"):
        stage.peak_loop(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match="does not compile"):
        stage.peak_loop(tmp_path)


@pytest.fixture
def kernels():
    if reason := cpu.load()[1]:
        pytest.skip(f"cpu: {reason}")


def test_operations_are_those_of_the_formulas(kernels):
    """Without the pooling, which is counted there and not here."""
    call = Call("execution", B=2, K=2, N=24, D=32, R=32)
    counted = {name: operations for name, (_, operations) in stage.stage(**SIZES).items()}
    assert counted == {"forward": 2 * flops.pairs(call), "backward": 6 * flops.pairs(call)}


def test_page(kernels, capsys, monkeypatch):
    monkeypatch.setattr(stage, "REPEATS", 1000)
    sizes = "--batch 2 --num-ops 2 --visual-tokens 24 --dim 32 --reduced 32"
    stage.main([*sizes.split(), "--threads", "1", "--rounds", "2"])
    said = capsys.readouterr().out
    assert "B = 2, K = 2, N = 24, D = 32, R = 32, float32" in said
    assert "1 threads" in said
    assert said.count("% of it") == 2
