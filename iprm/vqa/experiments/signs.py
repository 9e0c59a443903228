"""The paper's signs of failure as numbers over a validation set, and questions that contradict themselves.

Collapse: operations that are alike do the work of one; memory that no longer changes has stopped reasoning. Vagueness:
composition that attends to everything equally; visual attention on objects that no step of the program is about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from iprm import reference
from iprm.config import IPRMConfig
from iprm.vqa.data.examples import Question
from iprm.vqa.data.tensors import Batch, Split
from iprm.vqa.experiments.forms import looked_into
from iprm.vqa.experiments.running import Results, spread
from iprm.vqa.experiments.steps import telling
from iprm.vqa.experiments.tables import Table, figure
from iprm.vqa.models.answerer import QuestionAnswerer
from iprm.vqa.training.run import Trained, open_split, untrained

TITLE = "Signs of failure"
BATCH = 100
NOTHING = ("no", "0")
SIGNS = {
    "entropy": "entropy of the composition weights (1: uniform)",
    "operations": "likeness of the K operation states",
    "results": "likeness of the K result states",
    "operations over steps": "likeness of an operation state to the one before",
    "results over steps": "likeness of a result state to the one before",
    "off": "visual attention off the objects that the program is about",
    "off, uniform": "the same share of all objects",
}


def as_reference(module: nn.Module) -> reference.IPRM:
    """Return the plain module with the weights of an IPRM module: its stages can be watched."""
    plain = reference.IPRM(module.config)  # pyright: ignore[reportArgumentType] - it is an IPRM module's
    plain.load_state_dict(module.state_dict())
    return plain.eval()


def entropy(operations: Tensor, config: IPRMConfig) -> Tensor:
    """(T, B, K, K·(1+W)) composition weights -> (T,) their mean entropy over that of uniform weights.

    A step's columns are those of its own K operations, with `mask_self` its own state left out, and of the past steps
    there are.
    """
    T, _, K, _ = operations.shape
    found = -torch.special.xlogy(operations, operations).sum(-1).mean((1, 2))
    columns = [K - config.mask_self + K * min(config.window, t + 1) for t in range(T)]
    return found / torch.tensor([math.log(max(count, 2)) for count in columns])


def likeness(states: Tensor) -> Tensor:
    """(B, K, D) -> the mean cosine of two different operations' states; 1 for K = 1."""
    K = states.shape[1]
    if K == 1:
        return torch.ones(())
    cosines = cosine_similarity(states[:, :, None], states[:, None], dim=-1)
    return (cosines.sum((1, 2)) - K).mean() / (K * (K - 1))


def _memories(module: reference.IPRM, inputs: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], Any]:
    """Return the memory after every step, the initial one first, and the attention record."""
    kept: list[tuple[Tensor, Tensor]] = []
    hooks = [
        stage.register_forward_hook(lambda _module, _inputs, output: kept.append(output[:2]))
        for stage in (module.memory, module.composition)
    ]
    try:
        attention = module(*inputs, return_attention=True)[1]
    finally:
        for hook in hooks:
            hook.remove()
    return kept, attention


def _off(visual: Tensor, split: Split, batch: Batch) -> tuple[list[float], list[float]]:
    """Attention on objects that no telling step of the program is about, and their share of all objects."""
    off, uniform = [], []
    for i, row in enumerate(batch.rows.tolist()):
        steps = split.true_tokens(row)
        if steps is None:
            continue
        told = steps[telling(steps)]
        if len(told):
            beside = ~told.any(0)
            off.append(visual[:, i, :, : len(beside)][..., beside].sum(-1).mean().item())
            uniform.append(beside.float().mean().item())
    return off, uniform


@torch.no_grad()
def signs(model: QuestionAnswerer, split: Split) -> dict[str, list[float] | float]:
    """Return the signs over a split: those of single steps as lists over t."""
    model.eval()
    module = as_reference(model.reasoner)
    found: dict[str, list] = defaultdict(list)
    weights = []
    for batch in split.in_order(BATCH):
        memories, attention = _memories(module, model.encode(batch))
        found["entropy"].append(entropy(attention.operations.double(), module.config).tolist())
        for name, which in (("operations", 0), ("results", 1)):
            states = [memory[which].double() for memory in memories]
            found[name].append([likeness(s).item() for s in states[1:]])
            found[f"{name} over steps"].append([cosine_similarity(a, b, -1).mean().item() for a, b in pairwise(states)])
        off, uniform = _off(attention.visual, split, batch)
        found["off"].extend(off)
        found["off, uniform"].extend(uniform)
        weights.append(len(batch.rows))
    single = {name: float(np.mean(found.pop(name))) for name in ("off", "off, uniform")}
    return {name: np.average(steps, 0, weights).tolist() for name, steps in found.items()} | single


