"""The native products of rows, against the library's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from iprm_kernels.backends import cpu

ROWS = [(), (0,), (1,), (2,), (3,), (5,), (6,), (7,), (2, 4), (1, 11), (3, 6), (31,), (33,), (63,), (2, 35), (205,)]
MAPS = [
    (1, 1),
    (3, 7),
    (0, 4),
    (4, 0),
    (16, 64),
    (67, 37),
    (64, 130),
    (200, 96),
    (129, 65),
    (9, 2100),
    (2100, 9),
]  # O, I
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


@pytest.fixture
def native(product):
    """The product as the extension has it, with the packed weight and the tensor to write to."""
    return getattr(cpu.extension(), product[0].__name__)


def skip_library():
    if cpu.extension().cpu_capability() == "default":
        pytest.skip("products of many rows are the library's")


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


def same_for_any_number_of_threads(run, threads):
    found = []
    for count in (1, 2, 3, 4):
        threads(count)
        found.append(run())
    return all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("rows", [1, 6, 31, 70, 205])
@pytest.mark.parametrize("size", [96, 256, 515])
def test_same_bits_for_any_number_of_threads(product, rows, size, threads):
    if rows > 31:
        skip_library()
    run, _ = product
    x, weight = inputs(run is cpu.linear_back, (rows,), (size, size))
    c = torch.randn(size)
    assert same_for_any_number_of_threads(lambda: run(x, weight, c), threads)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(64, 128), (515, 512), (512, 70)])
def test_a_row_does_not_depend_on_the_others(product, shape, dtype):
    skip_library()
    run, _ = product
    x, weight = inputs(run is cpu.linear_back, (301,), shape, dtype)
    whole = run(x, weight)
    for first, last in ((0, 64), (1, 100), (98, 301)):
        assert torch.equal(run(x[first:last], weight), whole[first:last])


@pytest.mark.parametrize("shape", [(64, 40), (300, 257), (9, 2100), (2100, 9)])
@pytest.mark.parametrize("rows", [0, 5, 40, 150])
def test_writes_where_it_is_told_to(product, native, rows, shape):
    run, _ = product
    x, weight = inputs(run is cpu.linear_back, (rows,), shape)
    c = torch.randn(rows, shape[1 if run is cpu.linear_back else 0])
    want = run(x, weight, c)
    whole = torch.full((rows + 2, c.shape[1]), 7.0)
    out = native(x, weight, c, None, whole[1:-1])
    assert out.data_ptr() == whole[1:-1].data_ptr()
    assert torch.equal(out, want)
    assert (whole[0] == 7).all()
    assert (whole[-1] == 7).all()
    assert native(x, weight, c, None, c) is c
    assert torch.equal(c, want)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows", [4, 40, 150])
def test_a_held_weight_is_packed_once(product, native, rows, dtype):
    _, want = product
    x, weight = inputs(product[0] is cpu.linear_back, (rows,), (70, 150), dtype)
    held = cpu.extension().PackedWeight()
    first = native(x, weight, None, held)
    check(lambda x, weight, c: native(x, weight, c, held), want, x, weight, None)
    if rows == 150:
        assert held.packed
        assert torch.equal(first, native(x, weight))
        assert torch.equal(first, native(x, torch.zeros_like(weight), None, held))


def test_a_held_weight_of_another_shape(native):
    held = cpu.extension().PackedWeight()
    native(torch.randn(150, 30), torch.randn(30, 30), None, held)
    with pytest.raises(ValueError, match=r"packed: expected \(\d+, \d+\) float32, got \(\d+, \d+\) float32"):
        native(torch.randn(150, 70), torch.randn(70, 70), None, held)


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


def test_bad_outputs(native, product):
    x, weight = inputs(product[0] is cpu.linear_back, (6,), (8, 8))
    for out, message in (
        (torch.empty(6, 9), r"out: expected \(6, 8\) float32, got \(6, 9\) float32"),
        (torch.empty(6, 8).double(), r"out: expected \(6, 8\) float32, got \(6, 8\) float64"),
        (torch.empty(6, 16)[:, ::2], r"out: expected a contiguous tensor, got one with strides \[16, 2\]"),
        (torch._neg_view(torch.empty(6, 8)), r"out: expected a tensor to write to, got a negated view"),
        (x, r"out: expected memory apart from that of [xy], got some of it"),
    ):
        with pytest.raises(ValueError, match=message):
            native(x, weight, None, None, out)


ROW_PRODUCTS = [(0, 3, 5), (1, 1, 1), (5, 0, 3), (5, 3, 0), (7, 33, 70), (130, 64, 65), (300, 129, 31), (54, 200, 130)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", ROW_PRODUCTS)
def test_gradient_of_a_weight(shape, dtype):
    rows, outputs, columns = shape
    run = cpu.extension().row_product
    dy = torch.randn(rows, outputs + 3, dtype=dtype)[:, 1 : outputs + 1]
    x = torch.randn(2 * rows, columns + 2, dtype=dtype)[::2, 2:]
    exact = dy.double().t() @ x.double()
    scale = dy.double().abs().t() @ x.double().abs() + 1
    for left, right in ((dy, x), (dy.t().contiguous().t(), x.t().contiguous().t())):
        assert ((run(left, right, None).double() - exact).abs() <= TOLERANCE[dtype] * scale).all()
        assert torch.equal(run(torch._neg_view(left), right, None), -run(left, right, None))
    total = torch.randn(2, outputs, columns, dtype=dtype)
    exact += total[1].double()
    assert run(dy, x, total[1]).data_ptr() == total[1].data_ptr()
    assert ((total[1].double() - exact).abs() <= TOLERANCE[dtype] * (scale + exact.abs())).all()


def exact_in_bfloat16(*shape):
    """Numbers whose products, and sums of thousands of those, float32 has: no order and no rounding changes them."""
    return torch.randint(-4, 5, shape).float()


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("leading", ROWS)
def test_products_of_bfloat16(product, leading, shape):
    """Sums in float32 of what bfloat16 has are exact; what it has not is rounded to the nearest, once."""
    run, want = product
    name, (O, I) = run.__name__, shape
    of_bfloat16 = getattr(cpu.extension().bfloat16, name)
    x, weight = exact_in_bfloat16(*leading, O if run is cpu.linear_back else I), exact_in_bfloat16(O, I + 3)[:, :I]
    columns = want(x, weight).shape[-1]
    for c in (None, exact_in_bfloat16(columns), exact_in_bfloat16(*leading, columns)):
        exact = want(x, weight) if c is None else want(x, weight) + c
        assert torch.equal(of_bfloat16(x, weight, c), exact)
        held = cpu.extension().PackedWeight()
        assert torch.equal(of_bfloat16(x, weight, c, held), exact)
        assert torch.equal(of_bfloat16(x, weight, c, held, None if c is None else c.expand(exact.shape).clone()), exact)
    x = torch.randn_like(x)
    exact = want(x.double(), weight.double())
    scale = want(x.double().abs(), weight.double().abs())
    assert ((of_bfloat16(x, weight, None) - exact).abs() <= 2.0**-8 * scale + 1e-6).all()


@pytest.mark.parametrize("shape", ROW_PRODUCTS)
def test_gradient_of_a_weight_in_bfloat16(shape):
    rows, outputs, columns = shape
    run = cpu.extension().bfloat16.row_product
    dy, x = exact_in_bfloat16(rows, outputs + 3)[:, 1 : outputs + 1], exact_in_bfloat16(2 * rows, columns + 2)[::2, 2:]
    exact = dy.t() @ x
    assert torch.equal(run(dy, x, None), exact)
    total = exact_in_bfloat16(outputs, columns)
    exact += total
    assert torch.equal(run(dy, x, total), exact)


def test_bfloat16_has_the_same_bits_for_any_number_of_threads(product, threads):
    skip_library()
    run, _ = product
    of = cpu.extension().bfloat16
    x, weight = inputs(run is cpu.linear_back, (205,), (515, 515))
    assert same_for_any_number_of_threads(lambda: getattr(of, run.__name__)(x, weight), threads)
    assert same_for_any_number_of_threads(lambda: of.row_product(x, x[:, :190], None), threads)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (1, 5), (205, 67), (98, 256), (1568, 64)])
def test_gradient_of_a_bias(shape, dtype):
    dy = torch.randn(shape[0], shape[1] + 5, dtype=dtype)[:, 2:-3]
    for rows in (dy, dy.t().contiguous().t(), torch._neg_view(dy)):
        found = cpu.extension().row_sum(rows)
        assert found.dtype == dtype
        scale = dy.double().abs().sum(0) + 1
        assert ((found.double() - rows.double().sum(0)).abs() <= TOLERANCE[dtype] * scale).all()


def test_gradients_have_the_same_bits_for_any_number_of_threads(threads):
    dy, x = torch.randn(500, 230), torch.randn(500, 190)
    assert same_for_any_number_of_threads(lambda: cpu.extension().row_sum(dy), threads)
    skip_library()
    assert same_for_any_number_of_threads(lambda: cpu.extension().row_product(dy, x, None), threads)


DY, ROWS_OF_X = torch.randn(6, 4), torch.randn(6, 5)
BAD_GRADIENTS = [
    ((DY[0], ROWS_OF_X, None), r"dy: expected 2 dimensions"),
    ((DY.half(), ROWS_OF_X, None), r"dy: expected float32 or float64, got"),
    ((DY, ROWS_OF_X[0], None), r"x: expected 2 dimensions"),
    ((DY, ROWS_OF_X[1:], None), r"x: expected \(6, 5\) float32, got \(5, 5\) float32"),
    ((DY, ROWS_OF_X.double(), None), r"x: expected \(6, 5\) float32, got \(6, 5\) float64"),
    ((DY, ROWS_OF_X, torch.randn(5, 4)), r"sum: expected \(4, 5\) float32, got \(5, 4\) float32"),
    ((DY, ROWS_OF_X, torch.randn(5, 4).t()), r"sum: expected a contiguous tensor, got one with strides \[1, 4\]"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_GRADIENTS)
def test_bad_arguments_of_gradients(arguments, message):
    with pytest.raises(ValueError, match=message):
        cpu.extension().row_product(*arguments)
    if message.startswith("dy"):
        with pytest.raises(ValueError, match=message):
            cpu.extension().row_sum(arguments[0])


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


@pytest.mark.numerical
@pytest.mark.parametrize("rows", [6, 24, 64, 200])
def test_rounding_of_long_sums(product, rows):
    """Of 512 or 1024 products: less than one chain of them would, but for few rows that go down the columns."""
    skip_library()
    run, want = product
    allowed = 6 if run is cpu.linear_back and rows < 64 else 3
    for shape in ((512, 512), (512, 1024), (1024, 512)):
        x, weight = inputs(run is cpu.linear_back, (rows,), shape)
        exact = want(x.double(), weight.double())
        terms = want(x.double().square(), weight.double().square()).sqrt()  # how large sums of random signs come out
        error = ((run(x, weight, None).double() - exact) / terms).square().mean().sqrt().item()
        assert error < allowed * torch.finfo(torch.float32).eps
