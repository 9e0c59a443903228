"""What a call of the published class computes with, and what it leaves as it was.

The layers and parameters that are registered under the published names at the time of the call are what computes,
whoever put them there; and a call changes nothing in the module.
"""

import copy
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from published import CASES, CLOSE, D, by_case, inputs, load, options, reference_of
from replicas import replicas
from torch import nn
from torch.nn.utils import parametrize

from iprm.official import Recurrent_Memory_Attention_Module, bare_pairs, layer_pairs

by_mode = pytest.mark.parametrize("training", [False, True])
NO_WINDOW = "results from language, learned read-out, no window"
MODE_CASES = ["default", NO_WINDOW, "simple, two-layer projections, joined", "per-step query, joined with results"]
LAYER_CASES = [*MODE_CASES, "simple, summed", "norms and key projection", "memory from language and picture"]


class LoRA(nn.Module):
    """A linear layer with an update of low rank, that can be merged into it."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

    def merge(self):
        with torch.no_grad():
            self.base.weight += self.up.weight @ self.down.weight
        return self.base


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x):
        return self.factor * x


def hooked(layer):
    layer.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    layer.register_forward_hook(lambda layer, arguments, result: layer.scale * result)
    return layer


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Scaled(0.7))
    return layer


REPLACED = {
    "LoRA": LoRA,
    "sequential": lambda layer: nn.Sequential(layer, Scaled(0.7)),
    "hooked": hooked,
    "parametrized": parametrized,
}


def plant(root, path, layer):
    *way, leaf = path.split(".")
    setattr(root.get_submodule(".".join(way)), leaf, layer)


def small(case):
    """As `load`, with weights that keep the attentions soft."""
    module, state = load(case)
    state = {name: 0.5 * value for name, value in state.items()}
    module.load_state_dict(state)
    return module, state


def linear_layers(module):
    """Ours and the published name of every linear layer."""
    pairs = layer_pairs(module.config).items()
    return [(ours, theirs) for ours, theirs in pairs if isinstance(module.get_submodule(theirs), nn.Linear)]


def answers(module, args, trained):
    """Result and gradients of one call with seed 3."""
    torch.manual_seed(3)
    result = module(*args)
    grads = torch.autograd.grad((result * torch.arange(1.0, 1.0 + D)).sum(), trained, allow_unused=True)
    return [result, *grads]


def test_every_layer_has_a_case():
    def names(cases):
        return {name for case in cases for _, name in linear_layers(load(case)[0])}

    assert names(LAYER_CASES) == names(CASES)


@pytest.mark.parametrize("case", LAYER_CASES)
@by_mode
@pytest.mark.parametrize("kind", REPLACED)
def test_a_layer_in_the_place_of_another_computes(case, training, kind):
    theirs, ours_args = inputs()
    wrong = []
    for ours, name in linear_layers(load(case)[0]):
        module, state = small(case)
        plain = reference_of(module, state)
        torch.manual_seed(5)
        layer = REPLACED[kind](copy.deepcopy(module.get_submodule(name)))
        trained = [p for p in layer.parameters() if p.requires_grad and p.dim() != 1]
        plant(module, name, layer)
        plant(plain, ours, layer)
        want = answers(plain.train(training), ours_args, trained)
        try:
            got = answers(module.train(training), theirs, trained)
            torch.testing.assert_close(got, want, **CLOSE)
        except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
    assert not wrong, "\n".join(wrong)


def trained_and_merged(module, merge, theirs):
    """One step of training, then the results before and after merging."""
    module.train()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01)
    torch.manual_seed(3)
    module(*theirs).square().mean().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    optimiser.step()
    with torch.no_grad():
        served = module.eval()(*theirs)
        return served, merge(module)


@pytest.mark.parametrize("case", LAYER_CASES)
@pytest.mark.parametrize("library", [False, True])
def test_merging_an_adapter_does_not_move_the_result(case, library):
    module, state = small(case)
    theirs, args = inputs()
    before = reference_of(module, state).eval()(*args)
    names = [name for _, name in linear_layers(module)]
    torch.manual_seed(5)
    if library:
        peft = pytest.importorskip("peft", reason="needs peft")
        config = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False)
        module = peft.get_peft_model(module, config).double()
    else:
        module.requires_grad_(False)
        for name in names:
            plant(module, name, LoRA(module.get_submodule(name)))

    def merge(module):
        if library:
            return module.merge_and_unload()
        for name in names:
            plant(module, name, module.get_submodule(name).merge())
        return module

    served, module = trained_and_merged(module, merge, theirs)
    assert not torch.allclose(served, before, rtol=1e-3)
    torch.testing.assert_close(module(*theirs), served, rtol=1e-8, atol=1e-8)
    assert module.state_dict().keys() == state.keys()
    torch.testing.assert_close(reference_of(module, module.state_dict()).eval()(*args), served, rtol=1e-8, atol=1e-8)


@by_case
def test_replaced_parameters_are_computed_with(case):
    module, state = load(case)
    theirs, _ = inputs()
    expected = module.eval()(*theirs)
    fields, _ = CASES[case]
    empty = Recurrent_Memory_Attention_Module(D, options(**fields)).double().eval()
    torch.testing.assert_close(torch.func.functional_call(empty, state, theirs), expected, **CLOSE)
    copy.deepcopy(empty)
    empty.load_state_dict(state, assign=True)
    torch.testing.assert_close(empty(*theirs), expected, **CLOSE)
    with torch.device("meta"):
        late = Recurrent_Memory_Attention_Module(D, options(**fields))
    late = late.to_empty(device="cpu").double().eval()
    late.load_state_dict(state)
    torch.testing.assert_close(late(*theirs), expected, **CLOSE)


@pytest.mark.parametrize("case", ["default", NO_WINDOW])
def test_parametrized_parameters_are_computed_with(case):
    module, state = small(case)
    for name in bare_pairs(module.config).values():
        parametrize.register_parametrization(module, name, Scaled(0.7))
        state[name] = 0.7 * state[name]
    theirs, args = inputs()
    torch.testing.assert_close(module.eval()(*theirs), reference_of(module, state).eval()(*args), **CLOSE)


def test_what_is_gone_is_named():
    theirs, _ = inputs()
    for name in (
        "lang_retrieval_block.lang_mlp.0",
        "vis_retrieval_block.inter2att",
        "pool_q_linear_layer",
        "res_states_0",
    ):
        module, _ = load("default")
        *way, leaf = name.split(".")
        delattr(module.get_submodule(".".join(way)), leaf)
        with pytest.raises(AttributeError, match=f"^{name}: expected the layer or parameter of this published name"):
            module(*theirs)
    module, _ = load("default")
    module.memory_update_block = nn.Linear(D, D)
    with pytest.raises(AttributeError, match=r"^memory_update_block\.proj_new_result_state: expected"):
        module(*theirs)


def test_mode_is_the_modules_own():
    module, _ = load("default")
    theirs, _ = inputs()
    parent = nn.Sequential(module)
    for training in (True, False, True):
        parent.train(training)
        assert torch.allclose(module(*theirs), module(*theirs)) is not training
        module.training = not training
        assert torch.allclose(module(*theirs), module(*theirs)) is training


@by_case
@by_mode
def test_replicas_compute_with_their_own_tensors(case, training, monkeypatch):
    module, state = load(case)
    module.train(training)
    theirs, _ = inputs()
    factors = (0.5, 0.3, 0.2)
    own = replicas(module, factors, monkeypatch)
    wanted = []
    for factor in factors:
        torch.manual_seed(3)
        wanted.append(torch.func.functional_call(module, {name: factor * p for name, p in state.items()}, theirs))
    got = []
    for replica in own:
        torch.manual_seed(3)
        got.append(replica(*theirs))
    torch.testing.assert_close(got, wanted, **CLOSE)
    sum(result.square().sum() for result in got).backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if name != "aux_lang_token")


@by_case
def test_replicas_compute_side_by_side(case, monkeypatch):
    module, state = load(case)
    theirs, _ = inputs()
    factors = (0.5, 0.3, 0.2)
    own = replicas(module.eval(), factors, monkeypatch)
    wanted = [
        torch.func.functional_call(module, {name: factor * p for name, p in state.items()}, theirs)
        for factor in factors
    ]
    with ThreadPoolExecutor(len(own)) as pool:
        got = list(pool.map(lambda replica: replica(*theirs), own))
    torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.fixture
def many_switches():
    """Threads take turns after every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@by_mode
