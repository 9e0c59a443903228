"""What the extension says of the calls that it takes is what its launches do, on small cards too."""

from __future__ import annotations

import cuda_figures
import pytest
import torch
from device_cores import DTYPES
from pairs import inputs, pair

import iprm_kernels
from iprm import IPRMConfig
from iprm_kernels.backends import cuda

KILOBYTES = (48, 64, 99, 163, 227)


@pytest.fixture
def small(device, on_host, monkeypatch) -> int:
    """A card with 99 KB; its bytes."""
    monkeypatch.setenv("IPRM_ON_HOST_SHARED_KB", "99")
    return 99 * 1024


def test_the_figures_of_the_tests_are_the_extensions(device):
    module, figures = cuda.extension(), cuda_figures.Extension
    assert (module.MOST_BLOCKS, module.MOST_STEP_COLUMNS) == (figures.MOST_BLOCKS, figures.MOST_STEP_COLUMNS)
    for dtype in DTYPES:
        for kilobytes in KILOBYTES:
            shared = 1024 * kilobytes
            assert module.most_width(dtype, shared) == figures.most_width(dtype, shared), (dtype, kilobytes)
        for R in (1, 16, 100, 256, 512, 1000):
            for columns in (1, 18, 256):
                found = module.steps_shared(dtype, R, columns)
                assert found == figures.steps_shared(dtype, R, columns), (dtype, R, columns)


def call_of_width(R: int, dtype: torch.dtype, backend: str):
    """A forward and a backward of one pair."""
    v, u, g, l = (torch.randn(1, 1, R, dtype=dtype, requires_grad=True) for _ in range(4))
    C1a, C2 = (torch.randn(R, R, dtype=dtype) / R**0.5 for _ in range(2))
    c2, w = torch.randn(R, dtype=dtype), torch.randn(R, dtype=dtype)
    tokens = torch.randn(1, 1, 4, dtype=dtype)
    pooled, attention = iprm_kernels.execution(v, u, g, l, C1a, C2, c2, w, tokens, backend=backend)
    (pooled.float().sum() + attention.sum()).backward()
    return pooled


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_widest_runs_and_a_wider_one_is_passed_over(dtype, small):
    widest = cuda.extension().most_width(dtype, small)
    assert call_of_width(widest, dtype, "cuda").isfinite().all()
    with pytest.raises(RuntimeError, match=f"R = {widest + 1}, of {widest} at most in .* with {small} bytes"):
        call_of_width(widest + 1, dtype, "cuda")
    assert iprm_kernels.reasons("cpu", dtype, "execution", R=widest + 1)["cuda"]
    assert call_of_width(widest + 1, dtype, "auto").isfinite().all()


def one_step(K: int, window: int, backend: str):
    """A module, inputs, and the reference's result."""
    config = IPRMConfig(dim=16, num_ops=K, num_steps=2, window=window)
    reference, model = pair(config, torch.float32, backend)
    args = [a if a is None else a.float() for a in inputs(config, B=1)]
    with torch.no_grad():
        return model.eval(), args, reference.eval()(*args)


@pytest.mark.parametrize("backend", ["auto", "cuda"])
def test_all_steps_where_the_window_fits(backend, small, answers):
    """12 columns do, 18 do not: then the module goes step by step."""
    for window, said in ((1, None), (2, "102144 bytes of shared memory")):
        model, args, want = one_step(6, window, backend)
        answers.clear()
        with torch.no_grad():
            torch.testing.assert_close(model(*args), want, rtol=1e-4, atol=1e-5)
        assert answers
        assert all(answer is None if said is None else said in answer for answer in answers)
