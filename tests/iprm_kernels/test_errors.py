"""Bad input gives a message that names the argument, what was expected and what came; never a crash."""

from __future__ import annotations

import numpy as np
import pytest
import test_composition
import test_dropped_execution
import test_execution
import test_formation
import torch

import iprm_kernels
from iprm import IPRMConfig, fast
from iprm_kernels import Map, Rates, Weights, backends
from iprm_kernels.backends.calls import Call


def full(**changes):
    return iprm_kernels.execution(**{**test_execution.make_full(2, 3, 7, 5, 4), **changes})


def formation(**changes):
    return iprm_kernels.formation(**{**test_formation.make(2, 3, 5, 4), **changes})


def simple(**changes):
    return iprm_kernels.execution_simple(**{**test_execution.make_simple(2, 3, 7, 5, 4), **changes})


def dropped(**changes):
    options = {"seed": torch.tensor([1]), "p_visual": 0.1}
    return iprm_kernels.execution_dropped(**{**test_dropped_execution.make_full(2, 3, 7, 5, 4), **options, **changes})


def simple_dropped(**changes):
    options = {"seed": torch.tensor([1]), "p_visual": 0.1}
    inputs = test_dropped_execution.make_simple(2, 3, 7, 5, 4)
    return iprm_kernels.execution_simple_dropped(**{**inputs, **options, **changes})


def composition(**changes):
    return iprm_kernels.composition(**{**test_composition.make(2, 3, 4, 2), **changes})


def dropout(**changes):
    return iprm_kernels.dropout(**{"x": torch.randn(3), "p": 0.5, "seed": torch.tensor([1]), "stream": 0, **changes})


def weights_of(**options) -> Weights:
    return fast.IPRM(IPRMConfig(dim=4, num_ops=3, **options))._weights()


def recurrence(**changes):
    states = {name: torch.randn(2, 3, 4) for name in ("O", "E")}
    tokens = {"language": torch.randn(2, 5, 4), "visual": torch.randn(2, 7, 4)}
    return iprm_kernels.recurrence(**{**states, **tokens, "weights": weights_of(), "steps": 2, **changes})


BAD = [
    (full, {"g": torch.randn(2, 3, 6)}, r"g: expected \(2, K, 5\) float32 on cpu, got \(2, 3, 6\) float32 on cpu"),
    (full, {"u": torch.randn(2, 6, 5)}, r"u: expected \(2, 7, 5\) float32"),
    (full, {"w": torch.randn(5).double()}, r"w: expected \(5,\) float32 on cpu, got \(5,\) float64 on cpu"),
    (full, {"v": torch.ones(2, 7, 5).long()}, r"v: expected a tensor of one of float32, .* got \(2, 7, 5\) int64"),
    (full, {"C2": torch.randn(5, 4)}, r"C2: expected \(5, 5\)"),
    (full, {"tokens": torch.randn(2, 7, 4, device="meta")}, r"tokens: expected \(2, 7, D\) float32 on cpu, .* on meta"),
    (full, {"mask": torch.ones(2, 6).bool()}, r"mask: expected \(2, 7\) bool on cpu, got \(2, 6\) bool on cpu"),
    (full, {"mask": torch.ones(2, 7)}, r"mask: expected \(2, 7\) bool on cpu, got \(2, 7\) float32 on cpu"),
    (full, {"mask": torch.full((2, 7), float("nan"))}, r"mask: expected \(2, 7\) bool"),
    (full, {"p_product": 1.0, "seed": torch.tensor([1])}, r"p_product: expected a rate in \[0, 1\), got 1.0"),
    (full, {"p_attention": -0.1}, r"p_attention: expected a rate in \[0, 1\), got -0.1"),
    (full, {"p_product": 0.1}, r"seed: expected \(1,\) int64 on cpu because p_product = 0.1, got None"),
    (full, {"p_product": 0.1, "seed": torch.tensor([1.0])}, r"seed: expected \(1,\) int64 .* got \(1,\) float32"),
    (full, {"activation": "swish"}, r"activation: expected one of 'identity', .* got 'swish'"),
    (full, {"backend": "tpu"}, r"backend: expected one of 'auto', .* got 'tpu'"),
    (full, {"tokens": torch.randn(2, 0, 4), "v": torch.randn(2, 0, 5), "u": torch.randn(2, 0, 5)},
     r"tokens: expected at least one token, got \(2, 0, 4\)"),
    (formation, {"gate": torch.randn(3)}, r"gate: expected \(4,\) float32"),
    (formation, {"tokens": torch.randn(3, 5, 4)}, r"tokens: expected \(2, L, 4\) float32"),
    (formation, {"tokens": torch.randn(2, 0, 4)}, r"tokens: expected at least one token"),
    (formation, {"mask": [[True]]}, r"mask: expected \(2, 5\) bool on cpu, got \[\[True\]\] \(list\)"),
    (composition, {"keys": []}, r"keys: expected at least the current step's states"),
    (composition, {"results": [torch.randn(2, 3, 4)]}, r"results: expected 2 tensors as keys has, got 1"),
    (composition, {"keys": [torch.randn(2, 3, 4), torch.randn(2, 2, 4)]}, r"keys\[1\]: expected \(2, 3, 4\) float32"),
]  # fmt: skip


