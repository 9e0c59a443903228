"""The CUDA-graph switch of the fast module: training steps, and what forwards and steps have in common."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from fake_graphs import CONFIG, FakeGraph, Recorder, check, models
from pairs import assert_same, inputs, step
from replicas import replicas
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from iprm import IPRMConfig, graphs

NO_DROPOUT = {f.name: 0.0 for f in dataclasses.fields(IPRMConfig) if f.name.endswith("dropout")}
STEPS = {
    "defaults": {},
    "without dropout": NO_DROPOUT,
    "simple": {"execution": "simple", "operation_mlp": True, "execution_query": "concat"},
    "norms": {"formation_norm": True, "execution_norm": True, "update_norm": True, "composition_norm": True},
    "no composition": {"composition": False, "op_init": "language", "result_init": "visual", "readout": "mean"},
    "attention dropout": {"formation_attention_dropout": 0.2, "composition_attention_dropout": 0.2, "window": 0},
    "results in the query": {"query_from_results": "sum", "per_step_query": True, "key_projection": True},
}


def trained(config=CONFIG, **options):
    """`models`, in training."""
    plain, switched = models(config, **options)
    return plain.train(), switched.train()


def counts():
    return FakeGraph.captures, FakeGraph.replays


def wanting(args):
    """The same inputs as leaves that require gradients, where they may."""
    return [a.detach().clone().requires_grad_() if a is not None and a.is_floating_point() else a for a in args]


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def both(plain, switched, run, *, seed=5):
    """What `run` makes of each model, from the same seed; the same but for rounding."""
    results = []
    for model in (plain, switched):
        torch.manual_seed(seed)
        results.append(run(model))
    assert_close(results[1], results[0])
    return results[1]


def assert_close(got, want):
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
def test_steps_are_those_of_the_plain_module(options, masked, device):
    plain, switched = trained(dataclasses.replace(CONFIG, **options))
    for seed in (1, 2, 1):
        args = inputs(CONFIG, masked=masked)
        assert_same(step(switched, args, True, seed), step(plain, args, True, seed))
    assert counts() == (2, 6)


def test_each_step_draws_its_dropout(device):
    _, switched = trained()
    args = inputs(CONFIG)
    torch.manual_seed(1)
    first, second = switched(*args).detach(), switched(*args).detach()
    assert not torch.allclose(first, second)
    assert counts() == (2, 2)


def test_a_capture_leaves_the_generator_as_any_call_does(device):
    """So numbers drawn after it are those of a run without graphs."""
    plain, switched = trained()
    args = inputs(CONFIG)

    def run(model):
        model(*args).sum().backward()
        return torch.rand(3)

    both(plain, switched, run)
    both(plain, switched, run)
    assert FakeGraph.captures == 2


@pytest.mark.parametrize("set_to_none", [True, False, None], ids=["none", "zero", "accumulated"])
def test_gradients_are_not_written_over(set_to_none, device):
    """Autograd keeps the tensor that a backward returns as `.grad`; a later replay must not change it."""
    plain, switched = trained()
    batches = [inputs(CONFIG) for _ in range(3)]

    def run(model):
        seen, kept = [], []
        for args in batches:
            if set_to_none is not None:
                model.zero_grad(set_to_none=set_to_none)
            model(*args).square().sum().backward()
            kept.append(gradients_of(model))
            seen.append({name: g.clone() for name, g in kept[-1].items()})
        if set_to_none:
            assert_close(kept, seen)
        return seen

    both(plain, switched, run)
    assert counts() == (2, 6)


def test_inputs_gradients_are_not_written_over(device):
    plain, switched = trained()
    batches = [wanting(inputs(CONFIG)) for _ in range(2)]

    def run(model):
        found = [torch.autograd.grad(model(*args).square().sum(), args[:3]) for args in batches]
        return found

    both(plain, switched, run)
    assert counts() == (2, 4)


def test_two_forwards_before_one_backward(device):
    """The second finds the activations in use, and runs as usual."""
    plain, switched = trained()
    first, second = inputs(CONFIG), inputs(CONFIG)

    def run(model):
        model.zero_grad()
        (model(*first).square().sum() + 3 * model(*second).square().sum()).backward()
        return gradients_of(model)

    for _ in range(2):
        both(plain, switched, run)
    assert counts() == (2, 4)


def test_backwards_in_another_order(device):
    plain, switched = trained()
    first, second = inputs(CONFIG), inputs(CONFIG)

    def run(model):
        model.zero_grad()
        losses = [model(*args).square().sum() for args in (first, second)]
        for loss in losses:
            loss.backward()
        return gradients_of(model)

    for _ in range(2):
        both(plain, switched, run)
    assert counts() == (2, 4)


def test_a_forward_without_its_backward(device):
    """While its outputs live, its backward may come; then the next call takes its place."""
    plain, switched = trained()
    args = inputs(CONFIG)
    held = switched(*args)
    both(plain, switched, lambda model: model(*args).detach())
    assert counts() == (2, 1)
    del held
    both(plain, switched, lambda model: model(*args).detach())
    assert counts() == (2, 2)


def test_other_kinds_between_a_forward_and_its_backward(device):
    plain, switched = trained()
    args, longer = inputs(CONFIG), inputs(CONFIG, N=9)

    def run(model):
        model.zero_grad()
        loss = model(*args).square().sum()
        with torch.no_grad():
            seen = model.eval()(*args)
        other = model.train()(*longer).square().sum()
        loss.backward()
        other.backward()
        return seen, gradients_of(model)

    both(plain, switched, run)
    both(plain, switched, run)
    assert counts() == (5, 10)


@pytest.mark.parametrize("what", ["limit", "moved"])
def test_a_graph_discarded_before_its_backward(what, device):
    plain, switched = trained()
    switched.graphs.limit = 1
    args = inputs(CONFIG)

    def run(model):
        loss = model(*args).square().sum()
        if what == "limit":
            model(*inputs(CONFIG, N=9))
        else:
            for p in model.parameters():
                p.data = p.data.clone()
        loss.backward()
        return gradients_of(model)

    both(plain, switched, run)
    assert FakeGraph.replays == {"limit": 3, "moved": 1}[what]


def test_a_second_backward(device):
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model):
        loss = model(*args).square().sum()
        twice = [torch.autograd.grad(loss, [*args[:3], *model.parameters()], retain_graph=True) for _ in range(2)]
        assert_close(*twice)
        model(*args).sum().backward(), model.zero_grad()
        return twice, torch.autograd.grad(loss, args[0])

    both(plain, switched, run)
    assert counts() == (2, 4)


def test_a_second_backward_without_retain_graph(device):
    plain, switched = trained()
    for model in (plain, switched):
        out = model(*inputs(CONFIG)).sum()
        out.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            out.backward()


def test_a_backward_from_some_outputs_to_some_inputs(device):
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model):
        result, attention = model(*args, return_attention=True)
        some = torch.autograd.grad(
            attention.visual.square().sum(), [args[2], model.execution.w.weight], retain_graph=True
        )
        (rest,) = torch.autograd.grad(result.square().sum(), args[1])
        return some, rest

    both(plain, switched, run)
    assert counts() == (2, 2)


def test_outputs_that_get_no_gradient(device):
    """Nothing of an earlier step is left in their place."""
    plain, switched = trained()
    args = inputs(CONFIG)

    def run(model):
        found = []
        for seen in (True, False):
            model.zero_grad()
            result, attention = model(*args, return_attention=True)
            (result.square().sum() + (attention.visual.square().sum() if seen else 0.0)).backward()
            found.append(gradients_of(model))
        return found

    both(plain, switched, run)
    assert counts() == (2, 4)


def test_gradients_of_any_strides(device):
    plain, switched = trained(dataclasses.replace(CONFIG, **NO_DROPOUT))
    args = inputs(CONFIG)
    weight = torch.randn(CONFIG.dim, 3, dtype=torch.float64).T

    def run(model):
        model.zero_grad()
        model(*args).backward(weight)
        first = {name: g.clone() for name, g in gradients_of(model).items()}
        model.zero_grad()
        model(*args).sum().backward()  # an expanded one
        return first, gradients_of(model)

    both(plain, switched, run)
    assert counts() == (2, 4)


def test_second_derivatives(device):
    """With the dropout of the forward that was replayed, and its mode."""
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model):
        model.train().zero_grad()
        loss = model(*args).square().sum()
        model.eval()
        torch.rand(7)
        (d_visual,) = torch.autograd.grad(loss, args[2], create_graph=True)
        (loss + d_visual.square().sum()).backward()
        return d_visual, torch.rand(1), gradients_of(model), [a.grad for a in args[:3]]

    for _ in range(2):
        for a in args[:3]:
            a.grad = None
        results = []
        for model in (plain, switched):
            torch.manual_seed(5)
            results.append(run(model))
            for a in args[:3]:
                a.grad = None
        assert_close(*results)
    assert FakeGraph.captures == 2


def test_batched_gradients(device):
    """By another forward, within torch's mapping: there it draws nothing, and says so."""
    x, module, many = torch.randn(3, 5), torch.nn.Linear(5, 2), torch.randn(4, 3, 2)

    def found(forward):
        return torch.autograd.grad(forward(module, x), list(module.parameters()), many, is_grads_batched=True)

    def replayed(forward):
        return found(lambda module, x: graphs.Graphs()(forward, module, (x,), None))

    assert_close(replayed(lambda module, x: module(x).tanh()), found(lambda module, x: module(x).tanh()))
    assert counts() == (2, 1)
    with pytest.raises(RuntimeError, match="random operations inside of vmap"):
        replayed(lambda module, x: torch.dropout(module(x), 0.5, True))


