"""Questions about a video: a visual token is an object in a frame, and its time is one of its numbers.

    python examples/video.py

Objects come and go; a question asks for the shape that the first frame shows, or for that of the last one. What a frame
does not show is padding. The attention, folded back into frames, shows that the model uses the time.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from iprm import Attention, IPRMConfig
from iprm.fast import IPRM
from iprm.vqa.data.tensors import PAD
from iprm.vqa.models.encoders import TokenEncoder

FRAMES, OBJECTS, SHAPES, QUESTIONS, DIM = 6, 4, 5, ("first", "last"), 32


class Videos(NamedTuple):
    """What a detector would say of B videos."""

    shapes: Tensor  # (B, F, O) int64, from 1; PAD where not seen
    places: Tensor  # (B, F, O, 2) float32
    seen: Tensor  # (B, F, O) bool
    questions: Tensor  # (B,) int64, into QUESTIONS
    answers: Tensor  # (B,) int64, below SHAPES


def videos(B: int, seed: int) -> Videos:
    """Return videos of objects that drift; the first and the last frame show one object each."""
    draw = torch.Generator().manual_seed(seed)
    rows, questions = torch.arange(B), torch.randint(len(QUESTIONS), (B,), generator=draw)
    shapes = torch.randint(1, SHAPES + 1, (B, OBJECTS), generator=draw)
    seen = torch.rand(B, FRAMES, OBJECTS, generator=draw) < 0.5
    ends = torch.randint(OBJECTS, (B, 2), generator=draw)  # the object of the first frame and of the last
    for end, frame in enumerate((0, -1)):
        seen[:, frame] = torch.arange(OBJECTS) == ends[:, end, None]
    begin, drift = torch.randn(2, B, 1, OBJECTS, 2, generator=draw)
    places = begin + drift * torch.linspace(0, 1, FRAMES)[:, None, None]
    answers = shapes[rows, ends[rows, questions]] - 1
    return Videos(shapes[:, None].where(seen, PAD), places, seen, questions, answers)


class VideoAnswerer(nn.Module):
    """Encoders, IPRM, a linear answer head."""

    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(len(QUESTIONS), DIM)
        self.token = TokenEncoder([1 + SHAPES], 3, DIM)
        self.block = IPRM(IPRMConfig(dim=DIM, num_ops=3, num_steps=2, op_init="language"))
        self.head = nn.Linear(DIM, SHAPES)

    def forward(self, video: Videos) -> tuple[Tensor, Attention]:
        """Return the logits (B, SHAPES) and where each step looked, over N = F·O tokens."""
        B = len(video.questions)
        time = torch.linspace(0, 1, FRAMES)[:, None, None].expand(B, FRAMES, OBJECTS, 1)
        numbers = torch.cat([video.places, time], -1)
        visual = self.token(video.shapes.flatten(1, 2)[..., None], numbers.flatten(1, 2))
        summary = self.word(video.questions)
        result, attention = self.block(
            summary[:, None], summary, visual, visual_mask=video.seen.flatten(1, 2), return_attention=True
        )
        return self.head(result), attention


def main() -> None:
    """Train, and print the accuracy and the attention on each frame."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    model = VideoAnswerer()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        video = videos(64, seed=step)
        loss = cross_entropy(model(video)[0], video.answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    video = videos(500, seed=steps)
    with torch.no_grad():
        logits, attention = model.eval()(video)
    print(f"{100 * (logits.argmax(1) == video.answers).float().mean():.0f}% right, {100 / SHAPES:.0f}% by chance")
    by_frame = attention.visual.unflatten(-1, (FRAMES, OBJECTS)).sum(-1).mean((0, 2))  # (B, F)
    for kind, word in enumerate(QUESTIONS):
        shares = 100 * by_frame[video.questions == kind].mean(0)
        print(f"{word:5}: attention on the frames " + " ".join(f"{share:3.0f}%" for share in shares))


if __name__ == "__main__":
    main()
