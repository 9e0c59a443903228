"""Whether the CUDA backend takes all steps of a module's forward in one launch."""

from __future__ import annotations

from iprm_kernels import Activations, Rates
from iprm_kernels.backends import cuda
from iprm_kernels.steps.weights import Options


def options_of(model) -> Options:
    """The options of the op as a module without dropout gives them."""
    c = model.config
    φ = (c.formation_activation, c.result_query_activation, c.execution_activation, c.op_activation)
    activations = Activations(*φ, c.result_activation)
    return Options(c.num_steps, c.window, c.mask_self, activations, Rates(), model._epsilons())


def why_not(model, args) -> str | None:
    """Why a forward on these inputs goes step by step, or None where it is one launch."""
    language, summary, visual, *_ = args
    return cuda.not_at_once(model._weights(), options_of(model), model.memory(summary, visual)[0], language)
