"""Where each step looked, as a picture: a model is trained for a moment, and one question of each kind is drawn.

    python examples/attention_pictures.py --out build/attention

Needs matplotlib, the extra `plots`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from toy import CONFIG, GRID, QUESTIONS, Answerer, batch, train

from iprm.attention import draw
from iprm.fast import IPRM


def main() -> None:
    """Train, say how much of the attention is where the answer is, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("build/attention"), help="folder of the pictures")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = Answerer(IPRM(CONFIG))
    train(model, arguments.steps)
    asked = batch(200, seed=arguments.steps)  # that it was not trained on
    with torch.no_grad():
        _, attention = model.block.eval()(*asked[:3], return_attention=True)

    N = GRID[0] * GRID[1]
    there = attention.visual.take_along_dim(asked.cells[None, :, None, None], -1).squeeze(-1)  # (T, B, K)
    print(f"attention on the cell that answers, of {N} ({100 / N:.0f}% by chance), mean of 200 questions")
    for step, shares in enumerate(there.mean(1), 1):
        print(f"step {step}: " + "  ".join(f"op {k} {100 * share:3.0f}%" for k, share in enumerate(shares, 1)))

    arguments.out.mkdir(parents=True, exist_ok=True)
    for kind, words in enumerate(QUESTIONS):
        sample = asked.questions.tolist().index(kind)
        row, column = divmod(int(asked.cells[sample]), GRID[1])
        path = arguments.out / f"{words[1]}.png"
        draw(attention, sample, words, GRID, path)
        print(f"{path}: the answer is in row {row + 1}, column {column + 1}")


if __name__ == "__main__":
    main()
