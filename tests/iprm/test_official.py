"""The published class: its names, its options and its numbers."""

import copy
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from published import CASES, CLOSE, B, D, K, L, N, R, T, by_case, inputs, load, options, reference_of

from iprm import IPRMConfig, fast, reference
from iprm.official import (
    MASK_DTYPES,
    WRAPPERS,
    Recurrent_Memory_Attention_Module,
    config_from_official,
    from_official,
    strip_prefixes,
    to_official,
)


@by_case
def test_published_names_and_shapes(case):
    fields, shapes = CASES[case]
    module = Recurrent_Memory_Attention_Module(D, options(**fields))
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == shapes
    assert {name: tuple(p.shape) for name, p in module.state_dict().items()} == shapes
    assert len({id(p) for p in module.parameters()}) == len(shapes)


@by_case
def test_state_dicts_round_trip(case):
    module, state = load(case)
    state.pop("aux_lang_token", None)
    ours = from_official(state, module.config)
    assert ours.keys() == fast.IPRM(module.config).state_dict().keys()
    back = to_official(ours, module.config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


class Published:
    """mechanism.md without dropout, written on the published names alone: what each name must mean."""

    def __init__(self, state, fields):
        self.state, self.fields = state, fields

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name, x):
        present = f"{name}.weight" in self.state
        return F.layer_norm(x, (D,), self.state[f"{name}.weight"], self.state[f"{name}.bias"]) if present else x

    def φ(self, field, default, x):
        name = self.fields.get(field, default)
        return x if name == "identity" else getattr(F, name)(x)

    def attend(self, name, products, keep=None):
        logits = self.linear(name, products).squeeze(-1)
        return (logits if keep is None else logits - 1e30 * (1 - keep)).softmax(-1)

    def initial(self, what, source):
        if f"{what}_states_0" in self.state:
            return self.state[f"{what}_states_0"].expand(B, K, D)
        return torch.stack([self.linear(f"{what}_init_projs.{k}", source) for k in range(K)], 1)

    def formation(self, t, O, E, X, keep):
        block = "lang_retrieval_block"
        hidden = self.φ("LANG_BLOCK_NONLIN", "tanh", self.linear(f"{block}.lang_mlp.0", O))
        per_step = self.fields.get("DO_TIME_STEP_SPECIFIC_PROJ")
        q = self.linear(f"{block}.time_specific_projs.{t}" if per_step else f"{block}.lang_mlp.3", hidden)
        if self.fields.get("USE_PRIOR_RESULT_STATES_FOR_LANG_QUERY"):
            hidden = self.linear(f"{block}.res_mlp.0", E)
            hidden = self.φ("PRIOR_RESULT_STATE_MLP_NONLIN_FOR_LANG_RETRIEVAL", "tanh", hidden)
            from_results = self.linear(f"{block}.res_mlp.3", hidden)
            concat = self.fields.get("DO_CONCAT_PROJ_FOR_QUERY_LANG_RETRIEVAL")
            both = torch.cat([q, from_results], -1)
            q = self.linear(f"{block}.joint_proj", both) if concat else q + from_results
        a = self.attend(f"{block}.attn", q[:, :, None] * X[:, None], keep[:, None])
        return self.norm(f"{block}.ln_lang", a @ X)

    def mapped(self, name, x):
        """A linear map, or two with tanh between them."""
        if f"{name}.weight" in self.state:
            return self.linear(name, x)
        return self.linear(f"{name}.3", self.linear(f"{name}.0", x).tanh())

    def execution(self, z, E, V, keep):
        block = "vis_retrieval_block"

        def φ(x):
            return self.φ("VIS_BLOCK_NONLIN", "elu", x)

        operation, result = self.mapped(f"{block}.proj_lang", z), self.mapped(f"{block}.proj_prev_res", E)
        if self.fields.get("USE_SIMPLER_VIS_RETRIEVAL_BLOCK"):
            κ = self.linear(f"{block}.k_proj.2", φ(self.linear(f"{block}.k_proj.0", V)))
            concat = self.fields.get("DO_CONCAT_PROJ_FOR_QUERY_VIS_RETRIEVAL")
            both = torch.cat([operation, result], -1)
            p = self.linear(f"{block}.query_proj", both) if concat else operation + result
            y, values = φ(p[:, :, None] * κ[:, None]), "v_proj"
        else:
            v = self.linear(f"{block}.proj_vis", V)[:, None].expand(B, K, N, R)
            h = torch.cat([(operation + result)[:, :, None] * v, v], -1)
            h = φ(self.linear(f"{block}.proj_concat_mod_and_og_vis.0", h))
            h = self.linear(f"{block}.proj_concat_mod_and_og_vis.2", h)
            y, values = φ(h * self.linear(f"{block}.proj_lang2", z)[:, :, None]), "proj_vis2"
        a = self.attend(f"{block}.inter2att", y, keep[:, None])
        return self.norm(f"{block}.ln_vis", a @ self.linear(f"{block}.{values}", V))

    def update(self, z, r, O, E):
        if not self.fields.get("DO_MEMORY_UPDATE", True):
            return O, r
        block = "memory_update_block"
        z, r = self.φ("MEM_OP_UPDATE_NONLIN", "identity", z), self.φ("MEM_RES_UPDATE_NONLIN", "identity", r)
        o = self.linear(f"{block}.proj_new_lang_state", torch.cat([z, O], -1))
        e = self.linear(f"{block}.proj_new_result_state", torch.cat([E, r], -1))
        return self.norm(f"{block}.ln_op", o), self.norm(f"{block}.ln_res", e)

    def composition(self, o, e, past):
        if not self.fields.get("DO_MEMORY_OP_INTERACTION", True):
            return o, e
        block = "memory_interaction_block"
        window = [(o, e), *past[: self.fields.get("MEMORY_ATT_WINDOW_LEN", 2)]]
        ō, ē = (torch.cat(states, 1) for states in zip(*window, strict=True))
        keys = ō
        if self.fields.get("MEMORY_STATE_UPDATE_DO_KEY_PROJ_OF_LANG_STATE"):
            keys = self.linear(f"{block}.op_state_key", ō)
        keep = 1 - torch.eye(K, ō.shape[1], dtype=ō.dtype)
        masks = self.fields.get("MEMORY_STATE_UPDATE_MASK_SELF_IN_ATTN", True)
        products = self.linear(f"{block}.op_state_query", o)[:, :, None] * keys[:, None]
        a = self.attend(f"{block}.attn", products, keep if masks else None)
        O = a @ self.linear(f"{block}.op_state_value", ō)
        O = O + self.linear(f"{block}.weighted_residual_op_state", o)
        E = a @ self.linear(f"{block}.result_state_value", ē)
        E = E + self.linear(f"{block}.weighted_residual_result_state", e)
        return self.norm(f"{block}.ln_op_post", O), self.norm(f"{block}.ln_res_post", E)

    def readout(self, O, E, summary):
        method = self.fields.get("MEMORY_RES_POOL_METHOD", "lang_cuml_query_op")
        if method in ("avp", "first_token"):
            return E.mean(1) if method == "avp" else E[:, 0]
        if method == "random_token_query_pool_op":
            q = self.state["random_token_result_pool"]
        else:
            q = self.linear("pool_q_linear_layer", summary)[:, None]
        a = self.attend("result_pool_mod_attn_layer", q * self.linear("pool_k_linear_layer", O))
        return (a[..., None] * E).sum(1)

    def __call__(self, X, summary, visual, language_keep, visual_keep):
        V = visual.mT
        from_picture = self.fields.get("MEMORY_RES_STATE_INIT") == "vis_projs_on_avp"
        past = [(self.initial("op", summary), self.initial("res", V.mean(1) if from_picture else summary))]
        for t in range(T):
            z = self.formation(t, *past[0], X, language_keep)
            r = self.execution(z, past[0][1], V, visual_keep)
            past.insert(0, self.composition(*self.update(z, r, *past[0]), past))
        return self.readout(*past[0], summary)