def test_forward_mode_and_transforms_run_as_usual(device):
    plain, switched = trained(dataclasses.replace(CONFIG, **NO_DROPOUT))
    X, s, V, *_ = inputs(CONFIG)
    tangent = torch.randn_like(V)

    def run(model):
        weights = dict(model.named_parameters())

        def loss(weights, V):
            return torch.func.functional_call(model, weights, (X, s, V)).square().sum()

        found = torch.func.grad(loss)(weights, V), torch.func.jvp(lambda V: model(X, s, V), (V,), (tangent,))
        with torch.no_grad():
            return found, torch.func.vmap(lambda V: model(X, s, V))(torch.stack([V, tangent]))

    both(plain, switched, run)
    assert counts() == (0, 0)


def test_weights_of_a_functional_call_run_as_usual(device):
    plain, switched = trained()
    args = inputs(CONFIG)

    def run(model):
        scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        weights = {name: scale * p for name, p in model.named_parameters()}
        torch.func.functional_call(model, weights, tuple(args)).sum().backward()
        return scale.grad

    both(plain, switched, run)
    assert counts() == (0, 0)


def test_inputs_changed_in_place_before_the_backward(device):
    """Refused, as by the plain module."""
    plain, switched = trained()
    for model in (plain, switched):
        for change in ("weight", "input"):
            args = inputs(CONFIG)
            loss = model(*args).square().sum()
            with torch.no_grad():
                (model.execution.Wv.weight if change == "weight" else args[2]).mul_(2.0)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            del loss
    assert counts() == (2, 2)


