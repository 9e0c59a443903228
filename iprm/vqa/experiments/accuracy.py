"""What is learnt: accuracy by family against priors and a question-only block; and whether the two forms of IPRM agree.

`fast` and `reference` begin with the same weights and see the same questions; rounding drives them apart in training,
so their difference, seed by seed, is set against the spread over seeds.
"""

from __future__ import annotations

from pathlib import Path

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, nothing, of_family, spread
from iprm.vqa.experiments.tables import Table, bars, families, figure

TITLE = "What is learnt"
REASONERS = {"question only": "question_only", "reference": "reference", "fast": "fast"}
LONGER = {"question only, longer": "question_only", "fast, longer": "fast"}


def runs(form: Form, once: dict) -> list[Run]:
    """Both forms of IPRM and the question-only block at equal training; fast and question-only trained longer."""
    return [
        Run(name, seed, overrides(form, model__reasoner=reasoner, training__steps=steps))
        for seed in form.seeds
        for reasoners, steps in ((REASONERS, form.steps), (LONGER, form.long_steps))
        for name, reasoner in reasoners.items()
    ]


measure = nothing


def _columns(results: Results, name: str) -> dict[str, list[float]]:
    """What each column says of a family."""
    found = list(results.runs.values())
    priors = {
        "one answer": [run["priors"]["answer"].get(name, 0.0) for run in found[:1]],
        "one answer a kind of question": [run["priors"]["kind"].get(name, 0.0) for run in found[:1]],
    }
    return priors | {v: results.of(v, of_family(name)) for v in (*REASONERS, *LONGER)}


def tables(results: Results) -> list[Table]:
    """A row for each family."""
    names = families(results.runs.values())
    columns = {name: _columns(results, name) for name in names}
    apart = {name: results.differences("fast", "reference", of_family(name)) for name in names}
    rows = [[name, *map(spread, column.values()), spread(apart[name])] for name, column in columns.items()]
    return [Table("Accuracy, %", ["family", *columns["overall"], "fast - reference"], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Bars by family."""
    names = families(results.runs.values())
    columns = {name: _columns(results, name) for name in names}

    def draw(fig) -> None:
        axes = fig.add_subplot()
        bars(axes, names, {label: [columns[name][label] for name in names] for label in columns["overall"]})
        axes.set_ylabel("accuracy, %")

    return [figure(draw, folder / "accuracy.png", (13, 4))]