@pytest.mark.numerical
@by_case
def test_published_names_mean_what_they_should(case):
    module, state = load(case)
    theirs, _ = inputs()
    expected = Published(state, CASES[case][0])(*theirs)
    torch.testing.assert_close(module.eval()(*theirs), expected, **CLOSE)


@pytest.mark.numerical
@by_case
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_reference(case, training):
    module, state = load(case)
    plain = reference_of(module, state).train(training)
    module.train(training)
    theirs, ours = inputs()
    torch.manual_seed(3)
    expected = plain(*ours)
    torch.manual_seed(3)
    torch.testing.assert_close(module(*theirs), expected, **CLOSE)


@pytest.mark.numerical
@by_case
def test_gradients_have_published_names(case):
    module, state = load(case)
    plain = reference_of(module, state).eval()
    theirs, ours = inputs()
    module.eval()(*theirs).square().sum().backward()
    plain(*ours).square().sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters() if name != "aux_lang_token"}
    expected = to_official({name: p.grad for name, p in plain.named_parameters()}, module.config)
    scale = max(grad.abs().max() for grad in expected.values())
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-10 * scale.item(), msg=name)


def test_parameter_order():
    """Optimiser states go by position: the order of the published module's parameters is kept."""
    module, _ = load("norms and key projection")
    modules = [name.removesuffix(".weight") for name, _ in module.named_parameters() if "bias" not in name]
    assert modules == [
        "op_states_0",
        "res_states_0",
        "lang_retrieval_block.attn",
        "lang_retrieval_block.lang_mlp.0",
        "lang_retrieval_block.lang_mlp.3",
        "lang_retrieval_block.ln_lang",
        "vis_retrieval_block.proj_vis",
        "vis_retrieval_block.proj_vis2",
        "vis_retrieval_block.proj_concat_mod_and_og_vis.0",
        "vis_retrieval_block.proj_concat_mod_and_og_vis.2",
        "vis_retrieval_block.proj_prev_res",
        "vis_retrieval_block.proj_lang",
        "vis_retrieval_block.proj_lang2",
        "vis_retrieval_block.inter2att",
        "vis_retrieval_block.ln_vis",
        "memory_update_block.proj_new_result_state",
        "memory_update_block.ln_res",
        "memory_update_block.proj_new_lang_state",
        "memory_update_block.ln_op",
        "memory_interaction_block.op_state_query",
        "memory_interaction_block.op_state_key",
        "memory_interaction_block.attn",
        "memory_interaction_block.op_state_value",
        "memory_interaction_block.result_state_value",
        "memory_interaction_block.weighted_residual_op_state",
        "memory_interaction_block.weighted_residual_result_state",
        "memory_interaction_block.ln_op_post",
        "memory_interaction_block.ln_res_post",
        "result_pool_mod_attn_layer",
        "pool_q_linear_layer",
        "pool_k_linear_layer",
    ]


