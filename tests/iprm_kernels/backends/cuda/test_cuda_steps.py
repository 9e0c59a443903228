"""All steps in one launch, as the fast module takes them without gradients, against the reference in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_cores import DTYPES
from pairs import draws_of, inputs, outputs_of, pair
from planted import neighbour, one_entry

from iprm import IPRMConfig, fast
from iprm_kernels.backends import at_once
from iprm_kernels.testing import judge

pytestmark = pytest.mark.usefixtures("poisoned")

SIZES = {"dim": 24, "num_ops": 3, "num_steps": 3}
OPTIONS = [
    {},
    {"dim": 40, "reduction": 1},
    {"num_ops": 1, "window": 0, "num_steps": 1},
    {"num_ops": 1, "window": 0, "mask_self": False},
    {"window": 0},
    {"window": 1},
    {"window": 3, "num_steps": 5},
    {"window": 7, "num_steps": 2},
    {"num_ops": 9, "num_steps": 2},
    {"dim": 15, "reduction": 3, "mask_self": False},
    {"key_projection": True},
    {"per_step_query": True},
    {"key_projection": True, "per_step_query": True, "num_ops": 5, "window": 3, "dim": 18},
    {"op_init": "language", "result_init": "visual", "readout": "mean"},
    {"op_activation": "tanh", "result_activation": "gelu", "formation_activation": "relu"},
    {"execution_activation": "sigmoid", "formation_activation": "identity", "op_activation": "elu"},
    # Rows that are padded, where φ(0) is not 0.
    {"dim": 18, **dict.fromkeys((f"{of}_activation" for of in ("formation", "execution", "op", "result")), "sigmoid")},
]
NOT_SERVED = [
    {"execution": "simple"},
    {"query_from_results": "sum"},
    {"update": False},
    {"composition": False},
    {"formation_norm": True},
    {"execution_norm": True},
    {"update_norm": True},
    {"composition_norm": True},
]


def name_of(options):
    return ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"


def config_of(options):
    return IPRMConfig(**{**SIZES, **options})


def outputs(model, args, device="cpu"):
    """The result and the attention by name; on the CPU, in their own dtypes."""
    dtype = next(model.parameters()).dtype
    args = [a if a is None else a.to(device, dtype if a.is_floating_point() else a.dtype) for a in args]
    with torch.no_grad():
        result, attention = model.to(device).eval()(*args, return_attention=True)
    return {k: v.cpu() for k, v in {"result": result, **attention._asdict()}.items() if v is not None}


def forward(model, args, train, seed, device="cpu"):
    """`outputs`, of the dtypes that they must have."""
    found, dtype = outputs(model, args, device), next(model.parameters()).dtype
    acc = torch.promote_types(dtype, torch.float32)
    assert {name: t.dtype for name, t in found.items()} == {n: dtype if n == "result" else acc for n in found}
    return found


def verdict_on(config, dtype, device, answers, **sizes):
    """The verdict on all steps at once, which are held to the reference."""
    model = fast.IPRM(config, "cuda")

    def run(model, args, train, seed):
        answers.clear()
        found = forward(model, args, train, seed, device)
        assert answers == [None]
        return found

    draws = draws_of(config, dtype, train=False, run=forward, **sizes)
    return judge(draws, lambda values: outputs_of(model, values, False, run))


@pytest.fixture
def check(device, answers):
    """check(config, dtype, **sizes) holds all steps at once to the reference."""

    def check(config, dtype, **sizes):
        verdict = verdict_on(config, dtype, device, answers, **sizes)
        assert verdict.passed, str(verdict)

    return check


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_equals_the_reference(options, dtype, check):
    """With masks, one sample having no token at all."""
    check(config_of(options), dtype, masked=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 7), (1, 33, 70), (3, 2, 300), (16, 3, 5)], ids=str)
def test_sizes(sizes, dtype, check):
    B, L, N = sizes
    check(config_of({"num_steps": 2}), dtype, B=B, L=L, N=N)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_states(dtype, check):
    """Several chunks of the inner dimension, more than one group of operations and block of rows."""
    check(config_of({"dim": 520, "reduction": 8, "num_ops": 2, "num_steps": 1}), dtype, B=1, L=3, N=5)
    check(config_of({"dim": 64, "num_ops": 13, "num_steps": 2}), dtype, B=3, L=3, N=5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("processors", [1, 2, 64])
def test_every_tile_and_number_of_blocks(processors, dtype, check, monkeypatch):
    monkeypatch.setenv("IPRM_ON_HOST_PROCESSORS", str(processors))
    check(config_of({"num_steps": 2}), dtype, N=40)


def test_the_most_tokens_and_columns(check):
    config = config_of({"num_ops": 64, "window": 3, "num_steps": 4, "dim": 8})
    check(config, torch.float32, B=1, L=256, N=3)


TENSORS = ("O", "E", "language", "language_keys", "language_bias", "language_mask", "visual", "v", "u", "visual_mask")
ARGUMENTS = (*TENSORS, "weights", "steps", "window", "mask_self", "activations")
"""Of the launch, in order."""
PLANTED = {
    "a bias left out": (
        "weights",
        lambda weights: [torch.zeros_like(t) if i == 1 else t for i, t in enumerate(weights)],
    ),
    "a matrix 1 % off": ("weights", lambda weights: [1.01 * t if i == 2 else t for i, t in enumerate(weights)]),
    "an entry 1 % off": ("weights", lambda weights: [one_entry(t) if i == 4 else t for i, t in enumerate(weights)]),
    "a neighbouring activation": ("activations", lambda names: [names[0], neighbour(names[1]), *names[2:]]),
    "no self mask": ("mask_self", lambda on: not on),
    "a language mask shifted": ("language_mask", lambda mask: mask.roll(1, 1)),
    "a visual mask shifted": ("visual_mask", lambda mask: mask.roll(1, 1)),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_every_planted_mistake_is_caught(mistake, device, answers, monkeypatch):
    (name, change), make = PLANTED[mistake], at_once.arguments

    def wrong(*inputs):
        arguments = dict(zip(ARGUMENTS, make(*inputs), strict=True))
        return tuple((arguments | {name: change(arguments[name])}).values())

    monkeypatch.setattr(at_once, "arguments", wrong)
    assert not verdict_on(config_of({}), torch.float32, device, answers, masked=True).passed


def test_same_bits_under_every_schedule(answers, on_host, monkeypatch):
    config = config_of({"key_projection": True})
    for dtype in (torch.float32, torch.bfloat16):
        _, model = pair(config, dtype, "cuda")
        args, runs = inputs(config, masked=True), []
        for order, copies in (("forward", "eager"), ("reverse", "lazy"), ("random:1", "random"), ("random:2", "lazy")):
            monkeypatch.setenv("IPRM_ON_HOST_ORDER", order)
            monkeypatch.setenv("IPRM_ON_HOST_COPIES", copies)
            runs.append(outputs(model, args))
        for other in runs[1:]:
            assert all(torch.equal(runs[0][name], other[name]) for name in other)
    assert set(answers) == {None}


@pytest.mark.parametrize("T", [1, 5])
def test_is_one_launch_for_all_steps(T, launches):
    config = config_of({"num_steps": T})
    _, model = pair(config, torch.float32, "cuda")
    before = launches()
    outputs(model, inputs(config))
    assert launches() - before == 1


@pytest.mark.parametrize("options", NOT_SERVED, ids=name_of)
def test_other_options_go_step_by_step(options, device, answers):
    config = config_of(options)
    model = fast.IPRM(config, "cuda")
    draws = draws_of(config, torch.float32, train=False, run=forward)
    verdict = judge(draws, lambda values: outputs_of(model, values, False, partial(forward, device=device)))
    assert verdict.passed, str(verdict)
    assert answers
    assert all(answers)


def test_gradients_dropout_and_many_samples_go_step_by_step(device, monkeypatch):
    config = config_of({"num_steps": 1})
    _, model = pair(config, torch.float32, "cuda")
    model.to(device)

    def refuse(*_):
        raise AssertionError("took all steps at once")

    monkeypatch.setattr(at_once, "arguments", refuse)
    args = [a if a is None else a.float().to(device) for a in inputs(config)]
    model.eval()(*args).sum().backward()
    many = [a if a is None else a.float().to(device) for a in inputs(config, B=17)]
    none = [a if a is None else a[:0] for a in args]
    with torch.no_grad():
        model.eval()(*many)
        model(*none)
        model.train()(*args)
        with pytest.raises(AssertionError, match="all steps at once"):
            model.eval()(*args)


@pytest.mark.parametrize(
    ("options", "sizes", "said"),
    [
        ({}, {"B": 17}, "17 samples of at most 16"),
        ({}, {"L": 257}, "257 language tokens of at most 256"),
        ({"num_ops": 20}, {"B": 13}, "260 states (B·K) of at most 256"),
        ({"num_ops": 65, "window": 3}, {"B": 1}, "260 columns of the window of at most 256"),
        ({"dim": 1030, "reduction": 1, "num_ops": 1}, {"B": 1}, "1030 reduced columns (R) of at most 1024"),
    ],
    ids=str,
)
def test_says_why_not(options, sizes, said, device, answers):
    """And goes step by step, with the reference's numbers."""
    config = config_of({"num_steps": 1} | options)
    reference, model = pair(config, torch.float32, "cuda")
    args = inputs(config, **sizes)
    want = outputs(reference, args)
    for name, got in outputs(model, args, device).items():
        torch.testing.assert_close(got, want[name], rtol=1e-3, atol=1e-4)
    assert answers == [said]


