"""The task that some examples train on: a picture shows a colour and a shape somewhere, the question asks for one.

Words and cells are vectors of the model's width already, so that a model is a block and a linear answer head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from iprm import IPRMConfig

DIM, GRID, CLASSES = 32, (5, 5), 4
QUESTIONS = (("which", "colour", "?"), ("which", "shape", "?"))
CONFIG = IPRMConfig(dim=DIM, num_ops=3, num_steps=2)

_fixed = torch.Generator().manual_seed(0)
WORDS = torch.randn(len(QUESTIONS), len(QUESTIONS[0]), DIM, generator=_fixed)
PATTERNS = 2.0 * torch.randn(len(QUESTIONS), CLASSES, DIM, generator=_fixed)


class Batch(NamedTuple):
    """B questions, each about a picture of its own."""

    language: Tensor  # (B, L, D) float32
    summary: Tensor  # (B, D) float32
    visual: Tensor  # (B, N, D) float32, the cells of GRID row by row
    questions: Tensor  # (B,) int64, into QUESTIONS
    answers: Tensor  # (B,) int64, below CLASSES
    cells: Tensor  # (B,) int64, where the answer is to be seen


def batch(size: int, seed: int) -> Batch:
    """Return `size` questions, a function of the seed."""
    draw = torch.Generator().manual_seed(seed)
    rows, kinds, N = torch.arange(size), len(QUESTIONS), GRID[0] * GRID[1]
    questions = torch.randint(kinds, (size,), generator=draw)
    classes = torch.randint(CLASSES, (size, kinds), generator=draw)
    cells = torch.rand(size, N, generator=draw).argsort(1)[:, :kinds]
    visual = 0.5 * torch.randn(size, N, DIM, generator=draw)
    for kind, patterns in enumerate(PATTERNS):
        visual[rows, cells[:, kind]] += patterns[classes[:, kind]]
    language = WORDS[questions]
    return Batch(language, language.mean(1), visual, questions, classes[rows, questions], cells[rows, questions])


class Answerer(nn.Module):
    """A block with IPRM's inputs and result, and a linear answer head."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block, self.head = block, nn.Linear(DIM, CLASSES)

    def forward(self, language: Tensor, summary: Tensor, visual: Tensor) -> Tensor:
        """(B, L, D), (B, D), (B, N, D) -> logits (B, CLASSES)."""
        return self.head(self.block(language, summary, visual))


def train(model: Answerer, steps: int, lr: float = 3e-3) -> list[float]:
    """Train what requires a gradient, on the batches of the seeds 0, 1, ..., and return the loss of each step."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        asked = batch(64, seed=step)
        loss = cross_entropy(model(asked.language, asked.summary, asked.visual), asked.answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