def test_initialisation_and_dtype():
    torch.manual_seed(0)
    module = Recurrent_Memory_Attention_Module(123, options())
    assert module.config.dim == D
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert not any(p.any() for name, p in module.named_parameters() if name.endswith("bias"))
    assert module.bfloat16()(*(x.bfloat16() for x in inputs()[0])).dtype == torch.bfloat16


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("case", ["default", "results from language, learned read-out, no window"])
def test_copies_are_whole_and_independent(case, clone):
    module, _ = load(case)
    theirs, _ = inputs()
    expected = module.eval()(*theirs, save_atts=True)
    twin = clone(module)
    torch.testing.assert_close(twin(*theirs), expected, **CLOSE)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(*theirs).any()
    torch.testing.assert_close(module(*theirs), expected, **CLOSE)


def test_one_step_of_an_optimiser_moves_the_result():
    module, _ = load("results from language, learned read-out, no window")
    theirs, _ = inputs()
    before = module.eval()(*theirs)
    optimiser = torch.optim.SGD([{"params": [p]} for _, p in module.named_parameters()], lr=0.1)
    before.square().sum().backward()
    optimiser.step()
    assert not torch.allclose(module(*theirs), before)


@pytest.mark.parametrize("dtype", MASK_DTYPES)
def test_masks_of_any_kind(dtype):
    module, _ = load("default")
    theirs, _ = inputs()
    expected = module.eval()(*theirs)
    torch.testing.assert_close(module(*theirs[:3], *(mask.to(dtype) for mask in theirs[3:])), expected, **CLOSE)