def test_frozen_parameters_are_another_kind(device):
    plain, switched = trained()
    args = inputs(CONFIG)

    def run(model):
        model.zero_grad()
        model(*args).square().sum().backward()
        return gradients_of(model)

    for frozen in (False, True, False):
        for model in (plain, switched):
            model.execution.requires_grad_(not frozen)
        found = both(plain, switched, run)
        assert any(name.startswith("execution") for name in found) != frozen
    assert counts() == (4, 6)


def test_inputs_with_gradients_are_another_kind(device):
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model, wanted):
        for a, want in zip(args[:3], wanted, strict=True):
            a.grad = None
            a.requires_grad_(want)
        model.requires_grad_(False)
        out = model(*args)
        assert out.requires_grad == any(wanted)
        if any(wanted):
            out.square().sum().backward()
        return out.detach(), [a.grad for a in args[:3] if a.requires_grad]

    for wanted in ((True, True, True), (False, False, True), (True, False, False), (False, False, False)):
        both(plain, switched, lambda model, wanted=wanted: run(model, wanted))
    assert counts() == (3 * 2 + 1, 3 * 2 + 1)


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
def test_the_same_outputs_require_gradients(options, device):
    config = dataclasses.replace(CONFIG, **options)
    plain, switched = trained(config)
    args = inputs(config)
    for trainable in (("",), ("readout.p",), ("composition.", "execution.Wv"), ("formation.f",)):
        for model in (plain, switched):
            for name, p in model.named_parameters():
                p.requires_grad_(name.startswith(trainable))
        got, want = (
            [x.requires_grad for x in tree_leaves(m(*args, return_attention=True)) if x is not None]
            for m in (switched, plain)
        )
        assert got == want
    assert FakeGraph.replays == 4


