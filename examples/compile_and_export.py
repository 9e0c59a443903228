"""torch.compile in one graph, and torch.export saved and loaded for other sizes.

    python examples/compile_and_export.py
    python examples/compile_and_export.py --compiler inductor      # generates C++: about a minute the first time

A program that loads the export imports `iprm_kernels`, which registers the operators, and nothing else of this package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

import iprm_kernels  # noqa: F401  what a program that only loads an export imports
from iprm import IPRMConfig
from iprm.fast import IPRM

CONFIG = IPRMConfig(dim=64, num_ops=4, num_steps=3)


def inputs(B: int, L: int, N: int) -> tuple[Tensor, ...]:
    """language (B, L, D), summary (B, D), visual (B, N, D), and masks (B, L), (B, N) that keep about half."""
    D = CONFIG.dim
    return torch.randn(B, L, D), torch.randn(B, D), torch.randn(B, N, D), torch.rand(B, L) > 0.5, torch.rand(B, N) > 0.5


def compile_training(model: IPRM, compiler: str) -> None:
    """Compare a training step: from the same seed the compiled module drops the same elements."""
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=compiler)
    for sizes in ((4, 9, 25), (3, 12, 49)):  # one graph for both
        arguments, found = inputs(*sizes), []
        for module in (model, compiled):
            model.zero_grad()
            torch.manual_seed(0)
            result = module(*arguments)
            result.square().sum().backward()
            found.append((result.detach(), model.execution.C1.weight.grad.clone()))
        differences = [(b - a).abs().max() / a.abs().max() for a, b in zip(*found, strict=True)]
        print("compiled, B = {}, L = {}, N = {}:".format(*sizes), end=" ")
        print("result differs by {:.0e}, a gradient by {:.0e}".format(*differences))


def export_evaluation(model: IPRM, path: Path) -> None:
    """Export with sizes left open, save, load, and compare for other sizes."""
    B, L, N = (Dim(name, min=2) for name in "BLN")
    shapes = ({0: B, 1: L}, {0: B}, {0: B, 1: N}, {0: B, 1: L}, {0: B, 1: N})
    program = torch.export.export(model, inputs(4, 9, 25), dynamic_shapes=shapes)
    torch.export.save(program, path)
    loaded, arguments = torch.export.load(path).module(), inputs(3, 12, 49)
    want = model(*arguments)
    difference = (loaded(*arguments) - want).abs().max() / want.abs().max()
    print(f"exported to {path}, loaded: result differs by {difference:.0e}")


def main() -> None:
    """Compile, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="aot_eager", help="backend of torch.compile; default aot_eager")
    parser.add_argument("--out", type=Path, default=Path("build/iprm.pt2"), help="default build/iprm.pt2")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = IPRM(CONFIG)
    compile_training(model.train(), arguments.compiler)
    export_evaluation(model.eval(), arguments.out)


if __name__ == "__main__":
    main()
