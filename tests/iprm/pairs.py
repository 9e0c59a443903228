"""A reference and a fast module with the same weights, run on the same inputs and seeds, forward and backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from iprm import IPRMConfig, fast, reference
from iprm_kernels.testing import Draws, judge, rounded

SEED = 1234


def pair(config: IPRMConfig, dtype=torch.float64, backend="auto") -> tuple[reference.IPRM, fast.IPRM]:
    """The two modules, every parameter (biases too) random."""
    first, second = reference.IPRM(config), fast.IPRM(config, backend)
    for p in first.parameters():
        if p.dim() == 1:
            torch.nn.init.normal_(p, std=0.5)
    second.load_state_dict(first.state_dict())
    return first.to(dtype), second.to(dtype)


def inputs(config: IPRMConfig, B=3, L=5, N=7, masked=False) -> list[Tensor | None]:
    """language, summary, visual, language_mask, visual_mask; with masks the first sample has no token at all."""
    D = config.dim
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in ((B, L, D), (B, D), (B, N, D))]
    if not masked:
        return [*tensors, None, None]
    masks = [torch.rand(B, n) > 0.4 for n in (L, N)]
    for mask in masks:
        mask[:1] = False
    return [*tensors, *masks]


def step(model, args, train: bool, seed: int = SEED, weigh_attention: bool = True) -> dict[str, Tensor]:
    """Outputs and every gradient of one forward and backward pass, in float64, by name."""
    dtype = next(model.parameters()).dtype
    args = [a.detach().to(dtype).requires_grad_() if a is not None and a.is_floating_point() else a for a in args]
    model.train(train).zero_grad()
    torch.manual_seed(seed)
    result, attention = model(*args, return_attention=True)
    outputs = {"result": result, **{k: v for k, v in attention._asdict().items() if v is not None}}
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    for name, out in outputs.items():
        if name == "result" or weigh_attention:
            weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
            loss = loss + (out.double() * weight.to(out.device)).sum()
    loss.backward()
    grads = dict(zip(("d_language", "d_summary", "d_visual"), (a.grad for a in args), strict=False))
    grads |= {f"d_{name}": p.grad for name, p in model.named_parameters()}
    return {name: t.detach().double() for name, t in {**outputs, **grads}.items() if t is not None}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """What two modules in float64 gave is the same but for rounding; what is nearly zero is held to the largest."""
    assert got.keys() == want.keys(), got.keys() ^ want.keys()
    norms = {name: t.norm().item() for name, t in want.items()}
    least = 1e-3 * max(norms.values())
    wrong = {name for name, t in want.items() if not (got[name] - t).norm().item() <= 1e-10 * max(norms[name], least)}
    assert not wrong, wrong


def draws_of(
    config: IPRMConfig,
    dtype: torch.dtype,
    *,
    train: bool,
    run: Callable = step,
    stored: torch.dtype | None = None,
    **sizes,
) -> Draws:
    """Draws of a module's weights, inputs and dropout seed, its definition being the reference.

    Args:
        dtype: the format that is judged.  stored: that of weights and inputs, where it is another (autocast).
        run: (model, args, train, seed) -> outputs by name; float64 is to stay float64 in it.
        sizes: those of `inputs`.
    """
    stored = stored or dtype

    def sample():
        first, _ = pair(config)
        weights, args = rounded((dict(first.state_dict()), inputs(config, **sizes)), stored)
        return {"weights": weights, "args": args, "seed": int(torch.randint(2**31, ())), "dtype": stored}

    return Draws(
        dtype,
        sample,
        exact=lambda values: outputs_of(reference.IPRM(config), values | {"dtype": torch.float64}, train, run),
        own=lambda values: outputs_of(reference.IPRM(config), values, train, run),
        smooth="relu" not in dataclasses.astuple(config),
    )


def outputs_of(model, values: dict, train: bool, run: Callable = step) -> dict[str, Tensor]:
    """What `run` makes of the model with the weights and at the inputs of a draw."""
    model.to(values["dtype"]).load_state_dict(values["weights"])
    return run(model, values["args"], train, values["seed"])


def check(config: IPRMConfig, dtype=torch.float64, *, train=False, backend="auto", run: Callable = step, **options):
    """Hold the fast module to the reference, forward and backward (see `iprm_kernels.testing`)."""
    draws, model = draws_of(config, dtype, train=train, run=run, **options), fast.IPRM(config, backend)
    verdict = judge(draws, lambda values: outputs_of(model, values, train, run))
    assert verdict.passed, str(verdict)