def test_outputs_that_no_gradient_reaches(device):
    """There is no backward to capture."""
    x, module = torch.randn(3), torch.nn.Linear(2, 2)
    for _ in range(2):
        out = graphs.Graphs()(lambda module, x: (x.sin(), None), module, (x,), None)
        assert torch.equal(out[0], x.sin())
        assert (out[0].requires_grad, out[1]) == (False, None)
    assert counts() == (2, 2)


def test_hooks_of_parameters_and_inputs_run_once(device):
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model):
        seen, (X, s, V, *masks) = [], args
        V = 2 * V
        V.retain_grad()
        handles = [
            V.register_hook(lambda g: (seen.append("input"), 3 * g)[1]),
            model.execution.Wv.weight.register_hook(lambda g: (seen.append("parameter"), 5 * g)[1]),
            model.execution.Wv.weight.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated")),
        ]
        loss = model(X, s, V, *masks).square().sum()
        model.zero_grad()
        loss.backward(retain_graph=True)
        first = V.grad.clone(), {name: g.clone() for name, g in gradients_of(model).items()}
        loss.backward()
        for handle in handles:
            handle.remove()
        assert sorted(seen) == ["accumulated", "accumulated", "input", "input", "parameter", "parameter"]
        return first, V.grad, gradients_of(model)

    for _ in range(2):
        both(plain, switched, run)
    assert counts() == (2, 4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_around_the_module(reentrant, device):
    """What is checkpointed forwards again in the backward pass, as usual, with the same dropout."""
    plain, switched = trained()
    args = wanting(inputs(CONFIG))

    def run(model):
        model.zero_grad()
        for a in args[:3]:
            a.grad = None

        def block(X, s, V):
            return model(X, s, V.tanh()).square()

        checkpoint(block, *args[:3], use_reentrant=reentrant).sum().backward()
        return gradients_of(model), [a.grad for a in args[:3]]

    for _ in range(2):
        both(plain, switched, run)
    assert counts() == ((1, 2) if reentrant else (0, 0))


def test_hooks_of_saved_tensors_run_as_usual(device):
    plain, switched = trained()
    args = inputs(CONFIG)

    def run(model):
        packed = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (packed.append(1), x)[1], lambda x: x):
            loss = model(*args).sum()
        loss.backward()
        return torch.tensor(len(packed))

    assert both(plain, switched, run) > 0
    assert counts() == (0, 0)


