"""Questions unlike those trained on: longer programs, unseen pairs of attributes, more objects.

The splits mix the question families in other shares, and longer programs leave some out; so a split's accuracy is the
mean over the families that all splits have. Answers that training never gave (counts above its largest) are left out:
no model here can give them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.data.tensors import UNKNOWN, Split
from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, bars, families, figure
from iprm.vqa.training.run import Trained, accuracy, open_split

TITLE = "Questions unlike those trained on"
SPLITS = {
    "val": "as trained on",
    "val_longer": "longer programs",
    "val_pairs": "unseen pairs",
    "val_objects": "more objects",
}
VARIANTS: dict[str, dict[str, object]] = {
    "IPRM, K = 4": {},
    "IPRM, K = 1": {"model__iprm__num_ops": 1},
    "cross-attention": {"model__reasoner": "cross_attention"},
    "concatenation": {"model__reasoner": "concat_attention"},
    "question only": {"model__reasoner": "question_only"},
}


def runs(form: Form, once: dict) -> list[Run]:
    """Every variant over the seeds, trained on shorter programs, without the held-out pairs, on fewer objects."""
    return [Run(name, seed, overrides(form, **changes)) for seed in form.seeds for name, changes in VARIANTS.items()]


def _answerable(split: Split) -> Split:
    """The questions whose answers training gave."""
    known = split.answers != UNKNOWN
    kept = [question for question, keep in zip(split.questions, known.tolist(), strict=True) if keep]
    rows = {name: getattr(split, name)[known] for name in ("scene_rows", "words", "lengths", "answers", "family_rows")}
    return replace(split, questions=kept, **rows)


def measure(trained: Trained) -> dict[str, Any]:
    """Accuracy on every split by family, and how many questions have an answer that training never gave."""
    splits = {name: open_split(trained.config, name, trained.vocabularies) for name in SPLITS}
    return {
        "splits": {name: accuracy(trained, _answerable(split)) for name, split in splits.items()},
        "unanswerable": {name: (split.answers == UNKNOWN).float().mean().item() for name, split in splits.items()},
    }


def _shared(results: Results) -> list[str]:
    """The families that every split of every run has."""
    found = (set(accuracies) for run in results.runs.values() for accuracies in run["splits"].values())
    return sorted(set.intersection(*found) - {"overall"})


def _mean(split: str, names: list[str]) -> Callable[[dict], float]:
    return lambda run: float(np.mean([run["splits"][split][name] for name in names]))


def tables(results: Results) -> list[Table]:
    """Accuracy by split; and the first variant's by split and family."""
    names, first, header = _shared(results), next(iter(VARIANTS)), list(SPLITS.values())
    rows = [[name, *(spread(results.of(name, _mean(split, names))) for split in SPLITS)] for name in VARIANTS]
    missing = [spread(results.of(first, lambda run, s=split: run["unanswerable"][s])[:1]) for split in SPLITS]
    everything = families({"accuracy": found} for run in results.runs.values() for found in run["splits"].values())
    by_family = [
        [name, *(spread(results.of(first, lambda run, s=split, n=name: run["splits"][s].get(n))) for split in SPLITS)]
        for name in everything[1:]
    ]
    return [
        Table(f"Accuracy, %, mean over {', '.join(names)}", ["", *header], rows),
        Table(f"Accuracy of {first}, %", ["family", *header], by_family),
        Table("Questions left out, %", header, [missing]),
    ]


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by split, a colour for each variant."""
    names = _shared(results)

    def draw(fig) -> None:
        axes = fig.add_subplot()
        bars(
            axes,
            list(SPLITS.values()),
            {variant: [results.of(variant, _mean(split, names)) for split in SPLITS] for variant in VARIANTS},
        )
        axes.set_ylabel("accuracy, %")

    return [figure(draw, folder / "generalisation.png", (9, 3.6))]
