"""Layers that are not plain: the fast module equals the reference whatever became of a layer."""

from __future__ import annotations

import warnings

import pytest
import torch
from layers_that_are_not_plain import CHANGES, adapter, forward_hook
from pairs import assert_same, inputs, pair, step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iprm import IPRMConfig, fast, layers

SMALL = {"dim": 12, "num_ops": 3, "num_steps": 2}
MODELS = {
    "full": {"key_projection": True, "query_from_results": "concat", "op_init": "language", "result_init": "visual"},
    "per step": {"per_step_query": True, "composition_value_dropout": 0.0, "visual_dropout": 0.0},
    "simple": {"execution": "simple", "execution_query": "concat", "operation_mlp": True, "result_mlp": True},
}
"""Between them they have every linear layer."""


def linear_layers(name: str) -> list[str]:
    model, _ = pair(IPRMConfig(**SMALL, **MODELS[name]))
    return [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]


LAYERS = [(name, path) for name in MODELS for path in linear_layers(name)]


def changed(name: str, change, path: str):
    """A reference and a fast module with the same weights and the same change."""
    models = pair(IPRMConfig(**SMALL, **MODELS[name]))
    for model in models:
        torch.manual_seed(1)
        change(model, path)
    return models


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_reference(name, change, train):
    """Every linear layer in turn, results and every gradient, without and with dropout."""
    for path in linear_layers(name):
        reference, fast = changed(name, change, path)
        args = inputs(reference.config, B=2, masked=True)
        assert_same(step(fast, args, train), step(reference, args, train))


@pytest.mark.filterwarnings("ignore")
def test_without_gradients():
    for name, path in LAYERS:
        for change in (adapter, forward_hook):
            reference, fast = changed(name, change, path)
            args = inputs(reference.config, B=2)
            with torch.no_grad():
                torch.testing.assert_close(fast.eval()(*args), reference.eval()(*args), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore")
def test_all_layers_at_once():
    for name in MODELS:
        models = pair(IPRMConfig(**SMALL, **MODELS[name]))
        for model in models:
            torch.manual_seed(1)
            for path in linear_layers(name):
                adapter(model, path)
        args = inputs(models[0].config, B=2)
        assert_same(step(models[1], args, True), step(models[0], args, True))


@pytest.mark.filterwarnings("ignore")
def test_hooks_see_every_call():
    """A hook for all modules is run as often as in the reference."""
    reference, fast = pair(IPRMConfig(**SMALL))
    args, counts = inputs(reference.config), []
    for model in (reference, fast):
        seen = []
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_, seen=seen: seen.append(type(module)))
        try:
            model.eval()(*args)
        finally:
            handle.remove()
        counts.append(seen.count(nn.Linear))
    assert counts[0] == counts[1]


@pytest.mark.filterwarnings("ignore")
def test_hooks_of_stages_run():
    """A stage with a hook is called, as in the reference."""
    for options in ({}, {"visual_dropout": 0.0}, {"execution": "simple", "visual_dropout": 0.0}):
        reference, fast = pair(IPRMConfig(**SMALL, **options))
        seen = []
        for stage in (fast.formation, fast.execution, fast.composition):
            stage.register_forward_hook(lambda module, *_, seen=seen: seen.append(type(module).__name__))
        args = inputs(reference.config)
        assert_same(step(fast, args, True), step(reference, args, True))
        assert seen == ["Formation", "Execution", "Composition"] * 2


@pytest.mark.filterwarnings("ignore")
def test_wrapped_stages_are_called():
    """As by torch.compile of a stage."""
    for options in ({}, {"visual_dropout": 0.0}):
        reference, fast = pair(IPRMConfig(**SMALL, **options))
        args = inputs(reference.config)
        want = step(reference, args, True)
        for name in ("formation", "execution", "composition"):
            setattr(fast, name, torch.compile(getattr(fast, name), backend="eager"))
        got = step(fast, args, True)
        assert_same({name.replace("_orig_mod.", ""): t for name, t in got.items()}, want)


def test_the_flop_counter_sees_the_fused_op():
    """Its hooks follow which module runs, and do no more."""
    model = fast.IPRM(IPRMConfig(dim=8, num_ops=2, num_steps=3))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 5, 8)).sum().backward()
    counted = {packet.__name__ for packet in counter.get_flop_counts()["IPRM"]}
    assert {"recurrence", "recurrence_backward"} <= counted


def test_warns_once_and_says_what_it_costs():
    layers.warn_once.cache_clear()
    _, fast = changed("full", adapter, "execution.C1")
    args = inputs(fast.config)
    reason = r"execution\.C1 is a layers_that_are_not_plain\.Adapter"
    expected = reason + r", so the module runs as iprm\.reference does: .*\(B, K, N, R\)"
    with pytest.warns(UserWarning, match=expected):
        fast(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(*args)


def test_layers_beside_the_recurrence_are_called_as_they_are(monkeypatch):
    """The initial memory and the read-out are no part of the op: what becomes of their layers does not undo it."""
    monkeypatch.setattr("iprm.reference.Execution.forward", None)
    for path in ("memory.op_maps.0", "memory.result_maps.1", "readout.Pk", "readout.p"):
        _, fast = changed("full", adapter, path)
        fast(*inputs(fast.config))


@pytest.mark.parametrize("change", ["eps", "gain"])
def test_norms_are_read_with_all_they_have(change):
    config = IPRMConfig(**SMALL, formation_norm=True, execution_norm=True, update_norm=True, composition_norm=True)
    models = pair(config)
    for model in models:
        for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
            if change == "eps":
                norm.eps = 0.1
            else:
                norm.register_forward_hook(lambda module, args, output: 1.5 * output)
    args = inputs(config)
    assert_same(step(models[1], args, True), step(models[0], args, True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_a_graph_break(train):
    for change in (adapter, forward_hook):
        _, fast = changed("full", change, "execution.C1")
        args = inputs(fast.config)
        fast.train(train)
        torch._dynamo.reset()
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.manual_seed(0)
        want = fast(*args)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(*args), want, rtol=1e-10, atol=1e-10)


def test_a_bias_less_layer_is_plain():
    """It is read past like any other."""
    layers.warn_once.cache_clear()
    for name, path in LAYERS:
        model = pair(IPRMConfig(**SMALL, **MODELS[name]))[1]
        model.get_submodule(path).bias = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(*inputs(model.config))
