"""The reasoning modules by name: IPRM as it is written, IPRM on the kernels, and what they are compared with."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from iprm import fast, reference
from iprm.config import IPRMConfig
from iprm.vqa.models.baselines import ConcatAttention, CrossAttention, QuestionOnly, of_equal_size, parameters

VARIANTS = ("reference", "fast")
"""The two forms of IPRM."""
BASELINES = {
    "cross_attention": CrossAttention,
    "concat_attention": ConcatAttention,
    "question_only": QuestionOnly,
}
REASONERS = (*VARIANTS, *BASELINES)


def reasoner(name: str, config: IPRMConfig, backend: str = "auto") -> nn.Module:
    """Return a module of `iprm.reference.IPRM`'s inputs and output; a baseline has as many parameters, nearly.

    Args:
        name: one of `REASONERS`.  config: IPRM's.  backend: the kernels', which only `fast` has.
    Raises:
        ValueError: unknown name.
    """
    if name == "reference":
        return reference.IPRM(config)
    if name == "fast":
        return fast.IPRM(config, backend=backend)
    if name not in BASELINES:
        raise ValueError(f"reasoner: expected one of {', '.join(REASONERS)}, got {name!r}")
    with torch.device("meta"):
        wanted = parameters(reference.IPRM(config))
    return of_equal_size(partial(BASELINES[name], config), wanted)
