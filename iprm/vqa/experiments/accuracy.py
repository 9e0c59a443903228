"""What is learnt: accuracy by family against priors and a question-only block; and whether the two forms of IPRM agree.

`fast` and `reference` begin with the same weights and see the same questions and dropout masks; rounding drives them
apart in training, so they are held to the spread over seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, families, figure
from iprm.vqa.training.run import Trained

TITLE = "What is learnt"
LONG = "fast, trained longer"
REASONERS = {"question only": "question_only", "reference": "reference", "fast": "fast"}


def runs(form: Form) -> list[Run]:
    """Both forms of IPRM and the question-only block at equal training, and a long training, over the seeds."""
    found = [
        Run(name, seed, overrides(form, model__reasoner=reasoner))
        for seed in form.seeds
        for name, reasoner in REASONERS.items()
    ]
    return found + [Run(LONG, seed, overrides(form, training__steps=form.long_steps)) for seed in form.seeds]


def measure(trained: Trained) -> dict[str, Any]:
    """The accuracies say it all."""
    return {}


def _columns(results: Results, name: str) -> dict[str, list[float]]:
    """What each column says of a family."""
    found = list(results.runs.values())
    priors = {
        "one answer": [run["priors"]["answer"].get(name, 0.0) for run in found[:1]],
        "one answer a kind of question": [run["priors"]["kind"].get(name, 0.0) for run in found[:1]],
    }
    return priors | {v: results.of(v, lambda run: run["accuracy"].get(name)) for v in (*REASONERS, LONG)}


def tables(results: Results) -> list[Table]:
    """A row for each family."""
    names = families(results.runs.values())
    columns = {name: _columns(results, name) for name in names}
    rows = [[name, *map(spread, column.values())] for name, column in columns.items()]
    return [Table("Accuracy, %", ["family", *columns["overall"]], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by family."""
    names = families(results.runs.values())
    columns = {name: _columns(results, name) for name in names}

    def draw(fig) -> None:
        axes = fig.add_subplot()
        for i, label in enumerate(columns["overall"]):
            values = [columns[name][label] for name in names]
            means = [100 * np.mean(v) if v else np.nan for v in values]
            errors = [100 * np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            axes.bar(np.arange(len(names)) + 0.13 * (i - 2.5), means, 0.13, yerr=errors, label=label)
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axes.set_ylabel("accuracy, %")
        axes.legend(frameon=False, fontsize=8, ncols=3)

    return [figure(draw, folder / "accuracy.png", (11, 4))]
