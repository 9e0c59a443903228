"""Run a core and its definition on the same draws of inputs, forward and backward, and judge the core."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iprm_kernels.testing import Draws, Verdict, judge, map_tensors, rounded

Inputs = dict[str, "Tensor | list[Tensor]"]


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of the inputs by name, lists opened."""
    named = {}
    for name, value in inputs.items():
        named |= {f"{name}[{i}]": t for i, t in enumerate(value)} if isinstance(value, list) else {name: value}
    return named


def run(core: Callable, values: dict, dtype: torch.dtype, **options) -> dict[str, Tensor]:
    """Outputs and input gradients of the core in `dtype`, by name.

    values: `inputs` of the core; `grads`, the gradients of its outputs; `options`, the seed among them.
    """
    inputs = map_tensors(lambda t: t.detach().to(dtype).requires_grad_(), values["inputs"])
    outputs = core(**inputs, **values["options"], **options)
    loss = sum((out.double() * grad).sum() for out, grad in zip(outputs, values["grads"], strict=True))
    loss.backward()
    found = {f"output {i}": t for i, t in enumerate(outputs)}
    found |= {f"gradient of {name}": t.grad for name, t in leaves(inputs).items()}
    return {name: t.detach() for name, t in found.items()}


def draws_of(oracle: Callable, make: Callable[[], Inputs], dtype: torch.dtype, **options) -> Draws:
    """Draws of a core's inputs, its definition being `oracle`; each with masks of its own where there is dropout."""

    def sample():
        inputs, chosen = rounded(make(), dtype), dict(options)
        if chosen.get("seed") is not None:
            chosen["seed"] = chosen["seed"] + torch.randint(2**20, (1,))
        grads = [torch.randn_like(out) for out in oracle(**inputs, **chosen)]
        return {"inputs": inputs, "grads": grads, "options": chosen}

    return Draws(
        dtype,
        sample,
        exact=lambda values: run(oracle, values, torch.float64),
        own=lambda values: run(oracle, values, dtype),
        smooth=options.get("activation") != "relu",
    )


def verdict_on(core: Callable, draws: Draws, backend: str) -> Verdict:
    """The verdict on the core as one backend runs it."""
    return judge(draws, lambda values: run(core, values, draws.dtype, backend=backend))


def compare(core: Callable, oracle: Callable, make: Callable[[], Inputs], dtype: torch.dtype, backend: str, **options):
    """Hold the core to its definition, on inputs that `make` draws (see `iprm_kernels.testing`)."""
    verdict = verdict_on(core, draws_of(oracle, make, dtype, **options), backend)
    assert verdict.passed, str(verdict)
