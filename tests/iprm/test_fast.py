"""The fast module equals the reference: every option, every gradient, every dropout, in every precision."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from pairs import check, inputs, pair, step
from seeds import SEED

from iprm import IPRMConfig, fast, reference
from iprm.config import CHOICES
from iprm_kernels.backends import BACKENDS

SMALL = {"dim": 12, "num_ops": 3, "num_steps": 4}
DROPOUTS = [f.name for f in dataclasses.fields(IPRMConfig) if f.name.endswith("dropout")]
EVERY_RATE = {name: 0.05 + 0.03 * i for i, name in enumerate(DROPOUTS)}

OPTIONS = [
    {},
    *({name: value} for name, values in CHOICES.items() if name != "execution_query" for value in values),
    *({"window": w} for w in (0, 1, 5)),
    *({"reduction": r} for r in (1, 3, 12)),
    {"num_ops": 1, "window": 0},
    {"num_ops": 1, "num_steps": 1},
    {"num_ops": 7, "num_steps": 2},
    {"mask_self": False},
    {"key_projection": True},
    {"update": False},
    {"composition": False},
    {"update": False, "composition": False},
    {"per_step_query": True, "query_from_results": "concat"},
    {"formation_norm": True, "execution_norm": True, "update_norm": True, "composition_norm": True},
    {"execution": "simple", "execution_query": "concat"},
    {"execution": "simple", "operation_mlp": True},
    {"execution": "simple", "result_mlp": True, "execution_query": "concat", "execution_activation": "tanh"},
]
DROPPED = [
    {},
    {"execution": "simple"},
    {"execution": "simple", "operation_mlp": True, "result_mlp": True},
    {"key_projection": True, "query_from_results": "sum"},
    {"composition_value_dropout": 0.0, "visual_dropout": 0.0},
    {"composition_product_dropout": 0.0, "key_projection": True},
]


def name_of(options):
    return ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"


@pytest.mark.numerical
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_equals_the_reference(options, backend):
    config = IPRMConfig(**{**SMALL, **options})
    check(config, backend=backend, masked=True)


@pytest.mark.numerical
@pytest.mark.parametrize("options", DROPPED, ids=name_of)
def test_equals_the_reference_under_every_dropout(options, backend):
    config = IPRMConfig(**{**SMALL, **EVERY_RATE, **options})
    check(config, train=True, backend=backend, masked=True)


@pytest.mark.numerical
@pytest.mark.parametrize("rate", DROPOUTS)
def test_each_dropout_alone(rate):
    config = dataclasses.replace(IPRMConfig(**SMALL).without_dropout(), **{rate: 0.4})
    check(config, train=True)
    model, _ = pair(config)
    args = inputs(config)
    dropped, whole = (step(model, args, train)["result"] for train in (True, False))
    assert (dropped - whole).norm() > 1e-3 * whole.norm()  # it does something


@st.composite
def configs(draw):
    chosen = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}
    for name in ("per_step_query", "operation_mlp", "result_mlp", "update", "composition", "mask_self",
                 "key_projection", "formation_norm", "execution_norm", "update_norm", "composition_norm"):  # fmt: skip
        chosen[name] = draw(st.booleans())
    if chosen["execution"] == "full":
        chosen |= {"execution_query": "sum", "operation_mlp": False, "result_mlp": False}
    reduction = draw(st.sampled_from([1, 2, 3]))
    sizes = {
        "dim": reduction * draw(st.integers(1, 13)),
        "reduction": reduction,
        "num_ops": draw(st.integers(1, 9)),
        "num_steps": draw(st.integers(1, 4)),
        "window": draw(st.integers(0, 4)),
    }
    return IPRMConfig(**chosen, **sizes, **{name: draw(st.sampled_from([0.0, 0.1, 0.5])) for name in DROPOUTS})


@pytest.mark.numerical
@seed(SEED)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    config=configs(), B=st.integers(1, 3), L=st.integers(1, 9), N=st.integers(1, 20), masked=st.booleans(),
    train=st.booleans(),
)  # fmt: skip
def test_equals_the_reference_for_drawn_options(config, B, L, N, masked, train):
    torch.manual_seed(SEED)
    check(config, train=train, B=B, L=L, N=N, masked=masked)


@pytest.mark.numerical
@pytest.mark.parametrize("execution", ["full", "simple"])
@pytest.mark.parametrize("train", [False, True])
def test_float32_error_is_what_rounding_must_make(train, execution, backend):
    config = IPRMConfig(dim=64, num_ops=6, num_steps=9, execution=execution)
    check(config, torch.float32, train=train, backend=backend, B=4, L=11, N=50)


@pytest.mark.numerical
@pytest.mark.parametrize("execution", ["full", "simple"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_error_is_what_rounding_must_make(dtype, execution, backend):
    config = IPRMConfig(dim=64, num_ops=6, num_steps=3, execution=execution, composition_norm=True)
    check(config, dtype, backend=backend, B=4, L=11, N=50)


def test_two_forwards_differ_and_a_rerun_does_not():
    config = IPRMConfig(**SMALL)
    _, model = pair(config)
    args = inputs(config)
    model.train()
    torch.manual_seed(7)
    first, second = model(*args), model(*args)
    torch.manual_seed(7)
    assert torch.equal(model(*args), first)
    assert not torch.equal(first, second)


def test_activation_checkpointing_redraws_the_same_masks():
    config = IPRMConfig(**SMALL)
    _, model = pair(config)
    args = [a for a in inputs(config) if a is not None]
    model.train()

    def gradients(call):
        model.zero_grad()
        torch.manual_seed(3)
        call().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients(lambda: model(*args))
    again = gradients(lambda: torch.utils.checkpoint.checkpoint(model, *args, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("train", [False, True])
def test_same_bits_on_every_run(train, count, backend, threads):
    """With one number of threads: the library's dense products may be others with another."""
    config = IPRMConfig(dim=64, num_ops=5, num_steps=3)
    _, model = pair(config, torch.float32, backend)
    args = inputs(config, B=3, L=11, N=150)
    threads(count)
    first, *others = (step(model, args, train) for _ in range(3))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_is_a_drop_in():
    config = IPRMConfig(**SMALL)
    first, second = reference.IPRM(config), fast.IPRM(config)
    assert isinstance(second, reference.IPRM)
    assert list(first.state_dict()) == list(second.state_dict())
    torch.manual_seed(0)
    a = reference.IPRM(config)
    torch.manual_seed(0)
    b = fast.IPRM(config)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_every_parameter_gets_a_gradient():
    """Gradient reducers and optimisers treat a missing gradient differently from a zero one."""
    for options in OPTIONS:
        config = IPRMConfig(**{**SMALL, **options})
        first, second = pair(config)
        have = []
        for model in (first, second):
            model(*inputs(config)).sum().backward()
            have.append({name for name, p in model.named_parameters() if p.grad is not None})
        assert have[0] == have[1], options


