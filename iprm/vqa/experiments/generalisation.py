"""Questions unlike those trained on: longer programs, unseen pairs of attributes, more objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, families, figure
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


def runs(form: Form) -> list[Run]:
    """Every variant over the seeds, trained on shorter programs, without the held-out pairs, on fewer objects."""
    return [Run(name, seed, overrides(form, **changes)) for seed in form.seeds for name, changes in VARIANTS.items()]


def measure(trained: Trained) -> dict[str, Any]:
    """Accuracy on every split, overall and by family."""
    splits = {name: open_split(trained.config, name, trained.vocabularies) for name in SPLITS}
    return {"splits": {name: accuracy(trained, split) for name, split in splits.items()}}


def _of(split: str, family: str):
    return lambda run: run["splits"][split].get(family)


def tables(results: Results) -> list[Table]:
    """Accuracy by split; and the first variant's by split and family."""
    rows = [[name, *(spread(results.of(name, _of(split, "overall"))) for split in SPLITS)] for name in VARIANTS]
    first = next(iter(VARIANTS))
    names = families({"accuracy": run["splits"][split]} for run in results.runs.values() for split in SPLITS)
    by_family = [[name, *(spread(results.of(first, _of(split, name))) for split in SPLITS)] for name in names]
    header = list(SPLITS.values())
    return [
        Table("Accuracy, %", ["", *header], rows),
        Table(f"Accuracy of {first}, %", ["family", *header], by_family),
    ]


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by split, a colour for each variant."""

    def draw(fig) -> None:
        axes = fig.add_subplot()
        for i, name in enumerate(VARIANTS):
            values = [results.of(name, _of(split, "overall")) for split in SPLITS]
            errors = [100 * np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            means = [100 * np.mean(v) if v else np.nan for v in values]
            axes.bar(np.arange(len(SPLITS)) + 0.16 * (i - 2), means, 0.16, yerr=errors, label=name)
        axes.set_xticks(range(len(SPLITS)), SPLITS.values())
        axes.set_ylabel("accuracy, %")
        axes.legend(frameon=False, fontsize=8)

    return [figure(draw, folder / "generalisation.png", (9, 3.6))]
