"""What every backend passes, for those whose kernels run on the CPU only in tests: strides, empty batches,
registration, dropout bits. Tests of a backend import all of it and bring the fixture `backend`, a name."""

from __future__ import annotations

import pytest
import test_dropout
import torch
from test_composition import (  # noqa: F401
    test_a_single_masked_column_gets_weight_one,
    test_the_same_tensor_may_stand_in_several_lists,
)
from test_derivatives import test_frozen_inputs_save_their_products, test_opcheck_of_backward_ops  # noqa: F401
from test_dropout import test_strided_input_is_indexed_by_its_shape  # noqa: F401
from test_execution import (  # noqa: F401
    core,
    test_fully_masked_sample_is_uniform,
    test_large_inputs_stay_finite,
    test_no_pair_tensor_is_saved,
)
from test_formation import test_fully_masked_row_is_uniform, test_large_logits_do_not_overflow  # noqa: F401
from test_registration import (  # noqa: F401
    case,
    test_any_strides,
    test_autocast_casts_every_input,
    test_compiles_without_a_graph_break,
    test_empty_batch,
    test_opcheck,
    test_opcheck_dropout,
    test_output_without_gradient_costs_nothing,
    test_strided_gradients,
)

import iprm_kernels


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 7), (64, 33), (0, 4), (2, 1025)])
def test_draws_the_defined_bits(shape, name, backend):
    test_dropout.test_every_backend_draws_the_defined_bits(shape, getattr(torch, name), backend)


def test_an_unsupported_dtype_is_named(backend):
    with pytest.raises(RuntimeError, match=r"no kernels for torch\.float64"):
        iprm_kernels.dropout(torch.ones(3).double(), 0.5, torch.tensor([1]), 0, backend=backend)
