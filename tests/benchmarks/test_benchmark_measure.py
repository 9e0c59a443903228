"""Timing: rounds are interleaved, samples reach pytest-benchmark as they are, memory is what was taken."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch

from benchmarks.conditions import conditions
from benchmarks.measure import Effort, interleave, order_of, time_on_cpu
from benchmarks.memory import usage_in_fresh_process, usage_on_cpu
from benchmarks.recorded import Recording, recorded_time


class Call:
    """A stand-in for a workload that notes when it runs."""

    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def prepare(self) -> None:
        self.log.append(f"prepare {self.name}")

    def __call__(self) -> None:
        self.log.append(self.name)


def test_rounds_are_interleaved():
    log: list[str] = []
    calls = {name: Call(name, log) for name in "abc"}
    samples = interleave(calls, Effort(fewest=4, most=4), time_on_cpu)
    assert {name: len(found) for name, found in samples.items()} == {"a": 4, "b": 4, "c": 4}
    ran = [entry for entry in log if not entry.startswith("prepare")]
    rounds = ["".join(ran[start : start + 3]) for start in range(0, len(ran), 3)]
    assert rounds == ["abc", "abc", "cba", "bca", "acb"]  # the first warms up
    assert log[::2] == [f"prepare {name}" for name in ran]


def test_two_take_turns_to_be_first():
    assert Counter(order_of(["base", "head"], index)[0] for index in range(8)) == {"base": 4, "head": 4}


def test_order_is_fair():
    names = list("abcd")
    first = Counter(order_of(names, index)[0] for index in range(8))
    followed = {pair for index in range(8) for pair in pairwise(order_of(names, index))}
    assert set(first) <= set(names)
    assert len(first) >= 2
    assert {("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")} <= followed


@pytest.mark.parametrize(("one_round", "rounds"), [(1e-4, 31), (2.0, 10), (3.0, 7), (6.0, 6), (20.0, 5)])
def test_effort(one_round, rounds):
    assert Effort(fewest=7, most=31, seconds=20.0, patience=40.0).rounds(one_round) == rounds
    assert Effort(fewest=7).rounds(1e9) == 7


def test_recording_plays_the_samples_back():
    samples = [0.25, 1.5, 0.125]
    recording, found = Recording(samples), []
    for _ in range(recording.rounds):
        start = recorded_time()
        recording.play()
        found.append(recorded_time() - start)
    assert found == pytest.approx(samples, rel=1e-12)


@pytest.mark.parametrize("megabytes", [16, 64])
def test_memory_probe_sees_a_known_allocation(megabytes):
    def call() -> None:
        torch.ones(megabytes * 2**18)  # of 4 bytes

    assert usage_on_cpu(call).peak == pytest.approx(megabytes * 2**20, rel=0.2)


def test_memory_in_fresh_process(small):
    usage = usage_in_fresh_process("reference", small)
    assert usage.peak >= 0
    assert usage.seconds > 0
    assert usage.method
    with pytest.raises(RuntimeError, match="no-such-variant"):
        usage_in_fresh_process("no-such-variant", small)


def test_conditions_are_complete(small):
    found = conditions(small)
    assert found["sizes"] == small.as_dict()
    assert found["machine"]["device"]
    assert found["machine"]["cpu"]
    assert found["machine"]["cores"] > 0
    assert found["machine"]["float32_products"] == "ieee"
    assert found["machine"]["load"] >= 0
    assert found["versions"]["torch"] == torch.__version__
    assert "triton" in found["versions"]
    assert found["date"][:2] == "20"
    assert found["sizes"]["threads"] == 1
    assert json.loads(json.dumps(found)) == found
