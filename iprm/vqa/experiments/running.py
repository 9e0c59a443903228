"""Runs of an experiment: trained and measured, in parallel processes, each once and for all.

What a run came to is kept in a JSON file beside its tables; a run that is there with the same configuration is not made
again. So an experiment that was stopped goes on where it was, and a training that was stopped in its middle too.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import Trained, train

Measure = Callable[[Trained], dict[str, Any]]

VERSION = 1
"""Of what a run comes to: another one where data, models, training or measures change."""


class Run(NamedTuple):
    """One training of an experiment."""

    variant: str
    seed: int
    overrides: list[str]

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """A folder's name that says the configuration, so that experiments share what they have in common."""
        said = json.dumps([VERSION, *sorted([*self.overrides, f"training.seed={self.seed}"])])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class Results:
    """The finished runs of an experiment, on disk."""

    def __init__(self, path: Path):
        self.path = path
        read = json.loads(path.read_text()) if path.is_file() else {}
        self.runs: dict[str, dict] = read.get("runs", {})
        self.once: dict[str, Any] = read.get("once", {})
        """What an experiment measures apart from its runs."""

    def holds(self, run: Run) -> bool:
        """Whether the run is finished, with the same configuration."""
        return self.runs.get(run.name, {}).get("overrides") == run.overrides

    def put(self, run: Run, found: dict[str, Any]) -> None:
        """Keep what a run came to."""
        self.runs[run.name] = {"variant": run.variant, "seed": run.seed, "overrides": run.overrides, **found}
        self._write()

    def put_once(self, found: dict[str, Any]) -> None:
        """Keep what is measured apart from the runs."""
        self.once = found
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        content = {"runs": dict(sorted(self.runs.items())), "once": self.once}
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.path)

    def of(self, variant: str, value: Callable[[dict], float | None]) -> list[float]:
        """Return a value of every seed's run of a variant."""
        found = (value(run) for run in self.runs.values() if run["variant"] == variant)
        return [x for x in found if x is not None]


def spread(values: Iterable[float], form: str = "{:.1f}", scale: float = 100.0) -> str:
    """Return mean and sample standard deviation of `values`, as text; a dash where there are none."""
    found = [scale * value for value in values]
    if not found:
        return "-"
    mean = form.format(statistics.fmean(found))
    return mean if len(found) == 1 else f"{mean} ± {form.format(statistics.stdev(found))}"


def made(run: Run, work: Path, measure: Measure) -> dict[str, Any]:
    """Train one run, or take it up where it was, and measure it."""
    places = [f"folder={work / run.folder}", f"data.folder={work / 'questions'}"]
    config = configuration(None, [*run.overrides, f"training.seed={run.seed}", *places])
    trained = train(config)
    kept = ("accuracy", "seconds", "steps_per_second", "parameters", "conditions", "priors", "final_loss", "history")
    return {name: trained.result[name] for name in kept} | measure(trained)


def finish(runs: list[Run], measure: Measure, results: Results, work: Path, jobs: int, console: Console) -> None:
    """Make every run that `results` does not hold, `jobs` at a time."""
    left = [run for run in runs if not results.holds(run)]
    if not left:
        return
    console.print(f"{results.path.stem}: {len(left)} of {len(runs)} trainings to make, {jobs} at a time")
    if jobs == 1:
        for run in left:
            results.put(run, made(run, work, measure))
            console.print(f"  {run.name}: {results.runs[run.name]['accuracy']['overall']:.3f}", highlight=False)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(made, run, work, measure): run for run in left}
        for future in as_completed(futures):
            run = futures[future]
            results.put(run, future.result())
            console.print(f"  {run.name}: {results.runs[run.name]['accuracy']['overall']:.3f}", highlight=False)
