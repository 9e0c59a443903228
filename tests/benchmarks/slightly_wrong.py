"""A pytest plugin for the sweeps: variants that are not the mechanism, which the gate has to catch."""

from __future__ import annotations

import dataclasses
from unittest import mock

from torch import Tensor

from benchmarks.variants import BUILDERS
from iprm import IPRMConfig, reference


class WrongResult(reference.IPRM):
    """Its result is off by a tenth of a per cent."""

    def forward(self, *args, **kwargs) -> Tensor:
        return super().forward(*args, **kwargs) * 1.001


class WrongGradient(reference.IPRM):
    """Its result is right, its gradients are not."""

    def forward(self, *args, **kwargs) -> Tensor:
        result = super().forward(*args, **kwargs)
        return result + 0.001 * (result - result.detach())


class WrongRate(reference.IPRM):
    """It drops 0.14 of what 0.15 ought to be dropped of."""

    def __init__(self, config: IPRMConfig):
        super().__init__(dataclasses.replace(config, product_dropout=0.14))


class WrongBias(reference.IPRM):
    """One bias is left out."""

    def forward(self, *args, **kwargs) -> Tensor:
        with mock.patch.object(self.execution.C2, "bias", None):
            return super().forward(*args, **kwargs)


BUILDERS |= {
    "wrong-result": WrongResult,
    "wrong-gradient": WrongGradient,
    "wrong-rate": WrongRate,
    "wrong-bias": WrongBias,
}
