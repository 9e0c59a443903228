"""What an answer costs: accuracy against time and memory, IPRM against blocks of as many parameters, over K.

Times are medians of interleaved rounds, one process at a time, of a training step and of an evaluation on random input;
memory is the extra peak of a training step in a fresh process (`iprm.vqa.training.memory`).
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from iprm.config import IPRMConfig
from iprm.vqa.data.tensors import Batch
from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, families, figure
from iprm.vqa.training import memory
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import Trained

TITLE = "What an answer costs"
REASONERS = {"IPRM": "fast", "cross-attention": "cross_attention", "concatenation": "concat_attention"}
TOKENS = {"objects": 8, "grid": 196}
LARGE = "grid"  # where memory is measured
ROUNDS = 9


def _variant(name: str, K: int) -> str:
    return f"{name}, K = {K}"


def runs(form: Form) -> list[Run]:
    """Every kind of block and every K over the seeds."""
    return [
        Run(_variant(name, K), seed, overrides(form, model__reasoner=reasoner, model__iprm__num_ops=K))
        for seed in form.seeds
        for name, reasoner in REASONERS.items()
        for K in form.operations
    ]


def measure(trained: Trained) -> dict[str, Any]:
    """The accuracies say it all; costs are measured apart, with nothing else running."""
    return {}


@torch.no_grad()
def _evaluate(model: nn.Module, batch: Batch) -> None:
    model.eval()
    model(batch)


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _timed(calls: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of each call, the calls interleaved."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round in range(ROUNDS + 1):
        for name, call in calls.items():
            seconds = _seconds(call)
            if round:
                found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def once(form: Form) -> dict[str, dict[str, float]]:
    """Return, for every variant, seconds and bytes at each number of visual tokens."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _costs(form)
    finally:
        torch.set_num_threads(threads)


def _costs(form: Form) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    config = configuration(None, overrides(form))
    for where, tokens in TOKENS.items():
        sizes = memory.Sizes(config.training.batch_size, 24, tokens)
        batch, training, evaluation = memory.random_batch(sizes), {}, {}
        for name, reasoner in REASONERS.items():
            for K in form.operations:
                iprm = IPRMConfig(**config.model.iprm | {"num_ops": K})
                trainer = memory.random_trainer(reasoner, iprm, sizes)
                variant = _variant(name, K)
                training[variant] = partial(trainer.step, batch, seed=0)
                evaluation[variant] = partial(_evaluate, trainer.model, batch)
                found.setdefault(variant, {})
                if where == LARGE:
                    found[variant]["memory"] = memory.measure(reasoner, iprm, sizes)
        for what, calls in (("training", training), ("evaluation", evaluation)):
            for variant, seconds in _timed(calls).items():
                found[variant][f"{what}, {where}"] = seconds
    return found


def tables(results: Results) -> list[Table]:
    """Accuracy and cost, a row for each variant."""
    names = families(results.runs.values())
    variants = list(results.once)
    accuracies = [
        [v, *(spread(results.of(v, lambda r, n=name: r["accuracy"].get(n))) for name in names)] for v in variants
    ]
    rows = [
        [
            variant,
            spread(results.of(variant, lambda run: run["accuracy"]["overall"])),
            spread(results.of(variant, lambda run: run["parameters"]), "{:,.0f}", 1.0),
            *(f"{1000 * cost[f'{what}, {where}']:.1f}" for where in TOKENS for what in ("training", "evaluation")),
            f"{cost['memory'] / 1e6:.0f}",
        ]
        for variant, cost in results.once.items()
    ]
    costs = [f"{what}, N = {N}, ms" for N in TOKENS.values() for what in ("training step", "evaluation")]
    header = ["", "accuracy, %", "parameters", *costs, f"memory, N = {TOKENS[LARGE]}, MB"]
    return [Table("Accuracy and cost", header, rows), Table("Accuracy by family, %", ["", *names], accuracies)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy against time and memory of a training step; a line for each kind of block, a point for each K."""

    def draw(fig) -> None:
        axes = fig.subplots(1, 2, sharey=True)
        for panel, (what, unit, scale) in zip(
            axes,
            (("training, grid", "ms a training step, N = 196", 1e3), ("memory", "memory of it, MB", 1e-6)),
            strict=True,
        ):
            for name in REASONERS:
                variants = [v for v in results.once if v.startswith(f"{name}, ")]
                values = [results.of(v, lambda run: run["accuracy"]["overall"]) for v in variants]
                panel.errorbar(
                    [scale * results.once[v][what] for v in variants],
                    [100 * np.mean(v) if v else np.nan for v in values],
                    [100 * np.std(v, ddof=1) if len(v) > 1 else 0 for v in values],
                    marker="o",
                    label=name,
                )
            panel.set_xlabel(unit)
            panel.set_xscale("log")
        axes[0].set_ylabel("accuracy, %")
        axes[0].legend(frameon=False)

    return [figure(draw, folder / "cost.png", (10, 4))]
