"""Accuracy and cost as frames grow: the same questions about the same scenes, seen over ever more frames.

Times are medians of interleaved training steps and evaluations at the mean number of tokens, one process at a time.
"""

from __future__ import annotations

from pathlib import Path

from iprm.vqa.data.frames import SEEN
from iprm.vqa.data.generate.splits import EXPERIMENTS
from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, nothing, of_family, spread
from iprm.vqa.experiments.tables import Table, families, figure, line
from iprm.vqa.experiments.timing import WORDS, seconds
from iprm.vqa.training import memory
from iprm.vqa.training.config import configuration

TITLE = "More frames"


def _variant(frames: int) -> str:
    return f"{frames} frame{'s' * (frames > 1)}"


def runs(form: Form, once: dict) -> list[Run]:
    """Every number of frames over the seeds."""
    return [
        Run(_variant(F), seed, overrides(form, data__source="generated_frames", data__options__frames=F))
        for seed in form.seeds
        for F in form.frames
    ]


def _tokens(form: Form, frames: int) -> int:
    """The mean number of tokens of a scene."""
    objects = (EXPERIMENTS.min_objects + form.data["max_objects"]) / 2
    return round(objects * (1 + SEEN * (frames - 1)))


def once(form: Form) -> dict[str, dict[str, float]]:
    """Return tokens and seconds of every number of frames."""
    config = configuration(None, overrides(form))
    B, mechanism = config.training.batch_size, config.model.mechanism()
    tokens = {F: _tokens(form, F) for F in form.frames}
    times = seconds({_variant(F): ("fast", mechanism, memory.Sizes(B, WORDS, N)) for F, N in tokens.items()})
    return {_variant(F): {"tokens": N} | times[_variant(F)] for F, N in tokens.items()}


measure = nothing


def tables(results: Results) -> list[Table]:
    """Accuracy by family, tokens and time, a row for each number of frames."""
    names, costs = families(results.runs.values()), results.once["found"]
    rows = [
        [
            variant,
            f"{cost['tokens']}",
            *(spread(results.of(variant, of_family(name))) for name in names),
            *(f"{1000 * cost[what]:.1f}" for what in ("training", "evaluation")),
        ]
        for variant, cost in costs.items()
    ]
    header = ["", "tokens", *names, "training step, ms", "evaluation, ms"]
    return [Table("Accuracy at equal training, %, and time", header, rows)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy and milliseconds a step over the number of frames."""
    costs, names = results.once["found"], families(results.runs.values())
    frames = [int(name.split()[0]) for name in costs]

    def draw(fig) -> None:
        left, right = fig.subplots(1, 2)
        for name in names:
            style = {"linewidth": 2.5, "color": "black"} if name == "overall" else {"linewidth": 1}
            line(left, frames, [results.of(v, of_family(name)) for v in costs], name, **style)
        right.plot(frames, [1000 * cost["training"] for cost in costs.values()], marker="o")
        for axes, label in ((left, "accuracy, %"), (right, "ms a training step")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(frames, frames)
            axes.set_xlabel("frames")
            axes.set_ylabel(label)
        right.set_ylim(0)
        left.legend(frameon=False, fontsize=7)

    return [figure(draw, folder / "frames.png", (10, 4))]
