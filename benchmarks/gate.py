"""The gate: a variant is timed only where its result and gradients are those of the mechanism.

Truth is the reference module in float64; several draws of weights, inputs and dropout masks are judged as in all tests
(`iprm_kernels.testing`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.points import SEED, Point
from benchmarks.workload import Workload
from iprm import reference
from iprm_kernels.testing import Draws, Outputs, Verdict, judge, rounded

BIAS = 0.1
"""Standard deviation of the biases that are drawn: they start at zero, where one left out would not show."""
PAIR_ELEMENTS = 2**22
"""The float64 run takes as many samples at once as keep B·K·N·R within this."""


def sample(point: Point) -> dict:
    """A draw of weights, inputs, weighting of the loss and dropout seed, in float64 on the point's device."""
    module = reference.IPRM(point.config)
    for p in module.parameters():
        if p.dim() == 1:
            torch.nn.init.normal_(p, std=BIAS)
    tensors = {
        "weights": dict(module.state_dict()),
        "inputs": [torch.randn(shape) for shape in point.input_shapes],
        "weighting": torch.randn(point.batch, point.dim),
    }
    return rounded(tensors, point.stored_dtype, point.device) | {"seed": int(torch.randint(2**31, ()))}


def exact(point: Point, step: str, values: dict) -> dict[str, Tensor]:
    """What `Workload.outputs` ought to be at a draw, in float64.

    Samples do not depend on each other and the loss is a sum, so they go a few at a time; with dropout, whose
    masks are numbered through the batch, all at once.
    """
    training = step == "training"
    model = reference.IPRM(point.config).to(point.device, torch.float64).train(training)
    model.load_state_dict(values["weights"])
    inputs = [x.detach().requires_grad_(training) for x in values["inputs"]]
    per_sample = point.num_ops * point.visual_tokens * point.config.reduced_dim
    size = point.batch if point.dropout else max(1, PAIR_ELEMENTS // per_sample)
    results = []
    for start in range(0, point.batch, size):
        torch.manual_seed(values["seed"])
        part = slice(start, start + size)
        with torch.set_grad_enabled(training):
            result = model(*(x[part] for x in inputs))
        if training:
            (result * values["weighting"][part]).sum().backward()
        results.append(result.detach())
    found = {"result": torch.cat(results)}
    if training:
        leaves = dict(model.named_parameters()) | dict(zip(("language", "summary", "visual"), inputs, strict=True))
        for name, leaf in leaves.items():
            found[f"gradient of {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


def facts(verdict: Verdict) -> dict:
    """A verdict, for a record."""
    names = ("passed", "where", "error", "ratio", "allowed", "draws")
    return {name: getattr(verdict, name) for name in names}


class Gate:
    """Judges the variants at a point, all on the same draws.

    Args:
        step: "forward" or "training".
    """

    def __init__(self, point: Point, step: str):
        self._reference = Workload("reference", point, step)
        self._own: dict[int, Outputs] = {}
        self._draws = Draws(
            point.compute_dtype,
            lambda: sample(point),
            exact=lambda values: exact(point, step, values),
            own=self.own,
            moves=2,
            seed=SEED,
        )

    def own(self, values: dict) -> Outputs:
        """The reference in the point's format, run once a draw."""
        if values["seed"] not in self._own:
            self._own[values["seed"]] = self._reference.outputs_at(values)
        return self._own[values["seed"]]

    def verdict(self, workload: Workload) -> Verdict:
        """The verdict on a variant, which is left with the first draw's weights and inputs."""
        verdict = judge(self._draws, self.own if workload.name == "reference" else workload.outputs_at)
        workload.load(self._draws[0].values)
        return verdict
