"""The judge sees every small mistake in a whole module: in its backend's kernels, in one parameter, in one rate."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from pairs import draws_of, outputs_of
from planted import KINDS, RATE, WRONG_RATE, Mistake, every_mistake

from iprm import IPRMConfig, fast
from iprm_kernels.testing import Draws, Verdict, judge

pytestmark = pytest.mark.numerical

SIZES = {"dim": 16, "num_ops": 3, "num_steps": 2}
DROPOUTS = [f.name for f in dataclasses.fields(IPRMConfig) if f.name.endswith("dropout")]
RATES = dict.fromkeys(DROPOUTS, RATE)
SHIFTS = ("formation.f", "execution.w", "composition.c", "composition.Ko", "readout.p", "readout.Pk")
"""The biases of these shift a whole row of logits, which changes nothing."""


@functools.cache
def draws_for(config: IPRMConfig) -> Draws:
    """Shared by all mistakes."""
    return draws_of(config, torch.float32, train=True, B=2, L=5, N=13, masked=True)


def verdict_on(config: IPRMConfig, backend: str, change=None, wrong: IPRMConfig | None = None) -> Verdict:
    """The verdict on the fast module with changed values of each draw, or built of a wrong config."""
    model = fast.IPRM(wrong or config, backend)
    return judge(draws_for(config), lambda values: outputs_of(model, change(values) if change else values, True))


def verdict_with(mistake: Mistake, backend: str, draws: Draws, config: IPRMConfig) -> Verdict:
    """The verdict on the fast module with a mistake in its backend.

    It is planted for the module's runs alone: the reference draws its dropout by the same op, and what a draw holds to
    be true, made in between, would be as wrong.
    """
    model = fast.IPRM(config, backend)

    def candidate(values):
        with pytest.MonkeyPatch.context() as patch:
            mistake.plant(patch, backend)
            return outputs_of(model, values, True)

    return judge(draws, candidate)


@pytest.mark.parametrize("execution", ["full", "simple"])
def test_nothing_is_found_where_nothing_is_planted(execution, backend):
    verdict = verdict_on(IPRMConfig(**SIZES, **RATES, execution=execution), backend)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("mistake", every_mistake(), ids=str)
def test_every_mistake_of_a_backend_is_caught(mistake: Mistake, backend):
    execution = "simple" if mistake.op.startswith("execution_simple") else "full"
    config = IPRMConfig(**SIZES, **RATES, execution=execution)
    verdict = verdict_with(mistake, backend, draws_for(config), config)
    assert not verdict.passed, str(verdict)


@pytest.mark.parametrize("mistake", [m for m in every_mistake() if m.op == "dropout"], ids=str)
def test_a_mistake_is_not_in_what_it_is_judged_by(mistake: Mistake, backend):
    config = IPRMConfig(**SIZES, **RATES)
    draws = draws_for.__wrapped__(config)  # of its own: nobody else made any of it
    assert not verdict_with(mistake, backend, draws, config).passed
    assert judge(draws, lambda values: outputs_of(fast.IPRM(config, backend), values, True)).passed


@pytest.mark.parametrize("kind", ["left out", "1 % off", "an entry 1 % off"])
@pytest.mark.parametrize("execution", ["full", "simple"])
def test_every_wrong_parameter_is_caught(execution, kind, backend):
    config = IPRMConfig(**SIZES, execution=execution, key_projection=True, composition_norm=True).without_dropout()
    names = [name for name, _ in fast.IPRM(config).named_parameters() if name.removesuffix(".bias") not in SHIFTS]
    for name in names:

        def change(values, name=name):
            return values | {"weights": values["weights"] | {name: KINDS[kind][1](values["weights"][name])}}

        verdict = verdict_on(config, backend, change)
        assert not verdict.passed, f"{name} {kind}: {verdict}"
    assert len(names) > 30


@pytest.mark.parametrize("rate", DROPOUTS)
def test_every_wrong_rate_is_caught(rate, backend):
    config = IPRMConfig(**SIZES, **RATES)
    verdict = verdict_on(config, backend, wrong=dataclasses.replace(config, **{rate: WRONG_RATE}))
    assert not verdict.passed, str(verdict)
