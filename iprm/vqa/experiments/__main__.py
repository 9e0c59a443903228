"""Run experiments: train what they compare, over several seeds, and write tables and figures.

    python -m iprm.vqa.experiments steps                  # the short form, a minute
    python -m iprm.vqa.experiments all --form full        # hours on two cores

Given again, a command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from iprm_kernels.extras import extra

with extra("train", __name__):
    from rich.console import Console

    from iprm.vqa.experiments import ablations, accuracy, cost, frames, generalisation, signs, sizes, steps
    from iprm.vqa.experiments.forms import FORMS, Form
    from iprm.vqa.experiments.running import Results, finish
    from iprm.vqa.training import report

EXPERIMENTS: dict[str, ModuleType] = {
    "accuracy": accuracy,
    "steps": steps,
    "signs": signs,
    "generalisation": generalisation,
    "ablations": ablations,
    "sizes": sizes,
    "cost": cost,
    "frames": frames,
}


def arguments_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m iprm.vqa.experiments", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "names", nargs="+", choices=(*EXPERIMENTS, "all"), metavar="NAME", help=f"{', '.join(EXPERIMENTS)} or all"
    )
    parser.add_argument("--form", choices=tuple(FORMS), default="short", help="how large; default %(default)s")
    parser.add_argument("--out", type=Path, help="tables and figures; default results/experiments/FORM")
    parser.add_argument(
        "--work", type=Path, default=Path("build/experiments"), help="questions and checkpoints; default %(default)s"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each; default %(default)s")
    parser.add_argument("--report-only", action="store_true", help="train nothing: tables of the runs there are")
    return parser


def said(results: Results) -> str:
    """Return in a paragraph what the figures depend on."""
    runs = list(results.runs.values())
    found = {"seeds": sorted({str(run["seed"]) for run in runs})}
    for key in ("torch", "device_name", "kernels", "dtype", "threads"):
        found[key] = sorted({str(run["conditions"][key]) for run in runs} - {"None"})
    hours = sum(run["seconds"] for run in runs) / 3600
    lines = [f"{key.replace('_name', '')}: {', '.join(values)}" for key, values in found.items()]
    if results.once:
        lines.append(f"times measured on: {results.once['conditions']['device_name']}")
    lines.append(f"{len(runs)} trainings, {hours:.1f} hours of a core")
    means = (
        "Mean ± sample standard deviation over the seeds, which decide weights and order; the questions are the same."
    )
    return f"{'; '.join(lines)}. {means}"


def write(experiment: ModuleType, name: str, form: Form, results: Results, folder: Path, console: Console) -> None:
    """Write and show the tables; write the figures."""
    tables, figures = experiment.tables(results), experiment.figures(results, folder)
    parts = [f"# {experiment.TITLE}", (experiment.__doc__ or "").strip()]
    parts += [f"`python -m iprm.vqa.experiments {name} --form {form.name}`; {said(results)}"]
    parts += [table.markdown().rstrip() for table in tables]
    parts += [f"![{experiment.TITLE}]({figure.name})" for figure in figures]
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for table in tables:
        table.show(console)
    console.print(f"written: {folder / name}.md")


def run(name: str, form: Form, arguments: argparse.Namespace, console: Console) -> None:
    """Make what is missing of an experiment, and write what there is."""
    experiment, results = EXPERIMENTS[name], Results(arguments.out / f"{name}.json")
    if hasattr(experiment, "once") and not results.once:
        if arguments.report_only:
            return
        console.print(f"{name}: measuring times")
        results.put_once(experiment.once(form), report.conditions(torch.device("cpu"), torch.float32, "auto"))
    runs = experiment.runs(form, results.once)
    if not arguments.report_only:
        finish(runs, experiment.measure, results, arguments.work, arguments.jobs, console)
    if (finished := results.only(runs)).runs:
        write(experiment, name, form, finished, arguments.out, console)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, 2 for wrong arguments or files, 130 where it was interrupted."""
    arguments = arguments_parser().parse_args(argv)
    arguments.out = arguments.out or Path("results/experiments") / arguments.form
    if arguments.jobs < 1:
        print(f"error: --jobs: expected at least 1, got {arguments.jobs}", file=sys.stderr)
        return 2
    try:
        for name in EXPERIMENTS if "all" in arguments.names else arguments.names:
            run(name, FORMS[arguments.form], arguments, Console())
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
