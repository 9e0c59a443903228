"""Operations in parallel, steps in sequence: accuracy over K and T.

At equal training every (K, T) takes as many steps. With learned initial memory the parameters of all of them are nearly
equal: 2·D numbers more for every operation. At equal time each K takes as many training steps as fit into the time that
the slowest needs for half of them, by the seconds of a step measured beforehand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, nothing, of_family, spread
from iprm.vqa.experiments.tables import Table, families, figure, line
from iprm.vqa.experiments.timing import WORDS, seconds
from iprm.vqa.training import memory
from iprm.vqa.training.config import configuration

TITLE = "Operations in parallel, steps in sequence"
EQUAL_TIME = "equal time"
TOKENS = 5


def once(form: Form) -> dict[str, dict[str, float]]:
    """Return the seconds of a training step of every K at the T of the comparison at equal time."""
    config = configuration(None, overrides(form, model__iprm__num_steps=_steps_at_equal_time(form)))
    sizes = memory.Sizes(config.training.batch_size, WORDS, TOKENS)
    return seconds({str(K): ("fast", replace(config.model.mechanism(), num_ops=K), sizes) for K in form.operations})


def _steps_at_equal_time(form: Form) -> int:
    return form.iterations[-2]


def runs(form: Form, once: dict[str, Any]) -> list[Run]:
    """Every (K, T), and every K at equal time, over the seeds."""
    found, T = [], _steps_at_equal_time(form)
    slowest = max(times["training"] for times in once["found"].values())
    for seed in form.seeds:
        for K in form.operations:
            for t in form.iterations:
                sizes = {"model__iprm__num_ops": K, "model__iprm__num_steps": t}
                found.append(Run(f"K={K} T={t}", seed, overrides(form, **sizes)))
            steps = round(form.steps / 2 * slowest / once["found"][str(K)]["training"])
            sizes = {"model__iprm__num_ops": K, "model__iprm__num_steps": T}
            found.append(Run(f"K={K} {EQUAL_TIME}", seed, overrides(form, **sizes, training__steps=steps)))
    return found


measure = nothing


def _sizes(results: Results) -> tuple[list[int], list[int]]:
    pairs = [
        name.replace("K=", "").split(" T=") for name in {r["variant"] for r in results.runs.values()} if "T=" in name
    ]
    return sorted({int(K) for K, _ in pairs}), sorted({int(T) for _, T in pairs})


def _cell(results: Results, variant: str, family: str) -> str:
    return spread(results.of(variant, of_family(family)))


def tables(results: Results) -> list[Table]:
    """One table a family, K by T; and the table at equal time, with training steps and parameters."""
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
    for title, key in (("training steps", "steps"), ("parameters", "parameters")):
        cells = (spread(results.of(f"K={K} {EQUAL_TIME}", lambda r, k=key: r[k])[:1], "{:,.0f}", 1.0) for K in Ks)
        rows.append([title, *cells])
    return [*found, Table("Accuracy at equal time, %", ["", *(f"K = {K}" for K in Ks)], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy over K, a line for each T, a panel for each family."""
    (Ks, Ts), names = _sizes(results), families(results.runs.values())

    def draw(fig) -> None:
        panels = fig.subplots(2, -(-len(names) // 2), sharex=True).flat
        for axes, name in zip(panels, names, strict=False):
            for T in Ts:
                line(axes, Ks, [results.of(f"K={K} T={T}", of_family(name)) for K in Ks], f"T = {T}")
            axes.set_title(name, fontsize=9)
            axes.set_xticks(Ks)
        for axes in list(fig.axes)[len(names) :]:
            axes.axis("off")
        fig.axes[0].legend(frameon=False, fontsize=7)
        fig.supxlabel("operations K")
        fig.supylabel("accuracy, %")

    return [figure(draw, folder / "sizes.png", (11, 5))]