@pytest.mark.parametrize(("core", "changes", "message"), BAD, ids=[m[:40] for *_, m in BAD])
def test_message(core, changes, message):
    with pytest.raises(ValueError, match=message):
        core(**changes)


CORES = {
    "formation": (formation, ("query", "tokens", "gate")),
    "execution": (full, ("v", "u", "g", "l", "C1a", "C2", "c2", "w", "tokens")),
    "execution_simple": (simple, ("keys", "query", "w", "tokens")),
    "execution_dropped": (dropped, ("V", "Wk", "bk", "C1b", "c1", "g", "l", "C1a", "C2", "c2", "w")),
    "execution_simple_dropped": (simple_dropped, ("V", "C1", "c1", "C2", "c2", "query", "w")),
    "composition": (composition, ("query", "gate")),
    "dropout": (dropout, ("x",)),
    "recurrence": (recurrence, ("O", "E", "language", "visual")),
}


@pytest.mark.parametrize("name", CORES)
def test_what_is_no_dense_tensor_is_named(name):
    """None, arrays, lists (cut short), sparse and nested tensors in the place of every tensor."""
    core, tensors = CORES[name]
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])
    bad = {
        "None": None,
        "ndarray": np.zeros((2, 3), np.float32),
        "list": [0.0] * 100_000,
        "sparse_coo": torch.eye(3).to_sparse(),
        "nested": nested,
    }
    for argument in tensors:
        for what, value in bad.items():
            with pytest.raises(ValueError, match=rf"^{argument}: expected .* got .*{what}") as error:
                core(**{argument: value})
            assert len(str(error.value)) < 250


RATES = {
    "formation": ("p_attention",),
    "execution": ("p_product", "p_attention"),
    "execution_simple": ("p_product", "p_attention"),
    "execution_dropped": ("p_visual", "p_product", "p_attention"),
    "execution_simple_dropped": ("p_visual", "p_product", "p_attention"),
    "composition": ("p_product", "p_value", "p_attention"),
    "dropout": ("p",),
}
NUMBERS = {name: {"step": (0, 2**28)} for name in CORES} | {
    "dropout": {"stream": (0, 2**32)},
    "recurrence": {"steps": (1, 2**28), "window": (0, 2**28)},
}


@pytest.mark.parametrize("backend", ["auto", *backends.BACKENDS])
@pytest.mark.parametrize("name", CORES)
def test_what_is_no_number_in_range_is_named(name, backend):
    """Whichever backend is asked for."""
    core, _ = CORES[name]
    for number, (least, most) in NUMBERS[name].items():
        for value in (least - 1, most, 1.0, "x", None, True):
            with pytest.raises(ValueError, match=f"^{number}: expected an integer from {least} to {most - 1}, got "):
                core(**{number: value, "backend": backend})
    for rate in RATES.get(name, [f"rates.{field}" for field in Rates._fields]):
        for value in ("x", None, [0.1], 1.0, 2, -0.1, float("nan"), True, torch.tensor(0.1)):
            rates = {"rates": Rates()._replace(**{rate[6:]: value})} if name == "recurrence" else {rate: value}
            with pytest.raises(ValueError, match=rf"^{rate}: expected a rate in \[0, 1\), got "):
                core(**rates, backend=backend)


