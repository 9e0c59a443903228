"""The native products of few rows, against the library's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from iprm_kernels.backends import cpu

ROWS = [(), (0,), (1,), (2,), (3,), (5,), (6,), (7,), (2, 4), (1, 11), (3, 6), (31,), (33,), (63,), (2, 35), (130,)]
MAPS = [(1, 1), (3, 7), (0, 4), (4, 0), (16, 64), (67, 37), (64, 130), (200, 96), (129, 65)]  # O, I
PRODUCTS = {
    "linear": (cpu.linear, lambda x, weight: F.linear(x, weight)),
    "linear_back": (cpu.linear_back, lambda y, weight: y @ weight),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 4e-15}


@pytest.fixture(autouse=True)
def built():
    if reason := cpu.unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")


@pytest.fixture(params=list(PRODUCTS))
def product(request):
    return PRODUCTS[request.param]


def inputs(back: bool, leading, shape, dtype=torch.float32):
    """x and a weight, as rows far apart."""
    O, I = shape
    x = torch.randn(*leading, O if back else I, dtype=dtype)
    weight = torch.randn(O, I + 3, dtype=dtype)[:, :I]
    return x, weight


def check(run, want, x, weight, c):
    out = run(x, weight, c)
    exact = want(x.double(), weight.double())
    scale = want(x.double().abs(), weight.double().abs()) + 1  # of the sum of the terms' magnitudes
    if c is not None:
        exact, scale = exact + c.double(), scale + c.double().abs()
    assert out.shape == exact.shape
    assert out.dtype == x.dtype
    assert out.is_contiguous()
    assert ((out.double() - exact).abs() <= TOLERANCE[x.dtype] * scale).all()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("leading", ROWS)
def test_equals_the_product(product, leading, shape, dtype):
    run, want = product
    x, weight = inputs(run is cpu.linear_back, leading, shape, dtype)
    columns = want(x, weight).shape[-1]
    for c in (None, torch.randn(columns, dtype=dtype), torch.randn(*leading, columns, dtype=dtype)):
        check(run, want, x, weight, c)


def test_any_strides(product):
    run, want = product
    for rows in (6, 90):
        x = torch.randn(20, 2 * rows).t()[::2]
        c = torch.randn(20, rows).t()
        for weight in (torch.randn(20, 20).t(), torch.randn(40, 40)[::2, ::2], torch.randn(20).expand(20, 20)):
            check(run, want, x, weight, c)
            check(run, want, x, torch._neg_view(weight), torch._neg_view(c))


@pytest.mark.parametrize("rows", [1, 6, 31])
@pytest.mark.parametrize("size", [96, 256, 515])
def test_same_bits_for_any_number_of_threads(product, rows, size, threads):
    run, _ = product
    x, weight = inputs(run is cpu.linear_back, (rows,), (size, size))
    c = torch.randn(size)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(run(x, weight, c))
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("rows", [6, 90])
def test_has_no_graph_and_does_not_see_autocast(product, rows):
    run, _ = product
    x, weight = (t.requires_grad_() for t in inputs(run is cpu.linear_back, (rows,), (24, 24)))
    want = run(x.detach(), weight.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(x, weight)
    assert not found.requires_grad
    assert torch.equal(found, want)


X, WEIGHT = torch.randn(2, 3, 5), torch.randn(4, 5)
BAD = [
    ((X[..., :4], WEIGHT, None), r"x: expected \(\.\.\., 5\) as the weight is, got \[2, 3, 4\]"),
    ((X[0, 0, 0], WEIGHT, None), r"x: expected \(\.\.\., 5\)"),
    ((X.half(), WEIGHT.half(), None), r"x: expected float32 or float64, got"),
    ((X.long(), WEIGHT, None), r"x: expected float32, .* got \(2, 3, 5\) int64"),
    ((X, WEIGHT.double(), None), r"weight: expected \(4, 5\) float32, got \(4, 5\) float64"),
    ((X, WEIGHT[0], None), r"weight: expected 2 dimensions"),
    ((X, WEIGHT.to("meta"), None), r"weight: expected a tensor on cpu"),
    ((X, WEIGHT, torch.randn(5)), r"c: expected \(4,\) float32, got \(5,\) float32"),
    ((X, WEIGHT, torch.randn(3, 4)), r"c: expected \(2, 3, 4\) float32, got \(3, 4\) float32"),
    ((X, WEIGHT, torch.randn(4).double()), r"c: expected \(4,\) float32, got \(4,\) float64"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cpu.linear(*arguments)
    x, weight, c = arguments
    if weight.dim() == 2:
        with pytest.raises(ValueError, match=message.replace("x:", "y:").replace(r"\(4, 5\)", r"\(5, 4\)")):
            cpu.linear_back(x, weight.t(), c)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_smaller_instruction_sets(capability):
    """All of the above, in a process of its own."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("the instruction set is chosen already")
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here), "-k", "not smaller"]
    run = subprocess.run(
        command,
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        cwd=here.parents[2],
    )
    assert run.returncode == 0, run.stdout
