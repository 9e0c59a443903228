"""On a CUDA device: the whole fast module is the mechanism, forward and training step, captured in graphs or not.

By the benchmarks' gate, so that truth is the reference in float64 on the same device, and every gradient is judged.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.gate import Gate
from benchmarks.points import Point
from benchmarks.variants import unusable
from benchmarks.workload import STEPS, Workload

DTYPES = ("float32", "bfloat16", "amp-bfloat16")
POINTS = {
    "odd": Point(batch=3, num_ops=5, num_steps=3, visual_tokens=37, language_tokens=7, dim=36),
    "real": Point(batch=2, num_steps=2),
    "dropped": Point(batch=3, num_ops=5, num_steps=2, visual_tokens=37, language_tokens=7, dim=64, dropout=True),
}


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", ["", "+graph"])
@pytest.mark.parametrize("backend", ["triton", "cuda", "eager"])
@pytest.mark.parametrize("name", POINTS)
def test_is_the_mechanism(name, backend, graph, dtype, step, device):
    point = dataclasses.replace(POINTS[name], dtype=dtype, device=device)
    variant = f"fast[{backend}]{graph}"
    if reason := unusable(variant, point):
        pytest.skip(f"{variant}: {reason}")
    verdict = Gate(point, step).verdict(Workload(variant, point, step))
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("backend", ["triton", "cuda", "eager"])
def test_a_replay_follows_new_weights_and_inputs(backend, device):
    """The third call and the first are of one capture; what changed between them is seen."""
    point = dataclasses.replace(POINTS["odd"], device=device)
    if reason := unusable(f"fast[{backend}]", point):
        pytest.skip(f"{backend}: {reason}")
    workload = Workload(f"fast[{backend}]+graph", point, "forward")
    first = workload().clone()
    with torch.no_grad():
        workload.inputs[2].mul_(1.5)
        next(workload.module.execution.parameters()).mul_(1.5)
    changed = workload()
    plain = Workload(f"fast[{backend}]", point, "forward")
    plain.module.load_state_dict(workload.module.state_dict())
    plain.inputs = workload.inputs
    torch.testing.assert_close(changed, plain(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed, first)
    assert len(workload.module.graphs) == 1
