"""Attention over known steps: does an operation, in some step, look at what a step of the true program is about?

A program step is about a set of objects (those it gives; where it gives a value, those it reads). Every (step t,
operation k) is a slot that such a set may be matched with, each slot once at most; a match is worth the share of the
slot's visual attention that lies on the set. The best matching of all is taken, so chance is not |set| / N: it is
measured by the same matching with the objects of the scene permuted, and for a model that was not trained. Sets of no
object, or of all, say nothing and are left out; a set that several program steps share is matched once, for all of
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iprm.vqa.data.tensors import Split
from iprm.vqa.experiments.forms import looked_into
from iprm.vqa.experiments.running import Results, spread
from iprm.vqa.experiments.tables import Table, bars, figure
from iprm.vqa.models.answerer import QuestionAnswerer
from iprm.vqa.training.run import Trained, open_split, untrained

TITLE = "Attention over known steps"
PERMUTATIONS = 4
BATCH = 100
KINDS = ("filter", "relate", "same", "unique", "union", "intersect", "query", "count", "exist", "equal", "compare")
COLUMNS = {
    "trained": ("trained", "share"),
    "objects permuted": ("trained", "chance"),
    "untrained": ("untrained", "share"),
}


def kind(function: str) -> str:
    """Return the kind of a program's function: `filter` for `filter_color`."""
    if function in ("equal_integer", "less_than", "greater_than"):
        return "compare"
    return function.partition("_")[0]


def depths(program: list[dict]) -> list[int]:
    """Return for every node how many nodes its longest chain of inputs has."""
    found: list[int] = []
    for node in program:
        found.append(1 + max((found[i] for i in node["inputs"]), default=-1))
    return found


def telling(sets: Tensor) -> Tensor:
    """(S, N) bool -> (S,) which sets are of some objects, not of all."""
    return sets.any(1) & ~sets.all(1)


def matched(slots: np.ndarray, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match sets of objects with slots.

    slots: (M, N) attention, rows that sum to 1.  sets: (S, N) bool.
    Returns (S,) the slot of each set (-1: none was left) and (S,) the share of its attention on the set.
    """
    shares = slots @ sets.T.astype(slots.dtype)  # (M, S)
    rows, columns = linear_sum_assignment(shares, maximize=True)
    slot, share = np.full(len(sets), -1), np.zeros(len(sets))
    slot[columns], share[columns] = rows, shares[rows, columns]
    return slot, share


class Question:
    """What one question gives: for every telling program step its kind, the share of its match, and that by chance.

    visual: (T, K, N).  steps: (S, N) bool, the objects that each node of the program is about.
    `depths` and `times` are of the distinct sets: where they first occur in the program, and the t of their slots.
    """

    def __init__(self, visual: Tensor, steps: Tensor, program: list[dict], rng: np.random.Generator):
        T, K, N = visual.shape
        told = np.flatnonzero(telling(steps).numpy())
        sets, first, which = np.unique(steps.numpy()[told], axis=0, return_index=True, return_inverse=True)
        slots = visual.reshape(T * K, N).double().numpy()
        slot, shares = matched(slots, sets)
        permuted = [matched(slots, sets[:, rng.permutation(N)]) for _ in range(PERMUTATIONS)]
        which = which.reshape(-1)
        self.kinds = [kind(program[i]["function"]) for i in told]
        self.shares, self.chance = shares[which], np.mean([share for _, share in permuted], 0)[which]
        self.depths = np.array(depths(program))[told][first]
        self.times, self.times_by_chance = slot // K, permuted[0][0] // K


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
                yield Question(visual[:, i, :, : steps.shape[1]], steps, split.questions[row].program, rng)


def correlation(a: list[float], b: list[float]) -> float:
    """Return the correlation of two lists; 0 where one of them does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if np.std(a) > 0 and np.std(b) > 0 else 0.0


def overlap(model: QuestionAnswerer, split: Split, seed: int) -> dict[str, Any]:
    """Return the mean share of matched attention, over all program steps and by kind, and the same by chance.

    `order` is the correlation, over all sets, of the depth in the program with the step t of the matched slot.
    """
    shares, chances = defaultdict(list), defaultdict(list)
    depths, times, by_chance = [], [], []
    for question in questions(model, split, seed):
        for name, share, chance in zip(question.kinds, question.shares, question.chance, strict=True):
            for key in ("all", name):
                shares[key].append(share)
                chances[key].append(chance)
        depths.extend(question.depths)
        times.extend(question.times)
        by_chance.extend(question.times_by_chance)
    return {
        "share": {name: float(np.mean(found)) for name, found in shares.items()},
        "chance": {name: float(np.mean(found)) for name, found in chances.items()},
        "steps": {name: len(found) for name, found in shares.items()},
        "order": correlation(depths, times),
        "order by chance": correlation(depths, by_chance),
    }


runs = looked_into


def measure(trained: Trained) -> dict[str, Any]:
    """The overlap of the trained model, and of one with the weights it began with."""
    split = open_split(trained.config, "val", trained.vocabularies, whole=True)
    seed = trained.config.training.seed
    return {
        "trained": overlap(trained.model, split, seed),
        "untrained": overlap(untrained(trained), split, seed),
    }


def tables(results: Results) -> list[Table]:
    """By kind of program step; and the order."""
    found = list(results.runs.values())
    rows = []
    for name in ("all", *KINDS):
        values = [[run[m][what][name] for run in found if name in run[m][what]] for m, what in COLUMNS.values()]
        if all(values):
            rows.append([name, str(found[0]["trained"]["steps"][name]), *map(spread, values)])
    orders = [("trained", "order"), ("trained", "order by chance"), ("untrained", "order")]
    order = [spread((run[model][what] for run in found), "{:.2f}", 1.0) for model, what in orders]
    return [
        Table("Visual attention on the objects of the matched program step, %", ["step", "how many", *COLUMNS], rows),
        Table("Correlation of the depth in the program with the step t", list(COLUMNS), [order]),
    ]


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by kind of program step."""
    found = list(results.runs.values())
    names = [n for n in ("all", *KINDS) if all(n in run["trained"]["share"] for run in found)]

    def draw(fig) -> None:
        axes = fig.add_subplot()
        bars(axes, names, {c: [[r[m][what][n] for r in found] for n in names] for c, (m, what) in COLUMNS.items()})
        axes.set_ylabel("attention on the objects of the step, %")
        axes.set_ylim(0, 100)

    return [figure(draw, folder / "steps.png", (9, 3.6))]
