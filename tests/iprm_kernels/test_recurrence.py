"""The op of all steps: its hand-written backward against autograd, what it keeps, what it skips, what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import iprm_kernels
from iprm import IPRMConfig, fast
from iprm.config import RATES
from iprm_kernels import Activations, Map, Rates, recurrence
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.backends import BACKENDS, cpu, eager
from iprm_kernels.steps import kept
from iprm_kernels.steps.run import Run
from iprm_kernels.steps.weights import Epsilons, Options, flattened

SEED = torch.tensor([0x1234_5678_9ABC])
SIZES = {"dim": 12, "num_ops": 3, "num_steps": 3}
ALL_RATES = {name: 0.1 + 0.02 * i for i, name in enumerate(RATES)}
NORMS = dict.fromkeys(("formation_norm", "execution_norm", "update_norm", "composition_norm"), True)
OPTIONS = {
    "defaults": {},
    "no window": {"window": 0},
    "long window": {"window": 5, "num_steps": 4},
    "one operation, one step": {"num_ops": 1, "num_steps": 1, "mask_self": False},
    "keys": {"key_projection": True},
    "per step": {"per_step_query": True, "reduction": 3},
    "results": {"query_from_results": "sum", "result_query_activation": "gelu"},
    "results joined": {"query_from_results": "concat", "formation_activation": "gelu"},
    "no update": {"update": False},
    "no composition": {"composition": False},
    "neither": {"update": False, "composition": False},
    "activations": {"formation_activation": "relu", "op_activation": "tanh", "result_activation": "gelu"},
    "norms": NORMS | {"key_projection": True},
    "simple": {"execution": "simple", "execution_activation": "gelu"},
    "simple, two layers": {"execution": "simple", "operation_mlp": True, "result_mlp": True} | NORMS,
    "simple, one of two layers": {"execution": "simple", "result_mlp": True, "execution_query": "concat"},
}


def config_of(name: str, dropped: bool) -> IPRMConfig:
    config = IPRMConfig(**SIZES | OPTIONS[name])
    return dataclasses.replace(config, **ALL_RATES) if dropped else config.without_dropout()


def call_of(config: IPRMConfig, dtype=torch.float64, B=2, L=4, N=5, masked=True):
    """Positional and keyword arguments of `recurrence` for such a module, all tensors with gradients."""
    model = fast.IPRM(config).to(dtype)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=config.dim**-0.5)  # sums of about 1 for every width: little is amplified
    K, D = config.num_ops, config.dim
    tensors = [torch.randn(*shape, dtype=dtype) for shape in ((B, K, D), (B, K, D), (B, L, D), (B, N, D))]
    masks = [torch.rand(B, n) > 0.3 for n in (L, N)] if masked else [None, None]
    φ = ("formation", "result_query", "execution", "op", "result")
    options = {
        "steps": config.num_steps,
        "window": config.window,
        "mask_self": config.mask_self,
        "activations": Activations(*(getattr(config, f"{name}_activation") for name in φ)),
        "rates": Rates(*(getattr(config, name) for name in RATES)),
        "language_mask": masks[0],
        "visual_mask": masks[1],
        "seed": SEED if config.drops else None,
    }
    return [*(t.requires_grad_() for t in tensors), model._weights()], options


def outputs_of(args, options, backend, memory="least"):
    O, E, attentions = recurrence(*args, **options, backend=backend, memory=memory)
    return [O, E, *attentions]


def leaves_of(args):
    *tensors, weights = args
    return [*tensors, *flattened(weights)[0]]


def by_autograd(args, options):
    """The definition's forward, with autograd through each of its operations."""
    *tensors, weights = args
    O, E, language, visual = tensors
    flat, maps = flattened(weights)
    o = options | {"activations": ",".join(options["activations"])}
    return eager.recurrence(
        O, E, language, o["language_mask"], visual, o["visual_mask"], flat, maps, o["seed"], o["steps"], o["window"],
        o["mask_self"], o["activations"], o["rates"], Epsilons(), 0, False,
    )[:5]  # fmt: skip


