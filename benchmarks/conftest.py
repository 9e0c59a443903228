"""pytest's side of the sweeps: options, one test for each case, and the results of each point."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks.measure import Effort, Outcome, judged, measure
from benchmarks.points import Point
from benchmarks.variants import unusable

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmark.json"
_refused = pytest.StashKey[list]()


def pytest_addoption(parser):
    plan.add_options(parser.getgroup("iprm", plan.TITLE).addoption)


def pytest_configure(config):
    """Results go to results/benchmark.json unless told otherwise; the folder is made first."""
    config.stash[_refused] = []
    config.option.reportchars += "s"  # why a variant was skipped
    target = config.option.benchmark_json = config.option.benchmark_json or RESULTS
    if not config.option.collectonly:
        Path(target).parent.mkdir(parents=True, exist_ok=True)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        wanted = metafunc.function.__name__
        cases = [case for case in plan.cases_of(metafunc.config.option) if case.test == wanted]
        metafunc.parametrize("case", cases, ids=[case.label for case in cases])


class Results:
    """The outcomes of every point, each measured once, when the first of its cases asks for them."""

    def __init__(self, options):
        self._options = options
        self._variants = defaultdict(list)
        for case in plan.cases_of(options):
            self._variants[case.point, case.measured].append(case.variant)
        self._outcomes: dict[tuple[Point, str], dict[str, Outcome]] = {}

    def _usable(self, point: Point, measured: str) -> list[str]:
        return [name for name in self._variants[point, measured] if unusable(name, point) is None]

    def _effort(self, case: plan.Case) -> Effort:
        return plan.effort_of(self._options, case.measured)

    def timed(self, case: plan.Case) -> Outcome:
        """The case's verdict and times."""
        key = case.point, case.measured
        if key not in self._outcomes:
            self._outcomes[key] = measure(self._usable(*key), *key, self._effort(case))
        return self._outcomes[key][case.variant]

    def training(self, case: plan.Case) -> Outcome:
        """The verdict on a training step of the case; its times where they have been taken."""
        known = self._outcomes.get((case.point, "training"), {})
        if case.variant in known:
            return known[case.variant]
        key = case.point, "memory"
        if key not in self._outcomes:
            self._outcomes[key] = judged(self._usable(*key), case.point, "training")[1]
        return self._outcomes[key][case.variant]


@pytest.fixture(scope="session")
def results(request) -> Results:
    return Results(request.config.option)


@pytest.fixture
def usable(case) -> None:
    """Skip, with the reason, a variant that cannot run here."""
    if reason := unusable(case.variant, case.point):
        pytest.skip(f"{case.variant}: {reason}")


@pytest.fixture
def refuse(request, case):
    """Fail the case, and keep its outcome for the results: it must not go missing from the report."""

    def fail(outcome: Outcome) -> None:
        request.config.stash[_refused].append(
            {
                "measured": case.measured,
                "variant": case.variant,
                "status": outcome.status,
                "message": outcome.message,
                "sizes": case.point.as_dict(),
            }
        )
        pytest.fail(f"{case.variant} is {outcome.status} and not measured: {outcome.message}", pytrace=False)

    return fail


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Add what was refused; name each case by its label, since JSON does not know the object."""
    for entry in output_json["benchmarks"]:
        entry["params"] = {"case": entry["param"]}
    output_json["refused"] = config.stash[_refused]
