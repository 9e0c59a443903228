"""The reference: its equations on a case worked by hand, its shapes, masks and initial values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iprm import IPRMConfig, fast
from iprm.reference import IPRM


def tiny(**changes):
    return IPRM(IPRMConfig(**{"dim": 8, "num_ops": 3, "num_steps": 4, **changes})).double()


def inputs(B=2, L=5, N=7, D=8):
    return [torch.randn(*shape, dtype=torch.float64) for shape in ((B, L, D), (B, D), (B, N, D))]


def elu(x):
    return x if x > 0 else math.exp(x) - 1


def test_one_step_by_hand():
    """D = R = K = T = 1, W = 1, two tokens each: every equation of the step in plain numbers."""
    model = tiny(dim=1, num_ops=1, num_steps=1, window=1, reduction=1, readout="first").eval()
    n = {name: 0.1 * (i + 1) for i, (name, _) in enumerate(model.named_parameters())}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(n[name])
        model.execution.C1.weight.copy_(torch.tensor([[0.3, -0.4]], dtype=torch.float64))
    O, E, X, V = n["memory.O"], n["memory.E"], [0.5, -1.5], [1.0, 2.0]

    def lin(name, x):
        return n[f"{name}.weight"] * x + n[f"{name}.bias"]

    def softmax(s):
        e = [math.exp(x) for x in s]
        return [x / sum(e) for x in e]

    q = lin("formation.F2", math.tanh(lin("formation.F1", O)))
    a = softmax([lin("formation.f", q * x) for x in X])
    z = sum(w * x for w, x in zip(a, X, strict=True))

    v = [lin("execution.Wk", x) for x in V]
    g = lin("execution.We", E) + lin("execution.Wz", z)
    h = [lin("execution.C2", elu(0.3 * g * x - 0.4 * x + n["execution.C1.bias"])) for x in v]
    b = softmax([lin("execution.w", elu(x * lin("execution.Wq", z))) for x in h])
    r = sum(w * lin("execution.Wv", x) for w, x in zip(b, V, strict=True))

    Uo, Ur = n["composition.Uo.weight"], n["composition.Ur.weight"]
    o = Uo * z + Uo * O + n["composition.Uo.bias"]
    e = Ur * E + Ur * r + n["composition.Ur.bias"]
    # two columns, the current one (masked: it is its own) and the initial memory, which gets all the weight
    new_E = lin("composition.Vr", E) + lin("composition.Sr", e)
    new_O = lin("composition.Vo", O) + lin("composition.So", o)

    language, visual = torch.tensor([[[x] for x in X]]).double(), torch.tensor([[[x] for x in V]]).double()
    result, attention = model(language, torch.ones(1, 1).double(), visual, return_attention=True)
    assert result.item() == pytest.approx(new_E, rel=1e-12)
    assert attention.language.flatten().tolist() == pytest.approx(a)
    assert attention.visual.flatten().tolist() == pytest.approx(b)
    assert attention.operations.flatten().tolist() == [0.0, 1.0]
    assert math.isfinite(new_O)


@pytest.mark.parametrize("window", [0, 1, 2, 9])
def test_attention_shapes_and_sums(window):
    model, (X, s, V) = tiny(window=window).eval(), inputs()
    result, attention = model(X, s, V, return_attention=True)
    T, B, K, W = 4, 2, 3, window
    assert result.shape == (B, 8)
    assert attention.language.shape == (T, B, K, 5)
    assert attention.visual.shape == (T, B, K, 7)
    assert attention.operations.shape == (T, B, K, K * (1 + W))
    assert attention.readout.shape == (B, K)
    for a in attention:
        torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
    for step in range(T):
        columns = K * (1 + min(W, step + 1))
        assert not attention.operations[step, ..., columns:].any()
        assert not attention.operations[step, :, range(K), range(K)].any()  # self is masked


def test_masked_tokens_have_no_influence():
    model, (X, s, V) = tiny().eval(), inputs()
    language_mask, visual_mask = torch.rand(2, 5) > 0.4, torch.rand(2, 7) > 0.4
    language_mask[:, 0] = visual_mask[:, 0] = True
    want = model(X, s, V, language_mask, visual_mask)
    X, V = X.clone(), V.clone()
    X[~language_mask], V[~visual_mask] = 7.0, -9.0
    torch.testing.assert_close(model(X, s, V, language_mask, visual_mask), want)


def test_fully_masked_rows_are_uniform():
    model, (X, s, V) = tiny().eval(), inputs()
    _, attention = model(X, s, V, torch.zeros(2, 5).bool(), torch.zeros(2, 7).bool(), return_attention=True)
    torch.testing.assert_close(attention.language, torch.full_like(attention.language, 1 / 5))
    torch.testing.assert_close(attention.visual, torch.full_like(attention.visual, 1 / 7))


def test_one_operation_without_window_attends_to_itself():
    _, attention = tiny(num_ops=1, window=0).eval()(*inputs(), return_attention=True)
    assert torch.equal(attention.operations, torch.ones_like(attention.operations))


def test_visual_initial_memory_is_the_plain_mean():
    model, (_, s, V) = tiny(result_init="visual").eval(), inputs()
    _, E = model.memory(s, V)
    for k, layer in enumerate(model.memory.result_maps):
        torch.testing.assert_close(E[:, k], layer(V.mean(1)))


def test_initial_values():
    model = IPRM(IPRMConfig(dim=256, num_ops=64))
    for name, p in model.named_parameters():
        if name.startswith("memory."):
            assert abs(p.mean().item()) < 0.05
            assert abs(p.std().item() - 1) < 0.05
        elif name.endswith("bias"):
            assert not p.any()
        elif p.dim() == 2:
            assert p.abs().max() <= math.sqrt(6 / sum(p.shape)) + 1e-6


def test_dropout_only_in_training():
    model, args = tiny(), inputs()
    assert not torch.equal(model(*args), model(*args))
    model.eval()
    assert torch.equal(model(*args), model(*args))


BAD = [
    (
        0,
        torch.randn(2, 5, 9).double(),
        r"language: expected \(B, L, 8\) float64 on cpu, got \(2, 5, 9\) float64 on cpu",
    ),
    (0, torch.randn(3, 5, 8).double(), r"language: expected \(2, L, 8\) float64|language: expected \(2, 5, 8\)"),
    (0, torch.randn(2, 0, 8).double(), r"language: expected at least one token, got \(2, 0, 8\)"),
    (1, torch.randn(2, 1, 8).double(), r"summary: expected \(B, 8\) float64"),
    (2, torch.randn(2, 7, 8), r"visual: expected \(B, N, 8\) float64 on cpu, got \(2, 7, 8\) float32 on cpu"),
    (2, torch.ones(2, 7, 8).long(), r"visual: expected a tensor of one of float32"),
    (2, torch.randn(2, 0, 8).double(), r"visual: expected at least one token"),
    (3, torch.ones(2, 4).bool(), r"language_mask: expected \(2, 5\) bool on cpu, got \(2, 4\) bool on cpu"),
    (4, torch.ones(2, 7).long(), r"visual_mask: expected \(2, 7\) bool on cpu, got \(2, 7\) int64 on cpu"),
    (4, torch.full((2, 7), float("nan")), r"visual_mask: expected \(2, 7\) bool on cpu, got \(2, 7\) float32 on cpu"),
]


@pytest.mark.parametrize(("position", "value", "message"), BAD)
def test_bad_input(position, value, message):
    args = [*inputs(), None, None]
    args[position] = value
    with pytest.raises(ValueError, match=message):
        tiny()(*args)


@pytest.mark.parametrize("module", [IPRM, fast.IPRM])
@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_no_dense_tensor_is_named(module, autocast):
    """By either module, for every argument, without and within autocast."""
    model, args = module(IPRMConfig(dim=8, num_ops=3, num_steps=2)), [a.float() for a in inputs()]
    args += [torch.ones(2, 5).bool(), torch.ones(2, 7).bool()]
    bad = {
        "ndarray": np.zeros((2, 3), np.float32),
        "list": [0.0] * 100_000,
        "sparse_coo": torch.eye(3).to_sparse(),
        "nested": torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged),
        "complex64": torch.ones(2, dtype=torch.complex64),
    }
    for position, name in enumerate(("language", "summary", "visual", "language_mask", "visual_mask")):
        for what, value in (bad | ({"None": None} if position < 3 else {})).items():
            changed = [value if i == position else a for i, a in enumerate(args)]
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=autocast),
                pytest.raises(ValueError, match=rf"^{name}: expected .* got .*{what}") as error,
            ):
                model(*changed)
            assert len(str(error.value)) < 250


@pytest.mark.parametrize("module", [IPRM, fast.IPRM])
def test_on_the_meta_device(module):
    """Shapes without numbers."""
    for options in ({}, {"execution": "simple"}, {"key_projection": True}):
        with torch.device("meta"):
            model = module(IPRMConfig(dim=8, num_ops=3, num_steps=2, **options))
        args = [a.float().to("meta") for a in inputs()]
        for train in (False, True):
            result, attention = model.train(train)(*args, return_attention=True)
            assert (result.device.type, result.shape) == ("meta", (2, 8))
            assert attention.visual.shape == (2, 2, 3, 7)
            result.sum().backward()


@pytest.mark.parametrize("module", [IPRM, fast.IPRM])
def test_masked_tokens_must_be_finite(module):
    """The contract of the masks: what is masked has the weight 0, and 0 times NaN is NaN."""
    model, (X, s, V) = module(IPRMConfig(dim=8, num_ops=3, num_steps=2)).double().eval(), inputs()
    mask = torch.ones(2, 7).bool()
    mask[:, 3] = False
    V[:, 3] = 1e30
    assert model(X, s, V, None, mask).isfinite().all()
    V[:, 3] = math.nan
    assert model(X, s, V, None, mask).isnan().all()


def test_config_of_the_wrong_type():
    with pytest.raises(TypeError, match="config: expected IPRMConfig, got dict"):
        IPRM({"dim": 8})
