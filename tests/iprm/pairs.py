"""A reference and a fast module with the same weights, run on the same inputs and seeds, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm import IPRMConfig, fast, reference

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
            loss = loss + (out.double() * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum()
    loss.backward()
    grads = dict(zip(("d_language", "d_summary", "d_visual"), (a.grad for a in args), strict=False))
    grads |= {f"d_{name}": p.grad for name, p in model.named_parameters()}
    return {name: t.detach().double() for name, t in {**outputs, **grads}.items() if t is not None}


def errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """Largest error by name, relative to the tensor's largest entry.

    Some gradients are zero but for rounding (a bias that shifts a whole row of logits): the smallest scale is a
    thousandth of the largest gradient's.
    """
    assert got.keys() == want.keys(), got.keys() ^ want.keys()
    scale = max((t.abs().max().item() for t in want.values() if t.numel()), default=0.0)
    floor = max(1e-3 * scale, 1e-30)
    found = {}
    for name, w in want.items():
        assert got[name].shape == w.shape, name
        assert got[name].isfinite().all(), name
        found[name] = ((got[name] - w).abs().max() / max(w.abs().max().item(), floor)).item() if w.numel() else 0.0
    return found
