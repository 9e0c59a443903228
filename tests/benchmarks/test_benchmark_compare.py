"""Two commits beside each other: what is slower is told, noise is not, and what is wrong is not timed."""

from __future__ import annotations

import pytest

from benchmarks import compare
from benchmarks.compare import Comparison, Side, interval, row
from benchmarks.measure import Effort
from benchmarks.plan import Case
from benchmarks.points import Point

NOISE = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03, 0.97, 1.0, 1.01, 1.5]


def comparison(*factors: float) -> Comparison:
    """A pair of processes for each factor, which this checkout's seconds are longer by."""
    return Comparison(base=[[1.0] * len(NOISE)] * len(factors), head=[[f * x for x in NOISE] for f in factors])


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [((1.2, 1.2, 1.2), "slower"), ((1.2, 1.2, 1.0), "unclear"), ((0.8, 0.8, 0.8), "faster"), ((1.0, 1.0), "same")],
)
def test_verdict_needs_every_pair(factors, verdict):
    assert comparison(*factors).verdict(0.05) == verdict
    assert row(Case(Point(), "forward", "fast[cpu]"), comparison(*factors), 0.05)[1] == (verdict != "slower")


def test_interval_leaves_out_what_the_sign_test_allows():
    assert interval(NOISE) == (0.98, 1.03)
    assert interval([1.0, 2.0, 3.0]) == (1.0, 3.0)
    assert interval(list(range(100))) == (39, 60)


def test_both_sides_are_judged_and_timed(root, small):
    found = compare.compare(root, root, Case(small, "training", "fast[eager]"), Effort(3, 3, 0.1), pairs=2)
    assert [len(samples) for samples in found.base + found.head] == [3, 3, 3, 3]
    assert all(seconds > 0 for samples in found.base + found.head for seconds in samples)


def test_what_cannot_be_judged_is_not_timed(root, small):
    found = compare.compare(root, root, Case(small, "forward", "no-such-variant"), Effort(3, 3, 0.1), pairs=1)
    assert found.startswith("base is failed: ValueError: variant: expected one of")


def test_a_side_that_does_not_start_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="ended with exit status 1"):
        Side(tmp_path)


def test_an_unknown_commit_is_named(capsys):
    assert compare.main(["no-such-commit"]) == 2
    assert capsys.readouterr().err.startswith("error: no-such-commit: ")
