"""The CUDA-graph switch of the fast module: forwards without gradients. Steps are in test_graph_steps.py."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fake_graphs import CONFIG, SIDE, FakeGraph, capture, check, models
from pairs import inputs

from iprm import fast


def test_captures_once_and_replays(device):
    plain, switched = models()
    results = [check(plain, switched, inputs(CONFIG, masked=True)) for _ in range(4)]
    assert (FakeGraph.captures, FakeGraph.replays) == (1, 4)
    assert not torch.equal(results[0], results[1])  # and none is written over by a later call


def test_a_new_kind_of_call_is_captured_anew(device):
    plain, switched = models()
    kinds = [inputs(CONFIG), inputs(CONFIG, masked=True), inputs(CONFIG, B=1), inputs(CONFIG, L=6), inputs(CONFIG, N=8)]
    for _ in range(2):
        for args in kinds:
            check(plain, switched, args)
    assert FakeGraph.captures == len(kinds)
    _, attention = check(plain, switched, kinds[1], return_attention=True)
    assert FakeGraph.captures == len(kinds) + 1
    assert attention.visual.shape == (2, 3, 3, 7)
    assert FakeGraph.replays == 2 * len(kinds) + 1


@pytest.fixture
def precision():
    """Of float32 products, restored afterwards: by the older switches, which set the newer ones, and then by those."""
    matmul = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    older, newer = torch.get_float32_matmul_precision(), [getattr(m, "fp32_precision", None) for m in matmul]
    yield
    torch.set_float32_matmul_precision(older)
    for switch, before in zip(matmul, newer, strict=True):
        if before is not None:
            switch.fp32_precision = before


def test_another_precision_is_a_new_kind(device, precision):
    plain, switched = models()
    args = inputs(CONFIG)
    for name in ("highest", "high", "highest"):
        torch.set_float32_matmul_precision(name)
        check(plain, switched, args)
    assert FakeGraph.captures == 2


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has no such switch")
def test_the_newer_switch_of_precision(device, precision):
    """Once it is set, reading the older one raises."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    plain, switched = models()
    check(plain, switched, inputs(CONFIG))
    assert FakeGraph.captures == 1


def test_strides_are_no_new_kind(device):
    plain, switched = models()
    X, s, V, *masks = inputs(CONFIG)
    check(plain, switched, (X, s, V, *masks))
    check(plain, switched, (X.flip(1).mT.contiguous().mT, s, V, *masks))
    assert FakeGraph.captures == 1


def test_the_number_of_graphs_is_bounded(device):
    plain, switched = models()
    switched.graphs.limit = 2
    for n in (5, 6, 7, 5, 7):
        check(plain, switched, inputs(CONFIG, N=n))
    assert len(switched.graphs) == 2
    assert FakeGraph.captures == 4  # 5 was put out by 7


def test_new_values_of_weights_are_seen(device):
    plain, switched = models()
    args = inputs(CONFIG)
    before = check(plain, switched, args)
    with torch.no_grad():
        for model in (plain, switched):
            model.execution.Wv.weight.mul_(3.0)
    assert not torch.allclose(check(plain, switched, args), before)
    assert FakeGraph.captures == 1


@pytest.mark.parametrize("how", ["data", "parameter", "assign", "dtype"])
def test_weights_elsewhere_are_captured_anew(how, device):
    plain, switched = models()
    args = inputs(CONFIG)
    check(plain, switched, args)
    other, _ = models()
    if how == "data":
        for model in (plain, switched):
            model.execution.Wv.weight.data = torch.ones_like(model.execution.Wv.weight)
    elif how == "parameter":
        for model in (plain, switched):
            model.execution.Wv.weight = torch.nn.Parameter(torch.ones_like(model.execution.Wv.weight))
    elif how == "assign":
        plain.load_state_dict(other.state_dict())
        switched.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)
    else:
        plain.float(), switched.float()
        args = [a if a is None else a.float() for a in args]
    check(plain, switched, args)
    assert (FakeGraph.captures, len(switched.graphs)) == (2, 1)


def test_dropout_without_gradients(device):
    plain, switched = models()
    args = inputs(CONFIG)
    plain.train(), switched.train()
    results = []
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        with torch.no_grad():
            want = plain(*args)
        torch.manual_seed(seed)
        with torch.no_grad():
            results.append(switched(*args))
        torch.testing.assert_close(results[-1], want)
    assert (FakeGraph.captures, FakeGraph.replays) == (1, 3)
    assert torch.equal(results[0], results[2])
    assert not torch.allclose(results[0], results[1])


def test_inference_mode_and_no_grad_share_graphs(device):
    plain, switched = models()
    args = inputs(CONFIG)
    with torch.inference_mode():
        first = switched(*args)
    torch.testing.assert_close(check(plain, switched, args), first)
    with torch.inference_mode():
        torch.testing.assert_close(switched(*[a if a is None else a.clone() for a in args]), first)
    assert FakeGraph.captures == 1


def test_autocast_is_another_kind_and_its_cache_is_not_captured(device):
    plain, switched = models(dtype=torch.float32)
    args = [a if a is None else a.float() for a in inputs(CONFIG)]
    check(plain, switched, args)
    for factor in (1.0, 3.0):
        with torch.no_grad():
            for model in (plain, switched):
                model.execution.Wv.weight.mul_(factor)
        with torch.autocast("cpu", torch.bfloat16):
            check(plain, switched, args)
    assert FakeGraph.captures == 2


def test_wrong_inputs_are_refused_as_usual(device):
    plain, switched = models()
    X, s, V, *masks = inputs(CONFIG)
    for bad in ((X[:, :, :3], s, V, *masks), (X, None, V, *masks), (X, s, V.float(), *masks)):
        with torch.no_grad(), pytest.raises(ValueError, match="expected") as want:
            plain(*bad)
        with torch.no_grad(), pytest.raises(ValueError, match="expected") as got:
            switched(*bad)
        assert str(got.value) == str(want.value)
    assert len(switched.graphs) == 0
    check(plain, switched, (X, s, V, *masks))


def test_copies_and_pickles(device):
    plain, switched = models()
    args = inputs(CONFIG)
    check(plain, switched, args)
    for other in (copy.deepcopy(switched), pickle.loads(pickle.dumps(switched))):
        assert len(other.graphs) == 0
        check(plain, other, args)
    assert FakeGraph.captures == 3
    assert list(switched.state_dict()) == list(plain.state_dict())


def test_inside_a_capture_runs_as_usual(device, monkeypatch):
    plain, switched = models()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    check(plain, switched, inputs(CONFIG))
    assert FakeGraph.captures == 0


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_as_usual(grad, device):
    plain, switched = models()
    args = inputs(CONFIG)
    torch._dynamo.reset()
    compiled = torch.compile(switched, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(*args), plain(*args))
    assert FakeGraph.captures == 0


def test_a_cpu_has_nothing_to_capture():
    plain, switched = models()
    check(plain, switched, inputs(CONFIG))
    assert len(switched.graphs) == 0


def test_off_by_default():
    assert fast.IPRM(CONFIG).graphs is None


def test_hooks_run_as_usual(device):
    """A graph would pass them by."""
    plain, switched = models()
    seen = []
    switched.execution.Wv.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        check(plain, switched, inputs(CONFIG))
    assert FakeGraph.captures == 0
    assert len(seen) == 2 * CONFIG.num_steps


def test_the_fakes_refuse_what_waits_for_the_device(device):
    SIDE.wait_stream(None)
    with pytest.raises(AssertionError, match="waits for the device"), capture(FakeGraph(), None, ""):
        torch.ones(1).item()
