"""The measurement of one point: every variant is judged, then those that passed are timed, interleaved.

In each round every variant runs once, so that what the machine does meanwhile falls on all of them alike; the
order is reversed in every second round and turns by one after it, so that none always follows the same one.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.gate import Gate
from benchmarks.points import Point
from benchmarks.variants import COMPILED, is_peer
from benchmarks.workload import Workload
from iprm_kernels.testing import Verdict

HURRIED = 5
"""Rounds of a measurement that takes too long."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds enough to fill `seconds`, from `fewest` to `most`.

    Where `fewest` rounds would take longer than `patience`, in seconds, only those that fit in it are made,
    but at least `HURRIED`.
    """

    fewest: int = 7
    most: int = 31
    seconds: float = 20.0
    patience: float = math.inf

    def rounds(self, one_round: float) -> int:
        fewest = self.fewest
        if fewest * one_round > self.patience:
            fewest = min(fewest, max(HURRIED, math.floor(self.patience / one_round)))
        return max(fewest, min(self.most, math.floor(self.seconds / max(one_round, 1e-9))))


@dataclass
class Outcome:
    """What became of a variant: its verdict and its times, or why there are none."""

    status: str  # "ok", "wrong" or "failed"
    message: str
    verdict: Verdict | None = None
    samples: list[float] = field(default_factory=list)  # seconds


def order_of(names: list[str], index: int) -> list[str]:
    """The order of the variants in round `index`."""
    turn = index // 2 % len(names)
    turned = names[turn:] + names[:turn]
    return turned[::-1] if index % 2 else turned


def stopwatch(device: str) -> Callable[[Callable], float]:
    """What times one call, in seconds: the clock on the CPU, events on a GPU."""
    return time_on_gpu if torch.device(device).type == "cuda" else time_on_cpu


def time_on_cpu(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_on_gpu(call: Callable) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def interleave(
    calls: Mapping[str, Workload], effort: Effort, timed: Callable[[Callable], float]
) -> dict[str, list[float]]:
    """Seconds of every call in every round, after one round that is not counted."""
    names, samples = list(calls), {name: [] for name in calls}
    if not names:
        return samples

    def one_round(index: int) -> dict[str, float]:
        found = {}
        for name in order_of(names, index):
            calls[name].prepare()
            found[name] = timed(calls[name])
        return found

    gc.collect()
    gc.disable()
    try:
        rounds = effort.rounds(sum(one_round(0).values()))
        for index in range(rounds):
            for name, seconds in one_round(index).items():
                samples[name].append(seconds)
    finally:
        gc.enable()
    return samples


def _attempt(name: str, point: Point, step: str, gate: Gate) -> tuple[Workload | None, Outcome]:
    """The workload, if it may be timed, and what became of it."""
    try:
        workload = Workload(name, point, step)
        if is_peer(name):
            return _finite(workload)
        verdict = gate.verdict(workload)
    except Exception as error:  # a variant that cannot run must not stop the others
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, Outcome("failed", f"{type(error).__name__}: {first}")
    if not verdict.passed:
        return None, Outcome("wrong", str(verdict), verdict)
    return workload, Outcome("ok", str(verdict), verdict)


def _finite(workload: Workload) -> tuple[Workload | None, Outcome]:
    """Of another mechanism no more can be asked."""
    if all(bool(x.isfinite().all()) for x in workload.outputs().values()):
        return workload, Outcome("ok", "another mechanism, not judged")
    return None, Outcome("wrong", "not finite")


def judged(names: list[str], point: Point, step: str) -> tuple[dict[str, Workload], dict[str, Outcome]]:
    """Judge every variant: the workloads that may be timed, and an outcome for each variant."""
    if any(name.endswith(COMPILED) for name in names):
        torch._dynamo.reset()  # past its limit of recompilations torch.compile would silently stop compiling
    gate, workloads, outcomes = Gate(point, step), {}, {}
    for name in names:
        workload, outcomes[name] = _attempt(name, point, step, gate)
        if workload:
            workloads[name] = workload
    return workloads, outcomes


def measure(names: list[str], point: Point, step: str, effort: Effort) -> dict[str, Outcome]:
    """Judge and time the variants at a point.

    Args:
        names: the variants.  step: "forward" or "training".  effort: how many rounds.
    Returns:
        an outcome for each variant; only those with status "ok" have samples.
    """
    torch.set_num_threads(point.threads)
    workloads, outcomes = judged(names, point, step)
    for name, samples in interleave(workloads, effort, stopwatch(point.device)).items():
        outcomes[name].samples = samples
    return outcomes