def test_strided_inputs(device, answers):
    config = config_of({})
    _, model = pair(config, torch.float32, "cuda")
    X, summary, V, *_ = inputs(config)
    want = outputs(model, (X, summary, V), device)
    X_strided, V_strided = X.mT.contiguous().mT, V.transpose(0, 1).contiguous().transpose(0, 1)
    for name, got in outputs(model, (X_strided, summary, V_strided), device).items():
        torch.testing.assert_close(got, want[name])
    assert answers == [None, None]


def test_autocast(device, answers):
    config = config_of({"num_steps": 2})

    def run(model, args, train, seed):
        dtype = next(model.parameters()).dtype
        args = [a if a is None else a.to(device, dtype) for a in args]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):  # which leaves float64 alone
            result = model.to(device).eval()(*args)
        assert result.dtype == (dtype if dtype == torch.float64 else torch.bfloat16)
        return {"result": result}

    draws = draws_of(config, torch.bfloat16, train=False, run=run, stored=torch.float32)
    verdict = judge(draws, lambda values: outputs_of(fast.IPRM(config, "cuda"), values, False, run))
    assert verdict.passed, str(verdict)
    assert set(answers) == {None}


def test_compiles_without_a_graph_break(device, answers):
    config = config_of({"num_steps": 2})
    _, model = pair(config, torch.float32, "cuda")
    model.to(device).eval()
    args = [a if a is None else a.float().to(device) for a in inputs(config)]
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), model(*args))
    assert answers == [None, None]
