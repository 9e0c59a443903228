"""What an answer costs: accuracy against time and memory, IPRM against blocks of as many parameters, over K.

All are trained with one schedule and without dropout; none was tuned by itself. Times are medians of interleaved
rounds, one process at a time, of a training step and of an evaluation on random input: at 8 visual tokens, as the
questions here have, and at 196. Memory is the extra peak of a training step at 196, in a fresh process.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from iprm.vqa.experiments.forms import Form, overrides
from iprm.vqa.experiments.running import Results, Run, nothing, of_family, spread
from iprm.vqa.experiments.tables import Table, families, figure, line
from iprm.vqa.experiments.timing import WORDS, seconds
from iprm.vqa.training import memory
from iprm.vqa.training.config import configuration

TITLE = "What an answer costs"
REASONERS = {"IPRM": "fast", "cross-attention": "cross_attention", "concatenation": "concat_attention"}
TOKENS = (8, 196)


def _variant(name: str, K: int) -> str:
    return f"{name}, K = {K}"


def runs(form: Form, once: dict) -> list[Run]:
    """Every kind of block and every K over the seeds."""
    return [
        Run(_variant(name, K), seed, overrides(form, model__reasoner=reasoner, model__iprm__num_ops=K))
        for seed in form.seeds
        for name, reasoner in REASONERS.items()
        for K in form.operations
    ]


measure = nothing


def once(form: Form) -> dict[str, dict[str, float]]:
    """Return, for every variant, seconds at each number of visual tokens and bytes at the large one."""
    config = configuration(None, overrides(form))
    found: dict[str, dict[str, float]] = {}
    variants = {
        _variant(name, K): (reasoner, replace(config.model.mechanism(), num_ops=K))
        for name, reasoner in REASONERS.items()
        for K in form.operations
    }
    sizes = {tokens: memory.Sizes(config.training.batch_size, WORDS, tokens) for tokens in TOKENS}
    for tokens in TOKENS:
        of_size = {variant: (*which, sizes[tokens]) for variant, which in variants.items()}
        for variant, times in seconds(of_size).items():
            found.setdefault(variant, {}).update({f"{what}, {tokens}": time for what, time in times.items()})
    for variant, (reasoner, mechanism) in variants.items():
        found[variant]["memory"] = memory.measure(reasoner, mechanism, sizes[TOKENS[-1]])
    return found


def tables(results: Results) -> list[Table]:
    """Accuracy and cost, a row for each variant."""
    names, costs = families(results.runs.values()), results.once["found"]
    accuracies = [[v, *(spread(results.of(v, of_family(name))) for name in names)] for v in costs]
    rows = [
        [
            variant,
            spread(results.of(variant, of_family("overall"))),
            spread(results.of(variant, lambda run: run["parameters"])[:1], "{:,.0f}", 1.0),
            *(f"{1000 * cost[f'{what}, {tokens}']:.1f}" for tokens in TOKENS for what in ("training", "evaluation")),
            f"{cost['memory'] / 1e6:.0f}",
        ]
        for variant, cost in costs.items()
    ]
    times = [f"{what}, N = {N}, ms" for N in TOKENS for what in ("training step", "evaluation")]
    header = ["", "accuracy, %", "parameters", *times, f"memory, N = {TOKENS[-1]}, MB"]
    return [Table("Accuracy and cost", header, rows), Table("Accuracy by family, %", ["", *names], accuracies)]


def figures(results: Results, folder: Path) -> list[Path]:
    """Accuracy against time at the questions' size; time and memory over K at the large one."""
    costs = results.once["found"]

    def draw(fig) -> None:
        accuracy, time, room = fig.subplots(1, 3)
        for name in REASONERS:
            variants = [v for v in costs if v.startswith(f"{name}, ")]
            Ks = [int(v.rpartition(" ")[2]) for v in variants]
            milliseconds = [1000 * costs[v][f"training, {TOKENS[0]}"] for v in variants]
            line(accuracy, milliseconds, [results.of(v, of_family("overall")) for v in variants], name)
            time.plot(Ks, [1000 * costs[v][f"training, {TOKENS[-1]}"] for v in variants], marker="o", label=name)
            room.plot(Ks, [costs[v]["memory"] / 1e6 for v in variants], marker="o", label=name)
        accuracy.set_xlabel(f"ms a training step, N = {TOKENS[0]}")
        accuracy.set_ylabel("accuracy, %")
        accuracy.legend(frameon=False)
        time.set_ylabel(f"ms a training step, N = {TOKENS[-1]}")
        room.set_ylabel(f"memory of it, MB, N = {TOKENS[-1]}")
        for axes in (time, room):
            axes.set_xlabel("K")
            axes.set_ylim(0)

    return [figure(draw, folder / "cost.png", (12, 3.6))]
