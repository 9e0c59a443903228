"""A pytest plugin for the sweeps: variants that are not the mechanism, which the gate has to catch."""

from __future__ import annotations

from torch import Tensor

from benchmarks.variants import BUILDERS
from iprm import reference


class WrongResult(reference.IPRM):
    """Its result is off by a tenth of a per cent."""

    def forward(self, *args, **kwargs) -> Tensor:
        return super().forward(*args, **kwargs) * 1.001


class WrongGradient(reference.IPRM):
    """Its result is right, its gradients are not."""

    def forward(self, *args, **kwargs) -> Tensor:
        result = super().forward(*args, **kwargs)
        return result + 0.001 * (result - result.detach())


BUILDERS |= {"wrong-result": WrongResult, "wrong-gradient": WrongGradient}
