"""Seconds of training steps and evaluations, on one thread, on random input."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from iprm.config import IPRMConfig
from iprm.vqa.data.tensors import Batch
from iprm.vqa.training import memory

ROUNDS = 9
WORDS = 24  # of a question


@torch.no_grad()
def _evaluate(model: nn.Module, batch: Batch) -> None:
    model.eval()
    model(batch)


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each call; rounds of all calls in turn, the first of them not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            found[name].append(_time(call))
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def seconds(variants: dict[str, tuple[str, IPRMConfig]], sizes: memory.Sizes) -> dict[str, dict[str, float]]:
    """Return the seconds of `training` (a step) and `evaluation` (a forward) of variants: reasoner, configuration."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = memory.random_batch(sizes)
        trainers = {name: memory.random_trainer(*variant, sizes) for name, variant in variants.items()}
        training = _medians({name: partial(trainer.step, batch, seed=0) for name, trainer in trainers.items()})
        evaluation = _medians({name: partial(_evaluate, trainer.model, batch) for name, trainer in trainers.items()})
    finally:
        torch.set_num_threads(threads)
    return {name: {"training": training[name], "evaluation": evaluation[name]} for name in variants}