def test_no_mask_keeps_all():
    module, _ = load("default")
    theirs, _ = inputs()
    ones = torch.ones(B, L), torch.ones(B, N)
    expected = module.eval()(*theirs[:3], *ones)
    torch.testing.assert_close(module(*theirs[:3], None, None), expected, **CLOSE)


@by_case
def test_attentions(case):
    module, state = load(case)
    theirs, ours = inputs()
    expected_result, expected = reference_of(module, state).eval()(*ours, return_attention=True)
    result = module.eval()(*theirs, [5, 3], None, N, save_atts=True)
    torch.testing.assert_close(result, expected_result, **CLOSE)
    record = module.attentions
    assert list(record) == ["text", "image", "inter", "start", "inter_mem_op", "final_pool_attn_wt"]
    assert record["inter"] is None
    assert record["start"] is None
    assert not record["text"].requires_grad
    torch.testing.assert_close(record["text"], expected.language[..., None])
    torch.testing.assert_close(record["image"], expected.visual[..., None])
    if module.config.composition:
        widest = K * (1 + min(module.config.window, T))
        assert record["inter_mem_op"].shape == (T, B, K, widest, 1)
        torch.testing.assert_close(record["inter_mem_op"], expected.operations[..., :widest, None])
    else:
        assert record["inter_mem_op"] is None
    if expected.readout is None:
        assert record["final_pool_attn_wt"] is None
    else:
        torch.testing.assert_close(record["final_pool_attn_wt"], expected.readout[:, None, :, None])
    module(*theirs)
    assert module.attentions is record, "a forward that is not asked for attention leaves the record alone"


