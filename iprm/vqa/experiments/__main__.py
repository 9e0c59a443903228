"""Run experiments: train what they compare, over several seeds, and write tables and figures.

python -m iprm.vqa.experiments steps                  # the short form, a minute
python -m iprm.vqa.experiments all --form full        # hours on two cores; goes on where it was stopped
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.console import Console

from iprm.vqa.experiments import ablations, accuracy, cost, frames, generalisation, signs, sizes, steps
from iprm.vqa.experiments.forms import FORMS, Form
from iprm.vqa.experiments.running import Results, finish

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
    parser = argparse.ArgumentParser(prog="python -m iprm.vqa.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=(*EXPERIMENTS, "all"), metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--form", choices=tuple(FORMS), default="short")
    parser.add_argument("--out", type=Path, help="tables and figures; default results/experiments/FORM")
    parser.add_argument("--work", type=Path, default=Path("build/experiments"), help="questions and checkpoints")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each; default 1")
    parser.add_argument("--report-only", action="store_true", help="train nothing: tables of the runs there are")
    return parser


def conditions(results: Results) -> str:
    """Return in a line what the figures depend on."""
    runs = list(results.runs.values())
    said = {"seeds": ", ".join(sorted({str(run["seed"]) for run in runs}))}
    for key in ("torch", "device_name", "kernels", "dtype", "threads"):
        said[key] = ", ".join(sorted({str(run["conditions"][key]) for run in runs}))
    hours = sum(run["seconds"] for run in runs) / 3600
    return "; ".join(f"{key}: {value}" for key, value in said.items()) + f"; training: {hours:.2f} core hours"


def write(experiment: ModuleType, name: str, form: Form, results: Results, folder: Path, console: Console) -> None:
    """Write and show the tables; write the figures."""
    tables, figures = experiment.tables(results), experiment.figures(results, folder)
    parts = [f"# {experiment.TITLE}", experiment.__doc__.strip()]
    parts += [f"`python -m iprm.vqa.experiments {name} --form {form.name}`. {conditions(results)}."]
    parts += [table.markdown().rstrip() for table in tables]
    parts += [f"![{experiment.TITLE}]({figure.name})" for figure in figures]
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    for table in tables:
        table.show(console)
    console.print(f"written: {folder / name}.md")


def run(name: str, form: Form, out: Path, work: Path, jobs: int, console: Console) -> None:
    """Make what is missing of an experiment."""
    experiment, results = EXPERIMENTS[name], Results(out / f"{name}.json")
    finish(experiment.runs(form), experiment.measure, results, work, jobs, console)
    if hasattr(experiment, "once") and not results.once:
        results.put_once(experiment.once(form))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = arguments_parser().parse_args(argv)
    form, console = FORMS[arguments.form], Console()
    out = arguments.out or Path("results/experiments") / form.name
    names = list(EXPERIMENTS) if "all" in arguments.names else arguments.names
    if arguments.jobs < 1:
        print(f"error: --jobs: expected at least 1, got {arguments.jobs}", file=sys.stderr)
        return 2
    for name in names:
        if not arguments.report_only:
            run(name, form, out, arguments.work, arguments.jobs, console)
        results = Results(out / f"{name}.json")
        if results.runs:
            write(EXPERIMENTS[name], name, form, results, out, console)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
