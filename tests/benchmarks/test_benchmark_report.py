"""The page: ratios, training and plans, on made-up figures."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from benchmarks import plan
from benchmarks.points import Point
from benchmarks.records import Record, best_compiled, grouped, ratio
from benchmarks.tables import group_table, number, page
from benchmarks.variants import fast_variants

POINT = Point(threads=2)


def record(variant: str, measured: str, value: float | None, point: Point = POINT, status: str = "ok") -> Record:
    return Record(point, measured, variant, status, "because", value, rounds=7, error=3e-6)


def figures(fast: float) -> list[Record]:
    """The fused variant takes `fast` where the reference takes 20 and torch.compile's best 10."""
    values = {"reference": 20.0, "reference+compile": 15.0, "algebra+compile": 10.0, "fast[cpu]": fast}
    found = [
        record(variant, step, value) for step in ("forward", "training", "memory") for variant, value in values.items()
    ]
    return [*found, record("fast[cpu]", "memory", 3 * fast, dataclasses.replace(POINT, num_ops=32))]


def options(**changed) -> SimpleNamespace:
    defaults = {f"iprm_{axis}": None for axis in plan.AXES} | {
        "iprm_device": "cpu",
        "iprm_variants": None,
        "iprm_measured": "forward,training,memory",
        "iprm_short": False,
        "iprm_headline": False,
        "iprm_growth": False,
        "iprm_peers": False,
    }
    return SimpleNamespace(**defaults | changed)


def test_ratio_is_to_the_best_compiled():
    records = figures(fast=5.0)
    assert best_compiled(records, POINT, "forward").variant == "algebra+compile"
    assert ratio(records[0], records[3]) == 4.0
    assert ratio(None, records[3]) is None
    assert "| 6 | `fast[cpu]` | 5000 | 4.00x | 2.00x |" in group_table(records, "num_ops")


def test_training_stands_beside_the_kernels():
    cost = {"final_loss": 1.5, "seconds": 200.0, "peak_memory": {"10 visual tokens": 3_000_000}}
    training = {
        "conditions": {"device_name": "a CPU", "threads": 1, "dtype": "float32", "kernels": "cpu", "torch": "2.13.0"},
        "arguments": {"steps": 600, "batch_size": 128},
        "sizes": {"val_questions": 4000},
        "accuracy": {"reference": {"overall": 0.51}, "fast": {"overall": 0.52}},
        "cost": {"reference": cost, "fast": cost | {"seconds": 90.0}},
    }
    text = page(figures(fast=5.0), "num_ops", None, training, {})
    assert "| validation accuracy, % | 51.0 | 52.0 |" in text
    assert "| seconds of all steps | 200 | 90.0 |" in text
    assert "| a step's extra memory, 10 visual tokens, MB | 3.00 | 3.00 |" in text
    assert "600 steps of 128 questions, 4000 to validate; a CPU, threads: 1, float32, cpu kernels" in text


def test_wrong_shows_in_table_and_list():
    records = [record("reference", "forward", 1.0), record("fast[cpu]", "forward", None, status="wrong")]
    text = page(records, "num_ops", None, None, {})
    assert "| `fast[cpu]` | **wrong** |" in text
    assert "- `fast[cpu]`, forward, K = 6, float32: **wrong**. because" in text


def test_groups_differ_in_one_axis():
    points = [Point(num_ops=ops, batch=batch) for ops in (1, 6) for batch in (8, 16)]
    groups = grouped([record("reference", "forward", 1.0, point) for point in points], "num_ops")
    assert [point.batch for point in groups] == [8, 16]
    assert all(len(group) == 2 for group in groups.values())


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (12.34, "12.3"), (0.123, "0.12")])
def test_number(value, text):
    assert number(value) == text


def test_default_plan_has_all_axes_and_compiled_variants():
    cases = list(plan.cases_of(options()))
    assert [p.num_ops for p in dict.fromkeys(case.point for case in cases)] == [1, 2, 4, 6, 8, 12, 16, 32]
    assert {"reference", "reference+compile", "algebra", "algebra+compile"} <= {case.variant for case in cases}


def test_short_plan():
    cases = list(plan.cases_of(options(iprm_short=True)))
    assert {case.point.num_ops for case in cases} == {1, 6, 16}
    variants = {case.variant for case in cases}
    assert not any(name.endswith("+compile") for name in variants)
    assert sum(name.startswith("fast[") for name in variants) >= 1
    assert variants & {"fast[eager]"} <= set(fast_variants(POINT)[:1])


def test_headline_plan():
    cases = list(plan.cases_of(options(iprm_headline=True)))
    assert {case.point.num_ops for case in cases if case.measured != "memory"} == {6}
    assert [case.variant.startswith("fast[") for case in cases if case.point.num_ops == 32] == [True]


def test_every_combination_is_a_point():
    points = plan.points_of(options(iprm_num_ops="1,2", iprm_dropout="off,on", iprm_dtype="bfloat16"))
    assert [(p.num_ops, p.dropout, p.dtype) for p in points] == [
        (1, False, "bfloat16"),
        (1, True, "bfloat16"),
        (2, False, "bfloat16"),
        (2, True, "bfloat16"),
    ]


def test_growth_walks_one_axis_at_a_time():
    points = plan.points_of(options(iprm_growth=True))
    for axis, values in plan.GROWTH.items():
        line = [p for p in points if all(getattr(p, a) == v for a, v in plan.GROWN_FROM.items() if a != axis)]
        assert {getattr(p, axis) for p in line} == {*values, plan.GROWN_FROM[axis]}
    assert len(points) == len(set(points))


def test_peers_come_when_asked_for():
    names = plan.variants_of(options(iprm_peers=True, iprm_short=True), POINT)
    assert names[-len(plan.PEERS) :] == list(plan.PEERS)
    assert not set(plan.PEERS) & set(plan.variants_of(options(iprm_short=True), POINT))
