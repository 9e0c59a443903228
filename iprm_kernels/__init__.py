"""The iterative and parallel reasoning mechanism on fused kernels, and its attention cores: tensors in, tensors out.

Importing this package registers the operators `torch.ops.iprm.*`, and with torch's `FlopCounterMode` what they count
as; it compiles nothing and touches no device.
"""

from iprm_kernels.backends import reasons
from iprm_kernels.composition import composition
from iprm_kernels.dropout import dropout
from iprm_kernels.dropped_execution import execution_dropped, execution_simple_dropped
from iprm_kernels.execution import execution, execution_simple
from iprm_kernels.flops import register_formulas
from iprm_kernels.formation import formation
from iprm_kernels.memory import MemoryEstimate, memory_estimate
from iprm_kernels.recurrence import Attentions, recurrence
from iprm_kernels.steps.weights import Activations, Epsilons, Map, Rates, Weights

__all__ = [
    "Activations",
    "Attentions",
    "Epsilons",
    "Map",
    "MemoryEstimate",
    "Rates",
    "Weights",
    "composition",
    "dropout",
    "execution",
    "execution_dropped",
    "execution_simple",
    "execution_simple_dropped",
    "formation",
    "memory_estimate",
    "reasons",
    "recurrence",
]

register_formulas()
