"""The backward of execution for some samples at a time."""

from __future__ import annotations

from functools import partial

import pytest
import test_execution
import torch
from comparison import compare

from iprm_kernels.backends import cuda


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_in_chunks(dtype, samples, on):
    """With buffers for one or two samples at a time, dropout bits and sums are those of the whole batch."""
    core, want, make = test_execution.CORES["full"]
    make, options = partial(make, 5, 3, 21, 24, 8), test_execution.options(5, 21, True, True)
    before = cuda.extension().set_buffer_bytes(samples * 6 * 3 * 21 * 24 * dtype.itemsize)
    try:
        compare(on(core), want, make, dtype, "cuda", **options)
    finally:
        cuda.extension().set_buffer_bytes(before)
    assert before == 128 * 2**20
