"""The judge sees every small mistake in a backend's path. A backend's own tests import these, as those of
`device_cores`, and bring the fixtures `backend` and `device`."""

from __future__ import annotations

import pytest
import torch
from comparison import draws_of, verdict_on
from planted import Mistake, case, every_mistake, scaled

DRAWS: dict = {}


def draws_for(op: str, dtype: torch.dtype = torch.float32):
    """The draws of an op's core, shared by all mistakes in it."""
    base = op.removesuffix("_backward")
    if (base, dtype) not in DRAWS:
        _, definition, make, options = case(base)
        DRAWS[base, dtype] = draws_of(definition, make, dtype, **options)
    return DRAWS[base, dtype]


@pytest.mark.parametrize("mistake", every_mistake(), ids=str)
def test_every_planted_mistake_is_caught(mistake, backend, on, monkeypatch):
    mistake.plant(monkeypatch, backend)
    verdict = verdict_on(on(case(mistake.op)[0]), draws_for(mistake.op), backend)
    assert not verdict.passed, str(verdict)


SMALLEST = {torch.float32: 3e-6, torch.bfloat16: 0.2, torch.float16: 0.025}
"""A share by which one weight matrix is off that is surely seen; some third of it is still seen mostly."""


@pytest.mark.parametrize("dtype", SMALLEST)
@pytest.mark.parametrize("op", ["execution", "execution_backward"])
def test_how_small_a_mistake_is_caught(op, dtype, backend, on, monkeypatch):
    Mistake(op, "C2", "").plant(monkeypatch, backend, scaled(SMALLEST[dtype]))
    verdict = verdict_on(on(case(op)[0]), draws_for(op, dtype), backend)
    assert not verdict.passed, str(verdict)