@pytest.mark.parametrize("save_atts", [False, True])
@pytest.mark.parametrize("case", MODE_CASES)
def test_threads(case, training, save_atts, many_switches):
    """The draws of a call are one number of torch's generator: threads share out the same ones in another order."""
    module, _ = load(case)
    module.train(training)
    theirs, _ = inputs()
    threads, calls = 8, 12

    def work(_):
        results = []
        for _ in range(calls):
            results.append(module(*theirs, save_atts=save_atts).detach().flatten())
        return results

    def in_order(results):
        rows = torch.stack(list(itertools.chain(*results)))
        return rows[rows[:, 0].argsort()]

    torch.manual_seed(3)
    expected, attentions = in_order(map(work, range(threads))), module.attentions
    torch.manual_seed(3)
    with ThreadPoolExecutor(threads) as pool:
        got = in_order(pool.map(work, range(threads)))
    assert len(expected[:, 0].unique()) == (threads * calls if training else 1)
    torch.testing.assert_close(got, expected, **CLOSE)
    if not training:
        torch.testing.assert_close(module.attentions, attentions, **CLOSE)


def snapshot(thing, seen):
    """Everything that can be reached from a module through attributes, dictionaries, lists and tuples."""
    if id(thing) in seen:
        return id(thing)
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return id(thing), thing._version, thing.data_ptr()
    if isinstance(thing, dict):
        return id(thing), [(key, snapshot(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple):
        return id(thing), [snapshot(value, seen) for value in thing]
    if isinstance(thing, nn.Module):
        return id(thing), snapshot(vars(thing), seen)
    return id(thing)


@by_case
@by_mode
@pytest.mark.parametrize("grad", [False, True])
def test_a_call_changes_nothing(case, training, grad):
    module, _ = load(case)
    module.train(training)
    theirs, _ = inputs()
    before = snapshot(module, set())
    with torch.set_grad_enabled(grad):
        result = module(*theirs)
    assert snapshot(module, set()) == before
    if grad:
        result.sum().backward()
    record = module.attentions
    module(*theirs, save_atts=True)
    assert module.attentions is not record
    module.attentions = record
    assert snapshot(module, set()) == before


def test_nothing_is_changed_by_a_call_that_fails():
    module, _ = load(NO_WINDOW)
    theirs, _ = inputs()
    expected = module.eval()(*theirs)
    layer = module.memory_interaction_block.op_state_query
    hook = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyError("planted")))
    with pytest.raises(KeyError, match="planted"):
        module(*theirs)
    hook.remove()
    torch.testing.assert_close(module(*theirs), expected, **CLOSE)


