"""The two modules that are compared: `reference`, as the mechanism is written, and `fast`, on the kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from iprm import fast, reference
from iprm.config import IPRMConfig

VARIANTS = ("reference", "fast")


def reasoner(variant: str, backend: str = "auto") -> Callable[[IPRMConfig], nn.Module]:
    """Return what makes the IPRM module of a variant; `backend` is the kernels' and only `fast` has it."""
    if variant == "reference":
        return reference.IPRM
    if variant == "fast":
        return partial(fast.IPRM, backend=backend)
    raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