def test_copies_and_pickles():
    config = IPRMConfig(**SMALL)
    _, model = pair(config)
    args = inputs(config)
    want = model.eval()(*args)
    assert torch.equal(copy.deepcopy(model)(*args), want)
    assert torch.equal(pickle.loads(pickle.dumps(model))(*args), want)


@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_a_graph_break(train, backend):
    config = IPRMConfig(**{**SMALL, "num_steps": 2})
    _, model = pair(config, backend=backend)
    model.train(train)
    args = inputs(config, masked=True)

    def gradients(call):
        model.zero_grad()
        torch.manual_seed(11)
        result = call(*args)
        result.square().sum().backward()
        return [result, *(p.grad.clone() for p in model.parameters())]

    torch._dynamo.reset()
    want = gradients(model)
    got = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(got, want)


def test_exports():
    config = IPRMConfig(**SMALL)
    _, model = pair(config)
    args = tuple(inputs(config, masked=True))
    exported = torch.export.export(model.eval(), args)
    torch.testing.assert_close(exported.module()(*args), model(*args))


@pytest.mark.numerical
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside, train, backend):
    """Under autocast both modules agree to its precision, the backward pass inside or outside of it."""

    def run(model, args, train, seed):
        args = [a if a is None else a.detach().to(next(model.parameters()).dtype).requires_grad_() for a in args]
        model.train(train).zero_grad()
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 alone
            result = model(*args)
            if inside:
                result.sum().backward()
        if not inside:
            result.sum().backward()
        named = dict(model.named_parameters()) | {f"input {i}": a for i, a in enumerate(args) if a is not None}
        return {"result": result.detach()} | {f"d_{name}": t.grad for name, t in named.items()}

    config = IPRMConfig(dim=32, num_ops=3, num_steps=3)
    check(config, torch.bfloat16, train=train, backend=backend, run=run, stored=torch.float32)


@pytest.mark.numerical
@pytest.mark.parametrize(("B", "L", "N"), [(0, 5, 7), (1, 1, 1), (2, 1, 197)])
def test_edge_sizes(B, L, N, backend):
    config = IPRMConfig(**SMALL)
    check(config, train=False, backend=backend, B=B, L=L, N=N)
    check(config, train=True, backend=backend, B=B, L=L, N=N)


@pytest.mark.numerical
def test_strided_inputs():
    config = IPRMConfig(**SMALL)

    def run(model, args, train, seed):
        X, s, V, _, mask = args
        strided = [X.flip(1)[:, ::2], s[:1].expand(3, -1), V.mT.contiguous().mT, None, mask.T.contiguous().T]
        return step(model, strided, train, seed)

    check(config, run=run, masked=True)


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"backend: expected one of 'auto', .* got 'tpu'"):
        fast.IPRM(IPRMConfig(**SMALL), backend="tpu")


@pytest.mark.parametrize("dropped", [False, True])
def test_a_training_step_saves_no_pair_tensor(dropped):
    """What autograd keeps grows with K only by (B, K, D), (B, K, L) and (B, K, N) tensors."""
    B, N, L = 2, 256, 4

    def saved_by(num_ops):
        config = IPRMConfig(dim=16, num_ops=num_ops, num_steps=2)
        model = fast.IPRM(config if dropped else config.without_dropout())
        args = [torch.randn(B, L, 16), torch.randn(B, 16), torch.randn(B, N, 16)]
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(*args)
        return sizes

    R = 8
    assert max(saved_by(32)) < B * 32 * N * R
    per_operation = (sum(saved_by(32)) - sum(saved_by(16))) / 16
    assert per_operation < B * N * R


def test_a_training_step_calls_few_operators():
    """T = 9 with the default dropout, those that other operators call among them; the plain module calls 10,000."""
    config = IPRMConfig(dim=64, num_ops=3, num_steps=9)
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")
    model = fast.IPRM(config, "cpu").train()
    args = [a if a is None else a.float() for a in inputs(config)]
    model(*args).sum().backward()
    model.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(*args).sum().backward()
    called = sum(e.count for e in profile.key_averages() if e.key.startswith(("aten::", "iprm::")))
    assert called <= 2500
