"""One model with its optimiser: a training step, an evaluation, and the time they take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from iprm.vqa.data.tensors import Batch


@dataclass(frozen=True)
class Schedule:
    """AdamW, its rate raised to `lr` over `warmup` of the steps and then lowered to zero."""

    steps: int
    lr: float
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Trainer:
    """Trains one model and keeps its losses and the seconds of its steps."""

    model: nn.Module
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype = torch.float32
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.schedule
        self.model.to(self.device, self.dtype)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=s.lr, weight_decay=s.weight_decay)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, max_lr=s.lr, total_steps=s.steps, pct_start=s.warmup, cycle_momentum=False
        )

    def step(self, batch: Batch, seed: int) -> float:
        """Take one step on `batch`, the generator of torch at `seed`; return the loss before it."""
        torch.manual_seed(seed)
        _synchronise(self.device)
        start = time.perf_counter()
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(batch), batch.answers)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.rate.step()
        self.losses.append(loss.item())  # waits for the device
        self.seconds.append(time.perf_counter() - start)
        return self.losses[-1]

    def steps_per_second(self) -> float:
        """Return the steps per second by the median step, so that start-up does not count."""
        return 1.0 / torch.tensor(self.seconds).median().item()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], families: list[str]) -> dict[str, float]:
        """Return the share of right answers: `overall`, and of each family in `families`."""
        self.model.eval()
        right: Counter[int] = Counter()
        asked: Counter[int] = Counter()
        for batch in batches:
            hits = self.model(batch.to(self.device, self.dtype)).argmax(-1).cpu() == batch.answers
            asked.update(batch.families.tolist())
            right.update(batch.families[hits].tolist())
        shares = {name: right[i] / asked[i] for i, name in enumerate(families)}
        return {"overall": right.total() / asked.total()} | shares