def test_an_older_torch_captures_forwards_alone(device, monkeypatch):
    """It does not tell whether saved tensors are hooked."""
    plain, switched = trained()
    monkeypatch.setattr(graphs, "saved_tensor_hooks", None)
    args = inputs(CONFIG)
    assert_same(step(switched, args, True), step(plain, args, True))
    assert FakeGraph.captures == 0
    check(plain.eval(), switched.eval(), args)
    assert FakeGraph.captures == 1


def test_training_and_evaluation_take_turns(device):
    plain, switched = trained()
    for seed in range(3):
        args = inputs(CONFIG)
        assert_same(step(switched, args, True, seed), step(plain, args, True, seed))
        assert_same(step(switched, args, False, seed), step(plain, args, False, seed))
        check(plain.eval(), switched.eval(), args)
    assert counts() == (5, 15)


def test_an_optimiser_trains_the_same_module(device):
    plain, switched = trained()
    batches = [inputs(CONFIG) for _ in range(4)]

    def run(model):
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
        for args in batches:
            optimiser.zero_grad()
            model(*args).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        return list(model.parameters())

    both(plain, switched, run)
    assert counts() == (2, 8)


@pytest.mark.parametrize("where", ["forward", "both"])
def test_autocast_and_scaled_losses(where, device):
    """A capture neither reads the casts that autocast keeps, nor leaves any: it is compared without them."""
    plain, switched = trained(dtype=torch.float32)
    args = [a if a is None else a.float() for a in inputs(CONFIG)]

    def run(model):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=model is switched):
                if model is switched:
                    torch.nn.functional.linear(args[0], model.execution.Wv.weight)  # is kept
                loss = model(*args).square().sum()
                if where == "both":
                    scaler.scale(loss).backward()
            if where == "forward":
                scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
        return [p.detach().clone() for p in model.parameters()]

    both(plain, switched, run)
    assert counts() == (2, 6)


def test_a_backward_is_captured_outside_of_autocast(device):
    """As it is commonly run: what the forward computes in float32 is differentiated in float32."""
    x, module = torch.randn(8, 8), torch.nn.Linear(8, 8)

    def forward(module, x):
        with torch.autocast("cpu", enabled=False):
            return module(x)

    with torch.autocast("cpu", torch.bfloat16):
        out = graphs.Graphs()(forward, module, (x,), None)
    out.square().sum().backward()
    torch.testing.assert_close(module.weight.grad, (2 * module(x)).T.detach() @ x)
    assert counts() == (2, 2)


@pytest.mark.parametrize("grad", [False, True])
def test_an_empty_batch_runs_as_usual(grad, device):
    plain, switched = trained()
    args = inputs(CONFIG, B=0)
    with torch.set_grad_enabled(grad):
        assert switched(*args).shape == plain(*args).shape == (0, CONFIG.dim)
    assert counts() == (0, 0)


def test_another_backend_is_another_kind(device):
    plain, switched = trained()
    for backend in ("eager", "auto", "eager"):
        switched.backend = backend
        args = inputs(CONFIG)
        assert_same(step(switched, args, True), step(plain, args, True))
    assert FakeGraph.captures == 4


def test_weights_turned_in_place_are_captured_anew(device):
    """The same address and shape, read in another order."""
    plain, switched = trained()
    args = inputs(CONFIG)
    for _ in range(2):
        assert_same(step(switched, args, True), step(plain, args, True))
        for model in (plain, switched):
            model.execution.Wv.weight.data = model.execution.Wv.weight.data.T
    assert FakeGraph.captures == 4


class Scaled(torch.nn.Linear):
    """A layer with a state that no graph would see."""

    scale = 1.0

    def forward(self, x):
        return self.scale * super().forward(x)