class AttributeDict(dict):
    """A dictionary whose keys are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def as_namespace(tree):
    return SimpleNamespace(**{name: SimpleNamespace(**node) for name, node in tree.items()})


def as_attribute_dict(tree):
    return AttributeDict({name: AttributeDict(node) for name, node in tree.items()})


EVERY_FIELD = {
    "NUM_MEMORY_TOKENS": 4,
    "NUM_COMPUTATION_STEPS": 5,
    "MEMORY_ATT_WINDOW_LEN": 3,
    "REDUCTION_R": 4,
    "LANG_BLOCK_NONLIN": "elu",
    "LANG_BLOCK_MLP_DROP": 0.01,
    "LANG_BLOCK_ATTN_DROP": 0.02,
    "LANG_BLOCK_USE_LN": True,
    "DO_TIME_STEP_SPECIFIC_PROJ": True,
    "VIS_BLOCK_DROP": 0.03,
    "VIS_BLOCK_ATTN_DROP": 0.04,
    "VIS_BLOCK_NONLIN": "tanh",
    "VIS_BLOCK_USE_LN": True,
    "DO_MEMORY_UPDATE": True,
    "MEM_UPDATE_BLOCK_USE_LN": True,
    "MEM_OP_UPDATE_NONLIN": "relu",
    "MEM_RES_UPDATE_NONLIN": "gelu",
    "DO_MEMORY_OP_INTERACTION": True,
    "MEMORY_STATE_UPDATE_MASK_SELF_IN_ATTN": False,
    "MEMORY_STATE_UPDATE_DO_KEY_PROJ_OF_LANG_STATE": True,
    "MEMORY_STATE_UPDATE_MOD_DROPOUT": 0.05,
    "MEMORY_STATE_UPDATE_RES_DROPOUT": 0.06,
    "MEM_ATTN_MATRIX_DROP": 0,
    "OP_INTERACTION_BLOCK_USE_LN": True,
    "MEMORY_OP_STATE_INIT": "lang_projs",
    "MEMORY_RES_STATE_INIT": "vis_projs_on_avp",
    "MEMORY_RES_POOL_METHOD": "avp",
    "USE_PRIOR_RESULT_STATES_FOR_LANG_QUERY": True,
    "PRIOR_RESULT_STATE_MLP_NONLIN_FOR_LANG_RETRIEVAL": "sigmoid",
    "DO_CONCAT_PROJ_FOR_QUERY_LANG_RETRIEVAL": True,
    "USE_SIMPLER_VIS_RETRIEVAL_BLOCK": True,
    "USE_MLP_FOR_PRIOR_RESULTS_PROJ_IN_VISRETRIEVAL": True,
    "USE_MLP_FOR_LANG_PROJ_IN_VISRETRIEVAL": True,
    "DO_CONCAT_PROJ_FOR_QUERY_VIS_RETRIEVAL": True,
}
LAST_SEVEN = list(EVERY_FIELD)[-7:]
EVERY_CONFIG = IPRMConfig(
    dim=16,
    num_ops=4,
    num_steps=5,
    window=3,
    reduction=4,
    op_init="language",
    result_init="visual",
    formation_activation="elu",
    per_step_query=True,
    query_from_results="concat",
    result_query_activation="sigmoid",
    formation_norm=True,
    execution="simple",
    execution_activation="tanh",
    execution_query="concat",
    operation_mlp=True,
    result_mlp=True,
    execution_norm=True,
    op_activation="relu",
    result_activation="gelu",
    update_norm=True,
    mask_self=False,
    key_projection=True,
    composition_norm=True,
    readout="mean",
    formation_dropout=0.01,
    formation_attention_dropout=0.02,
    visual_dropout=0.03,
    result_dropout=0.03,
    operation_dropout=0.03,
    product_dropout=0.03,
    execution_attention_dropout=0.04,
    composition_product_dropout=0.05,
    composition_value_dropout=0.06,
)


@pytest.mark.parametrize("kind", [dict, as_namespace, as_attribute_dict])
def test_config_from_every_kind_of_node(kind):
    assert config_from_official(kind({"VLM": {"DIM": 16}, "IPRM": EVERY_FIELD})) == EVERY_CONFIG
    old = {name: value for name, value in EVERY_FIELD.items() if name not in LAST_SEVEN}
    config = config_from_official(kind({"VLM": {"DIM": 16}, "IPRM": old | {"NO_SUCH_OPTION": object()}}))
    assert (config.query_from_results, config.execution, config.execution_query) == ("none", "full", "sum")
    assert not config.operation_mlp
    assert not config.result_mlp


def test_missing_fields_have_the_published_defaults():
    assert config_from_official(options(REDUCTION_R=2)) == IPRMConfig(dim=D, num_ops=K, num_steps=T)


def test_switches_that_do_nothing_are_ignored():
    fields = {
        "DO_CONCAT_PROJ_FOR_QUERY_LANG_RETRIEVAL": True,
        "USE_MLP_FOR_LANG_PROJ_IN_VISRETRIEVAL": True,
        "USE_MLP_FOR_PRIOR_RESULTS_PROJ_IN_VISRETRIEVAL": True,
        "DO_CONCAT_PROJ_FOR_QUERY_VIS_RETRIEVAL": True,
    }
    assert config_from_official(options(**fields)) == config_from_official(options())


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"MEMORY_OP_STATE_INIT": "zeros"},
            ValueError,
            "cfg.IPRM.MEMORY_OP_STATE_INIT: expected one of 'random', 'lang_projs', got 'zeros'",
        ),
        ({"MEMORY_RES_STATE_INIT": None}, ValueError, "cfg.IPRM.MEMORY_RES_STATE_INIT: expected one of"),
        ({"MEMORY_RES_POOL_METHOD": "max"}, ValueError, "'first_token', got 'max'"),
        ({"VIS_BLOCK_NONLIN": "mish"}, ValueError, "cfg.IPRM.VIS_BLOCK_NONLIN: expected one of 'identity'"),
        ({"VIS_BLOCK_DROP": 1.5}, ValueError, "cfg.IPRM.VIS_BLOCK_DROP: expected a rate in [0, 1), got 1.5"),
        ({"REDUCTION_R": 3}, ValueError, "cfg.IPRM.REDUCTION_R: expected a divisor of dim = 8, got 3"),
        ({"NUM_MEMORY_TOKENS": "6"}, TypeError, "cfg.IPRM.NUM_MEMORY_TOKENS: expected int, got '6' (str)"),
        ({"DO_MEMORY_UPDATE": 1}, TypeError, "cfg.IPRM.DO_MEMORY_UPDATE: expected bool, got 1 (int)"),
        (
            {"USE_SIMPLER_VIS_RETRIEVAL_BLOCK": "yes"},
            TypeError,
            "cfg.IPRM.USE_SIMPLER_VIS_RETRIEVAL_BLOCK: expected bool, got 'yes' (str)",
        ),
    ],
)
def test_wrong_options(fields, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Recurrent_Memory_Attention_Module(D, options(**fields))


@pytest.mark.parametrize("path", ["VLM", "IPRM", "VLM.DIM", "IPRM.NUM_MEMORY_TOKENS", "IPRM.NUM_COMPUTATION_STEPS"])
@pytest.mark.parametrize("kind", [dict, as_namespace])
def test_missing_options(path, kind):
    tree = options()
    *way, leaf = path.split(".")
    (tree[way[0]] if way else tree).pop(leaf)
    with pytest.raises(ValueError, match=re.escape(f"cfg.{path}: expected in the options, got none")):
        config_from_official(kind(tree))


def test_wrong_dim():
    with pytest.raises(TypeError, match=re.escape("cfg.VLM.DIM: expected int, got 8.0 (float)")):
        config_from_official(options() | {"VLM": {"DIM": 8.0}})


@pytest.mark.parametrize("convert", [to_official, from_official])
def test_wrong_state_dicts(convert):
    config = config_from_official(options())
    ours = reference.IPRM(config).state_dict()
    state = ours if convert is to_official else to_official(ours, config)
    first, second, *_ = state
    extra = {name: value for name, value in state.items() if name not in (first, second)} | {"odd.weight": None}
    with pytest.raises(ValueError, match=r"missing .*unknown") as raised:
        convert(extra, config)
    assert all(name in str(raised.value) for name in (first, second, "odd.weight"))


@pytest.mark.parametrize("convert", [to_official, from_official])
def test_errors_do_not_list_every_name(convert):
    config = config_from_official(options())
    with pytest.raises(ValueError, match=r"missing '[^,]*', '[^,]*', '[^,]*' and (\d+) more; unknown none") as raised:
        convert({}, config)
    assert len(str(raised.value)) < 300
    state = {f"body.{name}": value for name, value in reference.IPRM(config).state_dict().items()}
    with pytest.raises(ValueError, match=f"unknown 'body.*, 'body.*, 'body.* and {len(state) - 3} more$"):
        convert(state, config)
    for wrong in (None, [("a", 1)], reference.IPRM(config)):
        expected = f"state_dict: expected a mapping of names to tensors, got {type(wrong).__name__}"
        with pytest.raises(TypeError, match=expected):
            convert(wrong, config)


PREFIXES = [*WRAPPERS, "module._orig_mod.", "_orig_mod.module.", "module.module._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", ["default", "unused parameter"])
def test_prefixes_of_wrappers_are_taken_off(case, prefix):
    module, state = load(case)
    wrapped = {prefix + name: value for name, value in state.items()}
    assert strip_prefixes(wrapped) == state
    module.load_state_dict(strip_prefixes(wrapped), strict=True)
    ours = from_official(state, module.config)
    assert list(from_official(wrapped, module.config)) == list(ours)
    theirs = to_official({prefix + name: value for name, value in ours.items()}, module.config)
    assert list(theirs) == list(to_official(ours, module.config))


def test_prefixes_of_real_wrappers():
    module, state = load("default")
    module.eval()
    compiled = torch.compile(module)
    assert strip_prefixes(compiled.state_dict()).keys() == state.keys()
    assert strip_prefixes(torch.nn.DataParallel(compiled).state_dict()).keys() == state.keys()


def test_a_prefix_that_some_names_lack_stays():
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert strip_prefixes(mixed) == mixed
    assert strip_prefixes({}) == {}


def test_wrong_backend():
    with pytest.raises(ValueError, match="backend: expected one of 'auto'"):
        Recurrent_Memory_Attention_Module(D, options(), backend="abacus")


NAMES = ("lang_tokens_rep", "lang_summary_rep", "vis_tokens_rep", "lang_token_mask", "vis_token_mask")
SHAPES = ("(2, L, 8)", "(2, 8)", "(B, 8, N)", "(2, 5)", "(2, 7)")
KINDS = "bool, integer or floating on cpu, 1 = keep, got"


def refused(module, place, value):
    """The message about an argument that is replaced by a wrong one."""
    arguments = list(inputs()[0])
    arguments[place] = value
    with pytest.raises(ValueError, match=f"^{NAMES[place]}: expected ") as raised:
        module(*arguments)
    return str(raised.value)


def sparse(x):
    return x.to_sparse()


def nested(x):
    return torch.nested.as_nested_tensor([x[0], x[1][:1]])


def jagged(x):
    return torch.nested.as_nested_tensor([x[0], x[1][:1]], layout=torch.jagged)


WRONG_ANYWHERE = [
    (lambda x: x.numpy(), "(ndarray)"),
    (lambda x: x.tolist(), "(list)"),
    (lambda x: 3.5, "got 3.5 (float)"),
    (lambda x: x[..., None], "{shape}, 1) float64 on cpu"),
    (lambda x: x[0], " float64 on cpu"),
    (lambda x: torch.cat([x, x]), "got (4, "),
    (lambda x: x.to("meta"), "float64 on meta"),
    (lambda x: x.to(torch.complex64), "complex64"),
    (lambda x: x.to(torch.float8_e5m2), "float8_e5m2"),
    (sparse, "got a sparse_coo tensor of"),
]
WRONG_TOKENS = [
    (lambda x: None, "got None"),
    (lambda x: x.float(), "float64 on cpu, got {shape}) float32 on cpu"),
    (lambda x: x.bfloat16(), "float64 on cpu, got {shape}) bfloat16 on cpu"),
    (lambda x: x.long(), "expected a tensor of one of float32, float64, bfloat16, float16, got {shape}) int64"),
]
WRONG_SEQUENCES = [
    (nested, "got a nested tensor of"),
    (jagged, "got a nested tensor of"),
]
WRONG_INPUTS = [
    *((place, *wrong) for place in range(5) for wrong in WRONG_ANYWHERE if not (place == 2 and "got (4" in wrong[1])),
    *((place, *wrong) for place in range(3) for wrong in WRONG_TOKENS),
    *((place, *wrong) for place in (0, 2) for wrong in WRONG_SEQUENCES),
    (0, lambda x: x[:, :0], "expected at least one token, got (2, 0, 8)"),
    (2, lambda x: x[..., :0], "expected at least one token, got (2, 8, 0)"),
    (0, lambda x: x.mT, "expected (2, L, 8) float64 on cpu, got (2, 8, 5) float64 on cpu"),
    (1, lambda x: x[:, 1:], "expected (2, 8) float64 on cpu, got (2, 7) float64 on cpu"),
    (2, lambda x: x.mT, "expected (B, 8, N) float64 on cpu, got (2, 7, 8) float64 on cpu"),
    (3, lambda x: x[:, 1:], f"expected (2, 5) {KINDS} (2, 4) float64 on cpu"),
    (4, lambda x: x[:, 1:], f"expected (2, 7) {KINDS} (2, 6) float64 on cpu"),
]


@pytest.mark.parametrize(("place", "wrong", "message"), WRONG_INPUTS)
def test_errors_name_the_published_arguments(place, wrong, message):
    module, _ = load("default")
    value = inputs()[0][place]
    shape = str(tuple(value.shape)).removesuffix(")")
    said = refused(module, place, wrong(value))
    assert message.format(shape=shape) in said
    assert "token," in said or "a tensor of" in said or SHAPES[place] in said


def test_another_batch_of_pictures():
    module, _ = load("default")
    theirs, _ = inputs()
    with pytest.raises(
        ValueError, match=re.escape("lang_tokens_rep: expected (4, L, 8) float64 on cpu, got (2, 5, 8)")
    ):
        module(*theirs[:2], torch.cat([theirs[2]] * 2), *theirs[3:])


def test_autocast_takes_what_it_casts():
    module = load("default")[0].float().eval()
    floats = [x.float() for x in inputs()[0]]
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            module(*(x.to(dtype) for x in floats[:3]), *floats[3:])
        for place in range(3):
            for wrong in ("float64", "float16"):
                arguments = [x.to(getattr(torch, wrong)) if i == place else x for i, x in enumerate(floats)]
                said = f"^{NAMES[place]}: expected .* float32 on cpu, got .* {wrong} on cpu"
                with pytest.raises(ValueError, match=said):
                    module(*arguments)


def test_no_sample():
    module, _ = load("default")
    assert module.eval()(*(x[:0] for x in inputs()[0])).shape == (0, D)
