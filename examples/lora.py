"""A low-rank adapter (LoRA) in two forms that train alike: as a parametrization, which keeps the kernels, and as a
module in the layer's place, with which IPRM runs as the reference does and warns.

    python examples/lora.py

The layers of the library peft (tried: 0.21) are of the second form; after its `merge_and_unload` the module is fused.
Frozen weights get no gradient, and the products of their gradients are not made.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from toy import CONFIG, Answerer, batch, train

from iprm.fast import IPRM


class LowRank(nn.Module):
    """W -> W + B A, with B zero at first."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        outputs, inputs = weight.shape
        like = {"dtype": weight.dtype, "device": weight.device}
        self.A = nn.Parameter(torch.randn(rank, inputs, **like) / inputs**0.5)
        self.B = nn.Parameter(torch.zeros(outputs, rank, **like))

    def forward(self, weight: Tensor) -> Tensor:
        """(outputs, inputs) -> (outputs, inputs)."""
        return weight + self.B @ self.A


class Around(nn.Module):
    """x -> layer(x) + B A x, the form of adapter libraries."""

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__()
        self.layer, self.added = layer, LowRank(layer.weight, rank)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.layer(x) + x @ self.added.A.mT @ self.added.B.mT


def parametrized(block: IPRM, path: str, rank: int) -> None:
    """Make the weight of the layer the sum; the layer remains an `nn.Linear`."""
    layer = block.get_submodule(path)
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def wrapped(block: IPRM, path: str, rank: int) -> None:
    """Put a module around the layer."""
    block.set_submodule(path, Around(block.get_submodule(path), rank))


def merge(block: IPRM) -> None:
    """Make the sums ordinary weights; the adapters are gone."""
    for layer in block.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")


def main() -> None:
    """Train adapters and the head in both forms, and merge the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    for adapt in (parametrized, wrapped):
        torch.manual_seed(0)
        block = IPRM(CONFIG).requires_grad_(False)
        layers = {path: layer for path, layer in block.named_modules() if isinstance(layer, nn.Linear)}
        for path, layer in layers.items():
            if layer.out_features > arguments.rank:
                adapt(block, path, arguments.rank)
        model = Answerer(block)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(f"{adapt.__name__}: {trained} of {sum(p.numel() for p in model.parameters())} numbers are trained")
        print(f"  fused: {'no, ' + why if (why := block.unfused()) else 'yes'}")
        losses = train(model, arguments.steps, lr=1e-2)
        print("  losses " + " ".join(f"{loss:.4f}" for loss in losses[::5]))
        if adapt is parametrized:
            asked = batch(64, seed=arguments.steps)[:3]
            before = model.eval()(*asked)
            merge(block)
            print(f"  merged: largest difference {(model(*asked) - before).abs().max():.1e}")


if __name__ == "__main__":
    main()