def contradicts_itself(question: Question) -> bool:
    """Whether one object would need two values of one attribute."""
    program: Any = question.program
    for position, node in enumerate(program):
        wanted: dict[str, str] = {}
        while node["function"].startswith("filter_"):
            if wanted.setdefault(node["function"], node["value_inputs"][0]) != node["value_inputs"][0]:
                return True
            position = node["inputs"][0]
            node = program[position]
    return False


@torch.no_grad()
def _nothing_there(trained: Trained, split: Split) -> dict[str, list[tuple[bool, bool]]]:
    """For questions of existence and number: was it answered "no" or 0, and was that true? By group."""
    texts, found = trained.vocabularies.answers.texts, defaultdict(list)
    for batch in split.in_order(BATCH):
        answers = [texts[i] for i in trained.model(batch).argmax(-1).tolist()]
        for row, answer in zip(batch.rows.tolist(), answers, strict=True):
            question = split.questions[row]
            if question.kind in ("exist", "count"):
                group = "contradictory" if contradicts_itself(question) else "consistent"
                found[group].append((answer in NOTHING, question.answer in NOTHING))
    return found


def contradictions(trained: Trained, val: Split) -> dict[str, float]:
    """Return how often "no" or 0 is answered: to contradictions, to their twins, and to other questions.

    A model that leans to "no" does well on contradictions without seeing them: it then says so where all is in order,
    too.
    """
    twins = _nothing_there(trained, open_split(trained.config, "val_contradictory", trained.vocabularies, whole=True))
    others = _nothing_there(trained, val)["consistent"]
    groups = {
        "contradictory": [said for said, _ in twins["contradictory"]],
        "their twins": [said for said, _ in twins["consistent"]],
        "val, there is none": [said for said, none in others if none],
        "val, there are some": [said for said, none in others if not none],
    }
    return {name: float(np.mean(said)) for name, said in groups.items() if said}


runs = looked_into


def measure(trained: Trained) -> dict[str, Any]:
    """The signs before and after training, and the accuracy on contradictions."""
    split = open_split(trained.config, "val", trained.vocabularies, whole=True)
    return {
        "trained": signs(trained.model, split),
        "untrained": signs(untrained(trained), split),
        "contradictions": contradictions(trained, split),
    }


def _number(run: dict, model: str, sign: str) -> float:
    return float(np.mean(run[model][sign]))


def tables(results: Results) -> list[Table]:
    """Every sign over all steps, before and after; and the contradictions."""
    found = list(results.runs.values())
    rows = [
        [
            words,
            *(
                spread((_number(run, model, sign) for run in found), "{:.3f}", 1.0)
                for model in ("trained", "untrained")
            ),
        ]
        for sign, words in SIGNS.items()
    ]
    groups = list(found[0]["contradictions"])
    said = [spread(run["contradictions"][group] for run in found if group in run["contradictions"]) for group in groups]
    return [
        Table("Signs, means over steps", ["", "trained", "untrained"], rows),
        Table("How often no, or 0, is answered to questions of existence and number, %", groups, [said]),
    ]


def figures(results: Results, folder: Path) -> list[Path]:
    """The signs over the steps."""
    found = list(results.runs.values())

    def draw(fig) -> None:
        names = [sign for sign in SIGNS if isinstance(found[0]["trained"][sign], list)]
        for axes, sign in zip(fig.subplots(1, len(names), sharey=True), names, strict=True):
            for model in ("trained", "untrained"):
                values = np.array([run[model][sign] for run in found])
                error = values.std(0, ddof=1) if len(values) > 1 else None
                axes.errorbar(range(1, values.shape[1] + 1), values.mean(0), error, marker="o", label=model)
            axes.set_title(sign, fontsize=9)
            axes.set_xlabel("step")
        fig.axes[0].legend(frameon=False, fontsize=8)

    return [figure(draw, folder / "signs.png", (13, 3))]