@pytest.fixture(params=["eager", "cpu"])
def backend(request):
    if reason := BACKENDS[request.param].unsupported(torch.device("cpu"), torch.float64):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def check_close(got, exact):
    """Each number, by the size of the largest beside it: where large terms cancel, little is left of their digits."""
    bound = 1e-10 * max([1.0, *exact.detach().abs().flatten().tolist()])
    torch.testing.assert_close(got, exact, rtol=0, atol=bound)


def check_against_autograd(args, options, backend, memory="least"):
    found, want = outputs_of(args, options, backend, memory), by_autograd(args, options)
    for got, exact in zip(found, want, strict=True):
        check_close(got, exact)
    weighting = [torch.randn_like(t) for t in want]
    leaves = leaves_of(args)
    grads = []
    for outputs in (found, want):
        pairs = [(y, dy) for y, dy in zip(outputs, weighting, strict=True) if y.requires_grad]
        grads.append(torch.autograd.grad([y for y, _ in pairs], leaves, [dy for _, dy in pairs], allow_unused=True))
    for x, got, exact in zip(leaves, *grads, strict=True):
        check_close(got, torch.zeros_like(x) if exact is None else exact)


@pytest.mark.numerical
@pytest.mark.parametrize("memory", ["least", "fast"])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_backward_equals_autograd(name, dropped, memory, backend):
    """Of the memory and of every attention, for every input and weight."""
    check_against_autograd(*call_of(config_of(name, dropped)), backend, memory)


@pytest.mark.numerical
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_from_kept_pairs(activation, backend):
    """Of several tiles of tokens, the last one lower, with keys whose width is no multiple of a panel's."""
    config = dataclasses.replace(config_of("defaults", dropped=True), execution_activation=activation, dim=74)
    check_against_autograd(*call_of(config, N=121), backend, "fast")


def many_rows(name: str, dropped: bool) -> IPRMConfig:
    """Of a width that is no multiple of a vector's, for products of 90 rows."""
    return dataclasses.replace(config_of(name, dropped), dim=42)


@pytest.mark.numerical
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_backward_of_many_rows(name, dropped, backend):
    """Which products are made from another form of the weights."""
    check_against_autograd(*call_of(many_rows(name, dropped), B=30), backend)


@pytest.mark.numerical
@pytest.mark.parametrize("dropped", [False, True])
def test_backward_of_large_weights(dropped, backend):
    """Which the library multiplies with on processors without AVX2."""
    config = dataclasses.replace(config_of("defaults", dropped), dim=192, num_steps=2)
    check_against_autograd(*call_of(config, B=24), backend)


@pytest.mark.parametrize("name", ["defaults", "no window", "simple, two layers"])
def test_gradients_of_an_empty_batch(name, backend):
    """Are zero, and empty."""
    args, options = call_of(config_of(name, dropped=True), B=0)
    leaves = leaves_of(args)
    outputs = outputs_of(args, options, backend)
    grads = torch.autograd.grad([y.sum() for y in outputs], leaves, allow_unused=True)
    assert any(d is not None for d in grads)
    for x, d in zip(leaves, grads, strict=True):
        assert d is None or (d.shape == x.shape and not d.any())


