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

ROUNDS = 25
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


def seconds(variants: dict[str, tuple[str, IPRMConfig, memory.Sizes]]) -> dict[str, dict[str, float]]:
    """Return the seconds of `training` (a step) and `evaluation` (a forward) of variants.

    A variant is a reasoner (one of `REASONERS`), its configuration, and the sizes of its batch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps, forwards = {}, {}
        for name, (reasoner, config, sizes) in variants.items():
            trainer, batch = memory.random_trainer(reasoner, config, sizes), memory.random_batch(sizes)
            steps[name] = partial(trainer.step, batch, seed=0)
            forwards[name] = partial(_evaluate, trainer.model, batch)
        training, evaluation = _medians(steps), _medians(forwards)
    finally:
        torch.set_num_threads(threads)
    return {name: {"training": training[name], "evaluation": evaluation[name]} for name in variants}
