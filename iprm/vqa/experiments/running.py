"""Runs of an experiment: trained and measured, in parallel processes, each once and for all.

What a run came to is kept in a JSON file beside its tables; a run that is there with the same configuration is not made
again. So an experiment that was stopped goes on where it was, and a training that was stopped in its middle too.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from iprm.vqa.training.checkpoint import write_whole
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import Trained, train

Measure = Callable[[Trained], dict[str, Any]]

KEPT = ("accuracy", "history", "priors", "final_loss", "steps", "seconds", "parameters", "conditions")
"""Of the result of a training."""
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
        once = read.get("once", {})
        self.once: dict[str, Any] = once if once.get("version") == VERSION else {}
        """What an experiment measures apart from its runs (`found`), and its conditions."""

    def holds(self, run: Run) -> bool:
        """Whether the run is finished, with the same configuration."""
        found = self.runs.get(run.name, {})
        return found.get("overrides") == run.overrides and found.get("version") == VERSION

    def put(self, run: Run, found: dict[str, Any]) -> None:
        """Keep what a run came to."""
        about = {"variant": run.variant, "seed": run.seed, "overrides": run.overrides, "version": VERSION}
        self.runs[run.name] = about | found
        self._write()

    def put_once(self, found: dict[str, Any], conditions: dict[str, Any]) -> None:
        """Keep what is measured apart from the runs."""
        self.once = {"version": VERSION, "conditions": conditions, "found": found}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"runs": dict(sorted(self.runs.items())), "once": self.once}
        write_whole(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def only(self, runs: Iterable[Run]) -> Results:
        """Return the results of these runs alone, those that are finished."""
        kept = Results(self.path)
        kept.once = self.once
        kept.runs = {run.name: self.runs[run.name] for run in runs if self.holds(run)}
        return kept

    def of(self, variant: str, value: Callable[[dict], float | None]) -> list[float]:
        """Return a value of every seed's run of a variant."""
        found = (value(run) for run in self.runs.values() if run["variant"] == variant)
        return [x for x in found if x is not None]

    def differences(self, variant: str, base: str, value: Callable[[dict], float | None]) -> list[float]:
        """Return a variant's value minus that of `base`, seed by seed."""
        of = {
            name: {run["seed"]: value(run) for run in self.runs.values() if run["variant"] == name}
            for name in (variant, base)
        }
        pairs = [(of[variant][seed], of[base][seed]) for seed in of[variant].keys() & of[base].keys()]
        return [a - b for a, b in pairs if a is not None and b is not None]


def of_family(name: str) -> Callable[[dict], float | None]:
    """Return what reads the accuracy of a family (or `overall`) from a run."""
    return lambda run: run["accuracy"].get(name)


def nothing(trained: Trained) -> dict[str, Any]:
    """Measure nothing besides what training came to."""
    return {}


def spread(values: Iterable[float], form: str = "{:.1f}", scale: float = 100.0) -> str:
    """Return mean ± sample standard deviation of `values`, as text; a dash where there are none."""
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
    result: dict[str, Any] = trained.result  # pyright: ignore[reportAssignmentType] - it has finished
    return {name: result[name] for name in KEPT} | measure(trained)


def finish(runs: list[Run], measure: Measure, results: Results, work: Path, jobs: int, console: Console) -> None:
    """Make every run that `results` does not hold, `jobs` at a time."""
    left = [run for run in runs if not results.holds(run)]
    if not left:
        return
    console.print(f"{results.path.stem}: {len(left)} of {len(runs)} trainings to make, {jobs} at a time")
    for run, found in _all(left, measure, work, jobs):
        results.put(run, found)
        console.print(f"  {run.name}: {found['accuracy']['overall']:.3f}", highlight=False)


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that was: what it trains would be kept by nobody."""

    def wait() -> None:
        multiprocessing.parent_process().join()  # pyright: ignore[reportOptionalMemberAccess] - this is a child
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _all(runs: list[Run], measure: Measure, work: Path, jobs: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Yield what each run came to, as they finish. One that fails, or Ctrl-C, ends those that wait."""
    if jobs == 1:
        yield from ((run, made(run, work, measure)) for run in runs)
        return
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        futures = {pool.submit(made, run, work, measure): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
