"""One variant at one point, ready to run: the forward pass, or a training step."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from benchmarks.points import SEED, Point
from benchmarks.variants import module_of, runner_of

STEPS = ("forward", "training")


class Workload:
    """A variant with parameters and inputs of its own, the same numbers for every variant.

    Args:
        name: a variant.  point: where.
        step: "forward" (evaluation, no gradients), or "training" (forward and backward pass of
            Σ weighting ⊙ result, gradients of all parameters and of the three inputs).
    """

    def __init__(self, name: str, point: Point, step: str):
        self.name, self.point, self.step, self.seed = name, point, step, SEED
        self.module = module_of(name, point.config).to(point.device, point.stored_dtype)
        self.module.train(step == "training")
        self.inputs = [x.requires_grad_(step == "training") for x in point.inputs()]
        self.weighting = point.weighting()
        self._run = runner_of(name, self.module)

    def leaves(self) -> dict[str, Tensor]:
        """Everything that gets a gradient, by name."""
        names = ("language", "summary", "visual")
        return dict(self.module.named_parameters()) | dict(zip(names, self.inputs, strict=True))

    @torch.no_grad()
    def load(self, values: dict) -> None:
        """Take the weights, inputs, weighting and dropout seed of a draw of the gate, in place."""
        self.module.load_state_dict(values["weights"])
        for x, value in zip(self.inputs, values["inputs"], strict=True):
            x.copy_(value)
        self.weighting.copy_(values["weighting"])
        self.seed = values["seed"]

    def prepare(self) -> None:
        """Gradients to zero, in place; the same dropout seed each time.

        Each leaf has a gradient of its own from the start: a compiler may give one tensor as those of two leaves.
        """
        torch.manual_seed(self.seed)
        for leaf in self.leaves().values() if self.step == "training" else ():
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.zero_()

    def _autocast(self) -> contextlib.AbstractContextManager:
        if not self.point.amp:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.point.device).type, self.point.compute_dtype)

    def __call__(self) -> Tensor:
        """Run once; the result (B, D)."""
        with torch.set_grad_enabled(self.step == "training"), self._autocast():
            result = self._run(*self.inputs)
        if self.step == "training":
            (result * self.weighting).sum().backward()
        return result.detach()

    def outputs(self) -> dict[str, Tensor]:
        """Run once; the result, and for a training step every gradient, by name."""
        self.prepare()
        found = {"result": self()}
        if self.step == "training":
            for name, leaf in self.leaves().items():
                found[f"gradient of {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return {name: value.clone() for name, value in found.items()}

    def outputs_at(self, values: dict) -> dict[str, Tensor]:
        """`outputs` at a draw of the gate."""
        self.load(values)
        return self.outputs()
