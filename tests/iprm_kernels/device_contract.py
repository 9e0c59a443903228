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
from iprm import IPRMConfig, fast
from iprm_kernels import Activations, Epsilons, Rates
from iprm_kernels.steps.weights import flattened


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 7), (64, 33), (0, 4), (2, 1025)])
def test_draws_the_defined_bits(shape, name, backend):
    test_dropout.test_every_backend_draws_the_defined_bits(shape, getattr(torch, name), backend)


def test_an_unsupported_dtype_is_named(backend):
    with pytest.raises(RuntimeError, match=r"no kernels for torch\.float64"):
        iprm_kernels.dropout(torch.ones(3).double(), 0.5, torch.tensor([1]), 0, backend=backend)


@pytest.mark.parametrize("keep", [False, True])
def test_opcheck_of_the_recurrence(keep, backend):
    """Without gradients, which may be one launch, and with them and dropout."""
    config = IPRMConfig(dim=8, num_ops=2, num_steps=2)
    flat, maps = flattened(fast.IPRM(config).requires_grad_(keep)._weights())
    O, E, X, V = (torch.randn(2, n, 8, requires_grad=keep) for n in (2, 2, 3, 5))
    rates = [0.2 * keep] * len(Rates._fields)
    options = (torch.tensor([99]), 2, 2, True, ",".join(Activations()), rates, [*Epsilons()], 2**20)
    masks = (torch.rand(2, 3) > 0.4, torch.rand(2, 5) > 0.4)
    arguments = (O, E, X, masks[0], V, masks[1], flat, maps, *options, keep, backend)
    torch.library.opcheck(torch.ops.iprm.recurrence, arguments)
