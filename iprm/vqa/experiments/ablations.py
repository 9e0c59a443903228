"""What each part is worth: composition, the memory in execution, the window, the width of the visual keys."""

from __future__ import annotations

from pathlib import Path

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, nothing, of_family, spread
from iprm.vqa.experiments.tables import Table, bars, families, figure

TITLE = "What each part is worth"
BASE = "W = 2, r = 2"
VARIANTS: dict[str, dict[str, object]] = {
    BASE: {},
    "no composition": {"model__iprm__composition": False},
    "no memory in execution": {"model__zeroed": "[execution.We]"},
    "W = 0": {"model__iprm__window": 0},
    "W = 1": {"model__iprm__window": 1},
    "W = 4": {"model__iprm__window": 4},
    "r = 1": {"model__iprm__reduction": 1},
    "r = 4": {"model__iprm__reduction": 4},
}


def runs(form: Form, once: dict) -> list[Run]:
    """Every variant over the seeds."""
    return [Run(name, seed, overrides(form, **changes)) for seed in form.seeds for name, changes in VARIANTS.items()]


measure = nothing


def tables(results: Results) -> list[Table]:
    """Accuracy by family, a row for each variant."""
    names = families(results.runs.values())
    rows = [
        [
            variant,
            *(spread(results.of(variant, of_family(name))) for name in names),
            spread(results.of(variant, lambda run: run["parameters"]), "{:,.0f}", 1.0),
        ]
        for variant in VARIANTS
    ]
    return [Table("Accuracy at equal training, %", ["", *names, "parameters"], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """The difference that each variant makes, seed by seed, overall and in every family."""
    names = families(results.runs.values())

    def draw(fig) -> None:
        axes = fig.add_subplot()
        others = [variant for variant in VARIANTS if variant != BASE]
        bars(axes, names, {v: [results.differences(v, BASE, of_family(name)) for name in names] for v in others})
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(f"accuracy against {BASE}, points")

    return [figure(draw, folder / "ablations.png", (13, 4))]
