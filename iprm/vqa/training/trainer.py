"""One model with its optimiser: a training step, an evaluation, and the time they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from iprm.vqa.data.examples import Question
from iprm.vqa.data.tensors import UNKNOWN, Batch
from iprm.vqa.training.distributed import ALONE, Ranks
from iprm.vqa.training.multiple_choice import by_question

PAST = ("losses", "seconds")


@dataclass(frozen=True)
class Schedule:
    """AdamW, its rate raised to `lr` over `warmup` of the steps and then lowered to zero along a cosine."""

    steps: int
    lr: float
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Return the rate of a step, from 0."""
        rising = max(1, round(self.warmup * self.steps))
        fallen = max(0, step - rising) / max(1, self.steps - rising)
        return self.lr * min(1.0, (step + 1) / rising) * (1 + math.cos(math.pi * fallen)) / 2


def _seed(seed: int, device: torch.device) -> None:
    """Set the generators that a step on `device` may draw from.

    `torch.manual_seed` sets those of every kind of device, for half a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Piece(NamedTuple):
    """Questions of a batch, and the seed that the generator of torch is set to before they are answered."""

    batch: Batch
    seed: int


class Loss(nn.Module):
    """The sum of the losses of pieces, over the size of the batch that they are of."""

    def __init__(self, model: nn.Module, autocast: Callable[[], torch.autocast]):
        super().__init__()
        self.model, self.autocast = model, autocast

    def forward(self, pieces: Sequence[Piece], size: int) -> Tensor:
        """Return the scalar."""
        losses = []
        for batch, seed in pieces:
            _seed(seed, batch.answers.device)
            with self.autocast():  # of each piece alone, so that their gradients are added up in the parameters' dtype
                losses.append(cross_entropy(self.model(batch), batch.answers, reduction="sum"))
        return torch.stack(losses).sum() / size


@dataclass
class Trainer:
    """Trains one model and keeps its losses and the seconds of its steps.

    Parameters, optimiser and input are in `dtype`; the products of a step are in `products`, where given (autocast).
    With several `ranks`, each process's trainer takes its own pieces of every batch.
    """

    model: nn.Module
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype = torch.float32
    products: torch.dtype | None = None
    ranks: Ranks = ALONE
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.to(self.device, self.dtype)
        self.loss = self.ranks.wrap(Loss(self.model, self._autocast))
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.schedule.lr, weight_decay=self.schedule.weight_decay, fused=True
        )
        self._unread: list[tuple[Tensor, Tensor]] = []

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.losses) + len(self._unread)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.products, enabled=self.products is not None)

    def update(self, pieces: Sequence[Piece], size: int) -> None:
        """Take one step on a batch of `size` questions, of which `pieces` are this process's; wait for no device."""
        if not self._unread:
            self._since = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.steps)
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(pieces, size)
        (loss * self.ranks.size).backward()  # as the gradients of the processes are averaged
        norm = clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimiser.step()
        self._unread.append((loss.detach(), norm))

    def read(self) -> tuple[list[float], list[float]]:
        """Wait for the device; return the losses and the gradient norms of the steps since the last call, one at least.

        The losses are those before each step, over the whole batch; the norms those before clipping.
        """
        losses, norms = (torch.stack(values) for values in zip(*self._unread, strict=True))
        found = self.ranks.sum(losses).tolist(), norms.tolist()
        taken = (time.perf_counter() - self._since) / len(self._unread)
        self.losses += found[0]
        self.seconds += [taken] * len(self._unread)
        self._unread = []
        return found

    def step(self, batch: Batch, seed: int) -> float:
        """Take one step on `batch`, the generator of torch at `seed`; return the loss before it."""
        self.update([Piece(batch, seed)], len(batch.answers))
        return self.read()[0][0]

    def steps_per_second(self) -> float:
        """Return the steps per second by the median step, so that start-up does not count."""
        return 1.0 / torch.tensor(self.seconds).median().item()

    def evaluate(
        self, batches: Iterable[Batch], families: list[str], questions: Sequence[Question] = ()
    ) -> dict[str, float]:
        """Return the share of right answers: `overall`, and of each family in `families`.

        Given the `questions` of the split, also the shares of `multiple_choice.by_question`, where they have options.
        With several ranks each process is given its own batches and returns what all found together.
        """
        with self._autocast():
            found = count(self.model, (b.to(self.device, self.dtype) for b in batches), len(families), len(questions))
        counts, verdicts = map(self.ranks.sum, found)
        return shares(counts, families) | by_question(questions, verdicts)

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on besides its batch and seed; losses and seconds of the last ones."""
        moments = {
            f"optimiser.{index}.{name}": value
            for index, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        past = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in PAST}
        return past | moments | weights

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(part(state, "model."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part(state, "optimiser.").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        for name in PAST:
            setattr(self, name, state[name].tolist())


@torch.no_grad()
def count(model: nn.Module, batches: Iterable[Batch], families: int, questions: int = 0) -> tuple[Tensor, Tensor]:
    """Return (2, families) int64: how many questions of each family are answered right, and how many there are.

    And (2, questions) float64, by the questions' rows, where that is not 0: 1 for a right answer, and the probability
    of the true one. Both are 0 for the questions that the batches leave out, and where training never saw the answer.
    The batches are on the model's device.
    """
    model.eval()
    counts = torch.zeros(2, families, dtype=torch.int64)
    verdicts = torch.zeros(2, questions, dtype=torch.float64)
    for batch in batches:
        logits, known = model(batch), batch.answers != UNKNOWN
        right = (logits.argmax(-1) == batch.answers) & known
        both = batch.families[right], batch.families
        counts += torch.stack([rows.bincount(minlength=families) for rows in both]).cpu()
        if questions:
            truth = logits.double().softmax(-1).gather(-1, batch.answers[:, None])[:, 0] * known
            verdicts[:, batch.rows.cpu()] = torch.stack([right, truth]).cpu()
    return counts, verdicts


def shares(counts: Tensor, families: list[str]) -> dict[str, float]:
    """Return what `count` counted as shares of right answers: `overall`, and of each family that was asked."""
    right, asked = counts.double()
    each = zip(families, right.tolist(), asked.tolist(), strict=True)
    return {"overall": (right.sum() / asked.sum()).item()} | {name: r / of for name, r, of in each if of}


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, named by the rest."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
