"""Attention over known steps: does an operation, in some step, look at what a step of the true program is about?

For a question of S program steps, every (step t, operation k) is a slot that a program step may be matched with, each
slot once at most; a match is worth the share of the slot's visual attention that lies on the program step's true
objects. The best matching of all is taken, so chance is not |objects| / N: it is measured by the same matching, with
the objects of the scene permuted, and for a model that was not trained. Program steps about no object, or about all,
say nothing and are left out.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iprm.vqa.data.tensors import Split
from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, figure
from iprm.vqa.models.answerer import QuestionAnswerer
from iprm.vqa.training.run import Trained, open_split, untrained

TITLE = "Attention over known steps"
PERMUTATIONS = 4
BATCH = 100
KINDS = ("filter", "relate", "same", "unique", "union", "intersect", "query", "count", "exist", "equal", "compare")


def kind(function: str) -> str:
    """Return the kind of a program's function: `filter` for `filter_color`."""
    if function in ("equal_integer", "less_than", "greater_than"):
        return "compare"
    return function.partition("_")[0]


def matched(slots: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match program steps with slots.

    slots: (M, N) attention, rows that sum to 1.  steps: (S, N) true objects.
    Returns (S,) the slot of each step (-1: none was left) and (S,) the share of its attention on the step's objects.
    """
    shares = slots @ steps.T.astype(slots.dtype)  # (M, S)
    rows, columns = linear_sum_assignment(shares, maximize=True)
    slot, share = np.full(len(steps), -1), np.zeros(len(steps))
    slot[columns], share[columns] = rows, shares[rows, columns]
    return slot, share


class Question:
    """What one question gives."""

    def __init__(self, visual: Tensor, steps: Tensor, functions: list[str], rng: np.random.Generator):
        T, K, N = visual.shape
        telling = (steps.any(1) & ~steps.all(1)).numpy()
        true = steps.numpy()[telling]
        slots = visual.reshape(T * K, N).double().numpy()
        self.kinds = [kind(f) for f, told in zip(functions, telling, strict=True) if told]
        slot, self.shares = matched(slots, true)
        permuted = [matched(slots, true[:, rng.permutation(N)])[1] for _ in range(PERMUTATIONS)]
        self.chance = np.mean(permuted, 0) if len(true) else np.zeros(0)
        self.places = np.flatnonzero(telling)[slot >= 0] / max(1, len(telling) - 1)
        self.times = slot[slot >= 0] // K / max(1, T - 1)


@torch.no_grad()
def questions(model: QuestionAnswerer, split: Split, seed: int) -> Iterator[Question]:
    """Yield what each question with a program gives."""
    model.eval()
    rng = np.random.default_rng(seed)
    for batch in split.in_order(BATCH):
        visual = model.look(batch)[1].visual.float()
        for i, row in enumerate(batch.rows.tolist()):
            steps = split.true_tokens(row)
            if steps is not None:
                functions = [node["function"] for node in split.questions[row].program]
                yield Question(visual[:, i, :, : steps.shape[1]], steps, functions, rng)


def overlap(model: QuestionAnswerer, split: Split, seed: int) -> dict[str, Any]:
    """Return the mean matched share of attention, of all program steps and by kind, its chance, and its order.

    `order` is the correlation of a program step's place in its program with the step t that it is matched with.
    """
    shares, chances = defaultdict(list), defaultdict(list)
    places, times = [], []
    for question in questions(model, split, seed):
        for name, share, chance in zip(question.kinds, question.shares, question.chance, strict=True):
            for key in ("all", name):
                shares[key].append(share)
                chances[key].append(chance)
        places.extend(question.places)
        times.extend(question.times)
    return {
        "share": {name: float(np.mean(found)) for name, found in shares.items()},
        "chance": {name: float(np.mean(found)) for name, found in chances.items()},
        "steps": {name: len(found) for name, found in shares.items()},
        "order": float(np.corrcoef(places, times)[0, 1]) if np.std(times) > 0 else 0.0,
    }


def runs(form: Form) -> list[Run]:
    """The trained model, over the seeds."""
    return [Run("trained", seed, overrides(form, training__steps=form.long_steps)) for seed in form.seeds]


def measure(trained: Trained) -> dict[str, Any]:
    """The overlap of the trained model, and of one with the weights it began with."""
    split = open_split(trained.config, "val", trained.vocabularies, whole=True)
    seed = trained.config.training.seed
    return {
        "trained": overlap(trained.model, split, seed),
        "untrained": overlap(untrained(trained), split, seed),
    }


def tables(results: Results) -> list[Table]:
    """By kind of program step."""
    found = list(results.runs.values())
    rows = []
    for name in ("all", *KINDS):
        if not any(name in run["trained"]["share"] for run in found):
            continue
        columns = [
            spread(run[model][what][name] for run in found if name in run[model][what])
            for model, what in (("trained", "share"), ("trained", "chance"), ("untrained", "share"))
        ]
        count = statistics.fmean(run["trained"]["steps"].get(name, 0) for run in found)
        rows.append([name, f"{count:.0f}", *columns])
    order = spread((run["trained"]["order"] for run in found), "{:.2f}", 1.0)
    before = spread((run["untrained"]["order"] for run in found), "{:.2f}", 1.0)
    header = ["program step", "how many", "trained", "trained, objects permuted", "untrained"]
    return [
        Table("Visual attention on the true objects of the matched program step, %", header, rows),
        Table("Correlation of a program step's place with the step t it is matched with", ["trained", "untrained"],
              [[order, before]]),
    ]  # fmt: skip


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by kind of program step."""
    found = list(results.runs.values())
    names = [n for n in ("all", *KINDS) if all(n in run["trained"]["share"] for run in found)]
    bars = {
        "trained": ("trained", "share"),
        "trained, objects permuted": ("trained", "chance"),
        "untrained": ("untrained", "share"),
    }

    def draw(fig) -> None:
        axes = fig.add_subplot()
        for i, (label, (model, what)) in enumerate(bars.items()):
            values = np.array([[100 * run[model][what].get(n, np.nan) for n in names] for run in found])
            error = values.std(0, ddof=1) if len(values) > 1 else None
            axes.bar(np.arange(len(names)) + 0.27 * (i - 1), values.mean(0), 0.27, yerr=error, label=label)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("attention on the true objects, %")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False)

    return [figure(draw, folder / "steps.png", (9, 3.6))]