@pytest.mark.parametrize("argument", ["keys", "operations", "results"])
def test_what_is_no_list_of_states_is_named(argument):
    for value in (None, torch.randn(2, 3, 4), 3):
        with pytest.raises(ValueError, match=f"^{argument}: expected a list of tensors, got "):
            composition(**{argument: value})
    with pytest.raises(ValueError, match=rf"^{argument}\[0\]: expected \(2, 3, 4\) float32 on cpu, got None"):
        composition(**{argument: [None, None]})


FORMS = [
    {"key_projection": True, "query_from_results": "concat", "update_norm": True, "composition_norm": True},
    {"execution": "simple", "operation_mlp": True, "result_mlp": True, "execution_query": "concat"},
]


@pytest.mark.parametrize("options", FORMS, ids=["full", "simple"])
def test_maps_that_make_no_form_are_named(options):
    """Each map left out in turn: what needs it, or what it needs, says so; the rest are options."""
    weights = weights_of(**options)
    optional = {"J_formation", "J_execution", "We2", "Wz2", "Ko"} | {name for name in weights._fields if "norm" in name}
    for name in weights._fields:
        if getattr(weights, name) is not None and name not in optional:
            with pytest.raises(ValueError, match=r"^weights\.\w+: expected a (map|tuple of maps).*, got None$"):
                recurrence(weights=weights._replace(**{name: None}))


def test_what_is_no_form_of_weights_is_named():
    full, simple = weights_of(), weights_of(execution="simple", operation_mlp=True)
    layer, narrow = full.F1, Map(torch.randn(3, 3), torch.randn(3))
    bad = {
        r"weights: expected Weights, got \[\] \(list\)": [],
        r"weights.F1: expected a map, got \(4, 4\) float32": full._replace(F1=layer.weight),
        r"weights.F2: expected a tuple of maps, got .* \(Map\)": full._replace(F2=layer),
        "weights.F2: expected one map, or one for each of 2 steps, got 0": full._replace(F2=()),
        "weights.Ur: expected a map because there is Uo, got None": full._replace(Ur=None),
        "weights.Wz2: expected None because there is Wk, got a map": full._replace(Wz2=simple.Wz2),
    }
    for name in ("F1", "C1", "C2", "Wv"):
        no_weight = layer._replace(weight=None)
        bad[rf"weights.{name}.weight: expected .* float32 on cpu, got None"] = full._replace(**{name: no_weight})
    for name in ("F1", "Wv"):
        bad[rf"weights.{name}.weight: expected \(4, 4\) .*, got \(3, 3\)"] = full._replace(**{name: narrow})
    for message, weights in bad.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            recurrence(weights=weights)
    with pytest.raises(ValueError, match=r"^weights.F1.weight: expected \(5, 5\) float32 on cpu, got \(4, 4\)"):
        recurrence(**{name: torch.randn(2, 3, 5) for name in ("O", "E", "language", "visual")})


def test_every_backend_says_why_it_cannot_run():
    for name, reason in iprm_kernels.reasons("meta").items():
        if name == "eager":
            assert reason is None
        else:
            assert reason
            with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run execution for float32 on meta"):
                backends.select(name, Call("execution"), torch.device("meta"), torch.float32)


def test_auto_takes_the_first_that_can(monkeypatch):
    device, dtype = torch.device("cpu"), torch.float32
    usable = [name for name, reason in iprm_kernels.reasons(device, dtype).items() if reason is None]
    assert backends.select("auto", Call("execution"), device, dtype) is backends.BACKENDS[usable[0]]
    for backend in backends.BACKENDS.values():
        if backend is not backends.BACKENDS["eager"]:
            monkeypatch.setattr(backend, "unsupported", lambda *_: "switched off")
    assert backends.select("auto", Call("execution"), device, dtype) is backends.BACKENDS["eager"]
