"""Operations in parallel, steps in sequence: accuracy over K and T.

At equal training every (K, T) takes as many steps. The learned initial memory makes the parameters of all of them
nearly equal (K·D numbers apart). At equal time each K takes as many training steps as fit into what the slowest of them
needs for half of its steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, families, figure
from iprm.vqa.training.run import Trained

TITLE = "Operations in parallel, steps in sequence"
EQUAL_TIME = "equal time"
# Seconds of a training step over K at T = 6, relative to K = 1: measured on one thread at D = 64, batches of 64.
COST = {1: 1.0, 2: 1.2, 4: 1.7, 6: 2.2, 9: 2.9}


def runs(form: Form) -> list[Run]:
    """Every (K, T), and every K at equal time, over the seeds."""
    found = []
    for seed in form.seeds:
        for K in form.operations:
            for T in form.iterations:
                sizes = {"model__iprm__num_ops": K, "model__iprm__num_steps": T}
                found.append(Run(f"K={K} T={T}", seed, overrides(form, **sizes)))
            steps = round(form.steps / 2 * COST[max(form.operations)] / COST[K])
            sizes = {"model__iprm__num_ops": K, "model__iprm__num_steps": form.iterations[-2]}
            changes = sizes | {"training__steps": steps}
            found.append(Run(f"K={K} {EQUAL_TIME}", seed, overrides(form, **changes)))
    return found


def measure(trained: Trained) -> dict[str, Any]:
    """The accuracies say it all."""
    return {}


def _sizes(results: Results) -> tuple[list[int], list[int]]:
    pairs = [
        name.replace("K=", "").split(" T=") for name in {r["variant"] for r in results.runs.values()} if "T=" in name
    ]
    return sorted({int(K) for K, _ in pairs}), sorted({int(T) for _, T in pairs})


def _cell(results: Results, variant: str, family: str) -> str:
    return spread(results.of(variant, lambda run: run["accuracy"].get(family)))


def tables(results: Results) -> list[Table]:
    """One table a family, K by T; parameters and speed; and the table at equal time."""
    Ks, Ts = _sizes(results)
    names = families(results.runs.values())
    found = [
        Table(
            f"{name}: accuracy at equal training, %",
            ["", *(f"T = {T}" for T in Ts)],
            [[f"K = {K}", *(_cell(results, f"K={K} T={T}", name) for T in Ts)] for K in Ks],
        )
        for name in names
    ]
    rows = [[name, *(_cell(results, f"K={K} {EQUAL_TIME}", name) for K in Ks)] for name in names]
    for title, key, form in (("training, s", "seconds", "{:.0f}"), ("parameters", "parameters", "{:,.0f}")):
        rows.append([title, *(spread(results.of(f"K={K} {EQUAL_TIME}", lambda r, k=key: r[k]), form, 1.0) for K in Ks)])
    return [*found, Table("Accuracy at equal time, %", ["", *(f"K = {K}" for K in Ks)], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy over K, a line for each T, a panel for each family."""
    (Ks, Ts), names = _sizes(results), families(results.runs.values())

    def draw(fig) -> None:
        panels = fig.subplots(2, -(-len(names) // 2), sharex=True).flat
        for axes, name in zip(panels, names, strict=False):
            for T in Ts:
                cells = [results.of(f"K={K} T={T}", lambda run, n=name: run["accuracy"].get(n)) for K in Ks]
                means = [100 * np.mean(cell) if cell else np.nan for cell in cells]
                errors = [100 * np.std(cell, ddof=1) if len(cell) > 1 else 0 for cell in cells]
                axes.errorbar(range(len(Ks)), means, errors, marker="o", markersize=3, label=f"T = {T}")
            axes.set_title(name, fontsize=9)
            axes.set_xticks(range(len(Ks)), Ks)
        for axes in list(fig.axes)[len(names) :]:
            axes.axis("off")
        fig.axes[0].legend(frameon=False, fontsize=7)
        fig.supxlabel("operations K")
        fig.supylabel("accuracy, %")

    return [figure(draw, folder / "sizes.png", (11, 5))]
