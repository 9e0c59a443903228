"""Growth along one size at a time, and the other mechanisms of a sweep."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import growth, plan
from benchmarks.measure import Effort, measure
from benchmarks.peers import PEERS
from benchmarks.points import Point
from benchmarks.records import Record, best_compiled
from benchmarks.variants import fast_options, module_of
from iprm import IPRMConfig, reference
from iprm.vqa.models.baselines import parameters

BASE = dataclasses.replace(Point(threads=1), **plan.GROWN_FROM)


def records(variant: str, measured: str, power: float, axis: str = "visual_tokens") -> list[Record]:
    """Of a cost that is 3 · size^power."""
    points = [dataclasses.replace(BASE, **{axis: size}) for size in plan.GROWTH[axis]]
    return [Record(p, measured, variant, "ok", value=3 * getattr(p, axis) ** power) for p in points]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_is_that_of_the_cost(power):
    line = growth.along(records("reference", "forward", power), "visual_tokens", "forward", "reference")
    assert growth.exponent(line, "visual_tokens") == pytest.approx(power, abs=1e-9)
    assert growth.exponent(line[:2], "visual_tokens") is None


def test_a_line_holds_the_other_sizes():
    """Records of other axes, steps and variants are not of it."""
    mixed = records("reference", "forward", 1.0) + records("reference", "forward", 2.0, "batch")
    mixed += records("algebra", "forward", 1.0) + records("reference", "training", 1.0)
    line = growth.along(mixed, "visual_tokens", "forward", "reference")
    assert {r.point.visual_tokens for r in line} == set(plan.GROWTH["visual_tokens"])
    assert all(r.point.batch == plan.GROWN_FROM["batch"] for r in line)
    with_zero = growth.along(records("reference", "forward", 1.0, "window"), "window", "forward", "reference")
    assert growth.exponent(with_zero, "window") is None  # of the two that are not zero none is fitted


def test_page_has_exponents_and_estimates():
    found = records("fast[cpu]+least", "memory", 1.0) + records("reference", "training", 2.0)
    text = growth.page(found, None)
    assert "| training step, ms | `reference` |" in text
    assert "| 2.00 |" in text
    assert text.count("estimated / measured") == 1
    assert "## B" not in text  # which was not walked
    assert growth.estimate(found[0]) < growth.estimate(found[-1 - len(plan.GROWTH["visual_tokens"])])
    assert growth.estimate(found[-1]) is None


def test_page_of_nothing_is_one_line(tmp_path, capsys):
    empty = tmp_path / "benchmark.json"
    empty.write_text('{"benchmarks": [], "refused": []}')
    assert growth.main([str(empty)]) == 2
    assert growth.main([str(tmp_path / "missing.json")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(line.startswith("error: ") for line in said)


@pytest.mark.parametrize("step", ["forward", "training"])
def test_peers_are_timed_and_not_judged(small, step):
    names = ["reference", *PEERS]
    outcomes = measure(names, small, step, Effort(fewest=3, most=3, seconds=0.1))
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys(names, "ok")
    assert all(len(outcome.samples) == 3 for outcome in outcomes.values())
    assert all(outcomes[name].verdict is None for name in PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_peers_have_as_many_parameters(name):
    """But four decoder layers, which have more without any feed-forward width."""
    config = IPRMConfig(dim=64, num_ops=4)
    wanted, found = parameters(reference.IPRM(config)), parameters(PEERS[name](config))
    if name == "cross-attention-4":
        assert wanted < found < 2.2 * wanted
    else:
        assert found == pytest.approx(wanted, rel=0.02)


def test_peers_are_no_baseline_of_the_compiler():
    compiled = [Record(BASE, "forward", f"{name}+compile", "ok", value=1.0) for name in PEERS]
    assert best_compiled(compiled, BASE, "forward") is None


def test_variants_name_a_memory_policy():
    assert fast_options("fast[cpu]") == {"backend": "cpu", "cuda_graph": False, "memory": "auto"}
    assert fast_options("fast[cuda]+graph+least+compile") == {"backend": "cuda", "cuda_graph": True, "memory": "least"}
    assert fast_options("reference") is None
    assert module_of("fast[eager]+fast", IPRMConfig(dim=16)).memory_policy == "fast"
    with pytest.raises(ValueError, match=r"expected one of .*cross-attention-2.*got 'fast\[cpu\]\+most'"):
        module_of("fast[cpu]+most", IPRMConfig(dim=16))


def test_estimates_stand_under_their_sizes():
    """Where a size is missing of a variant, too."""
    measured = records("fast[cpu]+least", "memory", 1.0)
    rows = growth.axis_table(records("reference", "memory", 1.0) + measured[1:], "visual_tokens", "memory").splitlines()
    cells = next(row for row in rows if "estimated" in row).split("|")[3:-2]
    assert [bool(cell.strip()) for cell in cells] == [False, True, True, True, True]
    assert cells[1].strip() == f"{growth.estimate(measured[1]) / measured[1].value:.2f}x"