@pytest.mark.parametrize("case", MODE_CASES)
@by_mode
@pytest.mark.parametrize("save_atts", [False, True])
def test_compiles_to_one_graph(case, training, save_atts):
    module, _ = load(case)
    module.train(training)
    theirs, _ = inputs()
    trained = [p for name, p in module.named_parameters() if name != "aux_lang_token"]
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    if save_atts:
        torch.manual_seed(3)
        want = module(*theirs, save_atts=True), module.attentions
        torch.manual_seed(3)
        got = compiled(*theirs, save_atts=True), module.attentions
        assert got[1] is not want[1]
        torch.testing.assert_close(got, want, **CLOSE)
    else:
        torch.testing.assert_close(answers(compiled, theirs, trained), answers(module, theirs, trained), **CLOSE)


def test_compiled_graphs_follow_the_layers():
    module, _ = small("default")
    theirs, _ = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(module.eval(), fullgraph=True, backend="aot_eager")
    before = compiled(*theirs)
    plant(module, "memory_update_block.proj_new_lang_state", LoRA(module.memory_update_block.proj_new_lang_state))
    after = compiled(*theirs)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, module(*theirs), **CLOSE)


@pytest.mark.parametrize("case", MODE_CASES)
@pytest.mark.parametrize("strict", [False, True])
def test_exports_under_published_names(case, strict):
    module, state = load(case)
    theirs, _ = inputs()
    torch._dynamo.reset()
    exported = torch.export.export(module.eval(), theirs, strict=strict)
    assert exported.state_dict.keys() == state.keys()
    torch.testing.assert_close(exported.module()(*theirs), module(*theirs), **CLOSE)
