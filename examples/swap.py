"""The swap in a training loop: one class is exchanged for the other.

    python examples/swap.py --module reference
    python examples/swap.py --module fast

The losses are the same to rounding, dropout included, which both draw from the same seed.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.functional import cross_entropy
from toy import CONFIG, Answerer, batch

from iprm import fast, reference

MODULES = {"reference": reference.IPRM, "fast": fast.IPRM}


def main() -> None:
    """Train, and print every fifth loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", choices=MODULES, default="fast")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()

    torch.manual_seed(0)  # of the weights and, in the steps below, of the dropout
    model = Answerer(MODULES[arguments.module](CONFIG))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    began = time.perf_counter()
    for step in range(arguments.steps):
        asked = batch(64, seed=step)
        loss = cross_entropy(model(asked.language, asked.summary, asked.visual), asked.answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 5 == 0:
            print(f"step {step:3}  loss {loss.item():.4f}")
    print(f"{arguments.module}: {1e3 * (time.perf_counter() - began) / arguments.steps:.1f} ms a step")


if __name__ == "__main__":
    main()