@pytest.mark.parametrize("grad", [False, True])
def test_layers_of_another_class_run_as_usual(grad, device):
    plain, switched = models()
    args = inputs(CONFIG)
    for model in (plain, switched):
        model.execution.We.__class__ = Scaled
    results = []
    for scale in (1.0, 5.0):
        for model in (plain, switched):
            model.execution.We.scale = scale
        with torch.set_grad_enabled(grad):
            results.append(switched(*args))
            torch.testing.assert_close(results[-1], plain(*args))
    assert not torch.allclose(*results)
    assert counts() == (0, 0)


@pytest.mark.parametrize("grad", [False, True])
def test_replicas_run_as_usual(grad, device, monkeypatch):
    """They have tensors of their own in the place of parameters, in each call others."""
    plain, switched = models()
    args = inputs(CONFIG)
    for factors in ((1.0, 2.0), (3.0, 1.0)):
        for want, got in zip(
            replicas(plain, factors, monkeypatch), replicas(switched, factors, monkeypatch), strict=True
        ):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(got(*args), want(*args))
    assert counts() == (0, 0)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_looks_at_operators_sees_them(grad, device):
    plain, switched = models()
    args, other = inputs(CONFIG), inputs(CONFIG)
    with torch.set_grad_enabled(grad):
        switched(*args)
        before, seen = counts(), []
        for model in (plain, switched):
            with Recorder() as recorder:
                model(*args)
            seen.append([function for function, *_ in recorder.calls])
        assert seen[0] == seen[1]
        traced = torch.jit.trace(switched, tuple(args[:3]), check_trace=False)
        torch.testing.assert_close(traced(*other[:3]), plain(*other))
    assert counts() == before


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_distributed_data_parallel(device):
    """Its hooks of the parameters run: here they halve the gradients. The group is torch's own fake, which leaves no
    threads behind in a process that other tests fork."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    plain, switched = trained()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:

        def halve(state, bucket):
            done = torch.futures.Future()
            done.set_result(bucket.buffer() / 2)
            return done

        def run(model):
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
            wrapped.register_comm_hook(None, halve)
            for _ in range(2):
                model.zero_grad()
                wrapped(*args).square().sum().backward()
            return gradients_of(model)

        args = inputs(CONFIG)
        both(plain, switched, run)
        assert counts() == (2, 4)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("grad", [False, True])
def test_threads_take_turns(grad, device, monkeypatch):
    """One comes while another's graph is at work."""
    plain, switched = models()
    batches = [inputs(CONFIG) for _ in range(2)]
    with torch.set_grad_enabled(grad):
        want = [plain(*args).detach() for args in batches]
        switched(*batches[0])
    at_work, got, replay = threading.Event(), {}, FakeGraph.replay

    def call(i):
        if i == 1:
            at_work.wait()
        with torch.set_grad_enabled(grad):
            got[i] = switched(*batches[i]).detach()

    calls = [threading.Thread(target=call, args=(i,)) for i in range(2)]

    def slow(graph):
        if not at_work.is_set():
            at_work.set()
            calls[1].join(0.3)
        replay(graph)

    monkeypatch.setattr(FakeGraph, "replay", slow)
    for thread in reversed(calls):
        thread.start()
    for thread in calls:
        thread.join()
    for i in range(2):
        torch.testing.assert_close(got[i], want[i])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_on_a_device(backend):
    plain, switched = models(dtype=torch.float32)
    for model in (plain, switched):
        model.backend = backend
        model.cuda()
    for _ in range(3):
        args = [
            a if a is None else a.to("cuda", torch.float32 if a.is_floating_point() else None) for a in inputs(CONFIG)
        ]
        check(plain, switched, args)
    assert len(switched.graphs) == 1
    plain.train(), switched.train()
    for seed in range(3):  # in float32, and the masks from the device's generator
        args = [a if a is None else a.detach() for a in args]
        got, want = step(switched, args, True, seed), step(plain, args, True, seed)
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-4)
    assert len(switched.graphs) == 2
