"""The gate: a variant is timed only where its result and gradients are those of the mechanism.

Truth is the reference module in float64 with the same weights and inputs. A variant's error may be twice that
of the reference in the point's own number format, or a small floor where that is larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.points import SEED, Point
from benchmarks.workload import Workload
from iprm import reference

FLOORS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float64: 1e-12}
"""Errors relative to the largest entry of a tensor that pass whatever the reference's own error is."""
TIMES_REFERENCE = 2.0
PAIR_ELEMENTS = 2**22
"""The float64 run takes as many samples at once as keep B·K·N·R within this."""


@dataclass(frozen=True)
class Verdict:
    """The tensor nearest to, or furthest beyond, its allowed error (both relative to its largest entry)."""

    where: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # false for NaN

    def __str__(self) -> str:
        relation = "<=" if self.passed else ">"
        return f"{self.where}: error {self.error:.2g} {relation} {self.allowed:.2g}"


def exact(point: Point, step: str) -> dict[str, Tensor]:
    """What `Workload.outputs` ought to be, in float64.

    Samples do not depend on each other and the loss is a sum, so they go a few at a time; with dropout, whose
    masks are numbered through the batch, all at once.
    """
    whole = Workload("reference", point, step)
    model = reference.IPRM(point.config).to(point.device, torch.float64)
    model.load_state_dict({name: value.double() for name, value in whole.module.state_dict().items()})
    model.train(step == "training")
    inputs = [x.detach().double().requires_grad_(step == "training") for x in whole.inputs]
    per_sample = point.num_ops * point.visual_tokens * point.config.reduced_dim
    size = point.batch if point.dropout else max(1, PAIR_ELEMENTS // per_sample)
    results = []
    for start in range(0, point.batch, size):
        torch.manual_seed(SEED)
        part = slice(start, start + size)
        with torch.set_grad_enabled(step == "training"):
            result = model(*(x[part] for x in inputs))
        if step == "training":
            (result * whole.weighting[part].double()).sum().backward()
        results.append(result.detach())
    found = {"result": torch.cat(results)}
    if step == "training":
        leaves = dict(model.named_parameters()) | dict(zip(("language", "summary", "visual"), inputs, strict=True))
        for name, leaf in leaves.items():
            found[f"gradient of {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each tensor, relative to its largest entry; infinite where it is not finite.

    A gradient that is zero but for rounding is compared on the scale of the largest gradient.
    """
    largest = {name: float(value.abs().max()) for name, value in truth.items()}
    steepest = max((size for name, size in largest.items() if name != "result"), default=0.0)
    relative = {}
    for name, value in truth.items():
        scale = largest[name] if name == "result" or largest[name] > 1e-10 * steepest else steepest
        error = float((found[name].double() - value).abs().max()) / (scale or 1.0)
        relative[name] = error if math.isfinite(error) else math.inf
    return relative


def judge(found: dict[str, float], own: dict[str, float], dtype: torch.dtype) -> Verdict:
    """`found`: a variant's errors.  `own`: those of the reference in the same number format.

    Gradients are held to the reference's worst gradient: rounding may fall on another one of them.
    """
    worst = max((error for name, error in own.items() if name != "result"), default=0.0)
    verdicts = []
    for name, error in found.items():
        allowed = TIMES_REFERENCE * (own[name] if name == "result" else worst)
        verdicts.append(Verdict(name, error, max(allowed, FLOORS[dtype])))
    return max(verdicts, key=lambda verdict: verdict.error / verdict.allowed)
