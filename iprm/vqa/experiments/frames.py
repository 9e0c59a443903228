"""Accuracy and cost as frames grow: the same questions about the same scenes, seen over ever more frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.experiments.tables import Table, families, figure
from iprm.vqa.training.run import Trained, open_split

TITLE = "More frames"


def runs(form: Form) -> list[Run]:
    """Every number of frames over the seeds."""
    return [
        Run(
            f"{F} frames" if F > 1 else "1 frame",
            seed,
            overrides(form, data__source="generated_frames", data__options__frames=F),
        )
        for seed in form.seeds
        for F in form.frames
    ]


def measure(trained: Trained) -> dict[str, Any]:
    """The number of visual tokens; the accuracies say the rest."""
    split = open_split(trained.config, "val", trained.vocabularies)
    tokens = [len(scene.numbers) for scene in split.scenes]
    return {"tokens": float(np.mean(tokens)), "frames": trained.config.data.options.get("frames")}


def _variants(results: Results) -> list[str]:
    return sorted({run["variant"] for run in results.runs.values()}, key=lambda name: int(name.split()[0]))


def tables(results: Results) -> list[Table]:
    """Accuracy by family, tokens and speed, a row for each number of frames."""
    names = families(results.runs.values())
    rows = [
        [
            variant,
            spread(results.of(variant, lambda run: run["tokens"]), "{:.0f}", 1.0),
            *(spread(results.of(variant, lambda run, n=name: run["accuracy"].get(n))) for name in names),
            spread(results.of(variant, lambda run: 1 / run["steps_per_second"]), "{:.1f}", 1000.0),
        ]
        for variant in _variants(results)
    ]
    return [Table("Accuracy at equal training, %", ["", "tokens", *names, "ms a step"], rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy and milliseconds a step over the number of frames."""
    variants, names = _variants(results), families(results.runs.values())
    frames = [int(name.split()[0]) for name in variants]

    def draw(fig) -> None:
        left, right = fig.subplots(1, 2)
        for name in names:
            cells = [results.of(v, lambda run, n=name: run["accuracy"].get(n)) for v in variants]
            bold = {"linewidth": 2.5, "color": "black"} if name == "overall" else {"linewidth": 1}
            left.plot(frames, [100 * np.mean(c) if c else np.nan for c in cells], marker="o", label=name, **bold)
        right.plot(
            frames, [1000 * np.mean(results.of(v, lambda r: 1 / r["steps_per_second"])) for v in variants], marker="o"
        )
        for axes, label in ((left, "accuracy, %"), (right, "ms a training step")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(frames, frames)
            axes.set_xlabel("frames")
            axes.set_ylabel(label)
        right.set_ylim(0)
        left.legend(frameon=False, fontsize=7)

    return [figure(draw, folder / "frames.png", (10, 4))]