@pytest.mark.parametrize("room", [0, 10**6, 2 * 10**6, 10**8, kept.AUTO])
@pytest.mark.parametrize("dropped", [False, True])
def test_room_is_kept_to(room, dropped):
    """What is kept beyond the rows takes no more bytes, and as many of them as fit: first the keys, then the pairs."""
    config = dataclasses.replace(config_of("defaults", dropped), dim=64)
    sizes = kept.Sizes(B=4, K=3, N=100, D=64, R=32, itemsize=4, pair_unit=32)
    maps = flattened(fast.IPRM(config)._weights())[1]
    rates = Rates(*(getattr(config, name) for name in RATES))
    o = Options(3, 2, True, Activations(), rates, Epsilons(), room)
    rows = kept.rows(maps, o, sizes)
    larger = {name: shape for name, shape in kept.shapes(maps, o, sizes).items() if name not in rows}
    room = 4 * kept.numel(rows) if room == kept.AUTO else room
    keys, pairs = 2 * 3 * 4 * 100 * 32 * 4, 2 * 3 * 4 * 3 * 100 * 32 * 4
    keys_fit = not dropped or keys <= room
    pairs_fit = pairs + (keys if dropped else 0) <= room
    assert list(larger) == ["v", "u"] * keys_fit + ["C1φ", "h"] * pairs_fit


@pytest.mark.parametrize("dropped", [False, True])
def test_same_bits_whatever_is_kept(dropped):
    """What is kept is what would be made again."""
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")
    if cpu.extension().pairs_capability() == "amx":
        pytest.skip("forward, the matrix unit makes the products that are made again by others")
    args, options = call_of(config_of("defaults", dropped), torch.float32, B=3, N=150)
    found = []
    for memory in ("least", "fast"):
        outputs = [y for y in outputs_of(args, options, "cpu", memory) if y.requires_grad]
        found.append(torch.autograd.grad([y.sum() for y in outputs], leaves_of(args), allow_unused=True))
    assert all(a is b or torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("memory", ["most", -1, 1.5, True, None])
def test_bad_memory_is_named(memory):
    args, options = call_of(config_of("defaults", False))
    with pytest.raises(ValueError, match=r"^memory: expected "):
        outputs_of(args, options, "eager", memory)
    with pytest.raises(ValueError, match=r"^memory: expected "):
        fast.IPRM(IPRMConfig(**SIZES), memory=memory)


@pytest.mark.parametrize("memory", ["least", "fast"])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_same_bits_for_any_number_of_threads(name, dropped, memory, threads):
    """Of what the op returns and of every gradient, save those of layer norms: the library sums them by threads."""
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")
    if cpu.extension().cpu_capability() == "default":
        pytest.skip("dense products are the library's")
    args, options = call_of(many_rows(name, dropped), torch.float32, B=30, N=50)
    leaves = leaves_of(args)
    norms = {id(t) for field, m in args[-1]._asdict().items() if "norm" in field and m is not None for t in m}
    kept_leaves = [t for t in leaves if id(t) not in norms]
    found = []
    for count in (1, 2, 3):
        threads(count)
        outputs = [y for y in outputs_of(args, options, "cpu", memory) if y.requires_grad]
        grads = torch.autograd.grad(outputs, kept_leaves, [y.detach() for y in outputs], allow_unused=True)
        found.append([*outputs, *(d for d in grads if d is not None)])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("memory", ["least", "fast"])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_keeps_what_is_written_down(name, dropped, memory, backend):
    """By name, number and size; and nothing of (B, K, N, ·) unless it is asked for."""
    config = config_of(name, dropped)
    (O, E, language, visual, weights), options = call_of(config)
    flat, maps = flattened(weights)
    room = kept.MEMORY[memory]
    o = Options(
        options["steps"],
        options["window"],
        options["mask_self"],
        options["activations"],
        options["rates"],
        Epsilons(),
        room,
    )
    *_, tensors = torch.ops.iprm.recurrence(
        O, E, language, None, visual, None, flat, maps, SEED, *o[:3], ",".join(o.activations), list(o.rates),
        list(o.epsilons), room, True, backend,
    )  # fmt: skip
    pairs = BACKENDS[backend].pair_unit(weights.reduced, torch.float64)
    shapes = kept.shapes(maps, o, kept.Sizes(*O.shape[:2], *visual.shape[1:], weights.reduced, 8, pairs))
    assert [t.shape for t in tensors] == list(shapes.values())
    assert ("h" in shapes) == (memory == "fast" and pairs > 0 and config.execution == "full")
    assert all(t.data_ptr() != u.data_ptr() for i, t in enumerate(tensors) for u in tensors[:i])


@pytest.mark.parametrize("name", ["neither", "no update", "no composition"])
def test_returns_no_input(name, backend):
    """Not even where O stays what it was: a caller who writes to the result does not write to the input."""
    (O, E, *rest), options = call_of(config_of(name, False), torch.float32)
    with torch.no_grad():
        outputs = recurrence(O, E, *rest, **options, backend=backend)
    assert {t.data_ptr() for t in outputs[:2]}.isdisjoint({O.data_ptr(), E.data_ptr()})


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", ["defaults", "simple, one of two layers", "norms"])
def test_opcheck(name, dropped, backend):
    (O, E, language, visual, weights), options = call_of(config_of(name, dropped))
    flat, maps = flattened(weights)
    for keep in (True, False):
        args = (O, E, language, options["language_mask"], visual, options["visual_mask"], flat, maps, options["seed"])
        if not keep:
            args = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, args)
        values = (options["steps"], options["window"], True, ",".join(options["activations"]), list(options["rates"]))
        torch.library.opcheck(torch.ops.iprm.recurrence, (*args, *values, [1e-5] * 6, 2**20, keep, backend))


@pytest.mark.parametrize("execution", ["full", "simple"])
def test_frozen_weights_get_no_gradient_and_no_product(execution, backend, monkeypatch):
    """Each alone in turn is trained; the others' rows are not multiplied."""
    multiplied = []
    for name in ("products", "add_product"):
        made = getattr(Run, name)

        def recorded(run, of, *args, made=made):
            multiplied.append(of)
            return made(run, of, *args)

        monkeypatch.setattr(Run, name, recorded)
    config = config_of("defaults" if execution == "full" else "simple", True)
    args, options = call_of(config)
    outputs_of(args, options, backend)[1].sum().backward()
    want = [t.grad for t in leaves_of(args)]
    for i, leaf in enumerate(leaves_of(args)):
        for other in leaves_of(args):
            other.requires_grad_(other is leaf).grad = None
        multiplied.clear()
        outputs_of(args, options, backend)[1].sum().backward()
        assert len(set(multiplied)) <= (1 if i >= 4 else 0)  # none for the memory and the tokens
        for j, other in enumerate(leaves_of(args)):
            assert (other.grad is None) == (i != j)
        check_close(leaf.grad, want[i])


def test_checks_its_arguments():
    (O, E, language, visual, weights), options = call_of(config_of("defaults", False))

    def refused(match, *args, **changes):
        with pytest.raises(ValueError, match=match):
            recurrence(*(args or (O, E, language, visual, weights)), **options | changes)

    def changed(**maps):
        return O, E, language, visual, weights._replace(**maps)

    refused(r"E: expected \(2, 3, 12\) float64 on cpu, got \(2, 2, 12\)", O, E[:, :2], language, visual, weights)
    refused("visual: expected at least one token", O, E, language, visual[:, :0], weights)
    refused(r"language_mask: expected \(2, 4\) bool", language_mask=torch.ones(2, 5, dtype=torch.bool))
    wrong = Map(weights.C1.weight[:, 1:], weights.C1.bias)
    refused(r"weights\.C1\.weight: expected \(6, 12\) float64", *changed(C1=wrong))
    refused(r"weights\.So\.bias: expected \(12,\) float64", *changed(So=weights.So._replace(bias=weights.C2.bias)))
    refused("weights.F2: expected one map, or one for each of 3 steps, got 2", *changed(F2=weights.F2 * 2))
    refused("rates.visual: expected a rate in", rates=Rates(visual=1.0))
    refused(r"seed: expected \(1,\) int64 on cpu because rates.product", rates=Rates(product=0.1))
    refused("activations.op: expected one of", activations=Activations(op="softplus"))
    refused("steps: expected an integer", steps=-1)
    refused("backend: expected one of", backend="gpu")
    assert iprm_kernels.recurrence is recurrence
