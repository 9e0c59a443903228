"""The published class: its names, its options and its numbers."""

import copy
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from iprm import IPRMConfig, fast, reference
from iprm.official import Recurrent_Memory_Attention_Module, config_from_official, from_official, to_official

B, L, N, D, K, T, R = 2, 5, 7, 8, 3, 2, 4
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def layers(prefix, **sizes):
    """Shapes of linear maps: name -> (outputs, inputs); dots in names are written as two underscores."""
    shapes = {}
    for name, (outputs, inputs) in sizes.items():
        path = prefix + name.replace("__", ".").strip("_")
        shapes |= {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}
    return shapes


def norms(*paths):
    return {f"{path}.{leaf}": (D,) for path in paths for leaf in ("weight", "bias")}


STATES = {"op_states_0": (K, D), "res_states_0": (K, D)}
LANG = layers("lang_retrieval_block.", attn=(1, D), lang_mlp__0=(D, D), lang_mlp__3=(D, D))
RES_MLP = layers("lang_retrieval_block.", res_mlp__0=(D, D), res_mlp__3=(D, D))
VIS = layers(
    "vis_retrieval_block.",
    proj_vis=(R, D),
    proj_vis2=(D, D),
    proj_concat_mod_and_og_vis__0=(R, 2 * R),
    proj_concat_mod_and_og_vis__2=(R, R),
    proj_prev_res=(R, D),
    proj_lang=(R, D),
    proj_lang2=(R, D),
    inter2att=(1, R),
)
SIMPLE = layers("vis_retrieval_block.", v_proj=(D, D), k_proj__0=(R, D), k_proj__2=(R, R), inter2att=(1, R))
UPDATE = layers("memory_update_block.", proj_new_result_state=(D, 2 * D), proj_new_lang_state=(D, 2 * D))
INTERACTION = layers(
    "memory_interaction_block.",
    op_state_query=(D, D),
    attn=(1, D),
    op_state_value=(D, D),
    result_state_value=(D, D),
    weighted_residual_op_state=(D, D),
    weighted_residual_result_state=(D, D),
)
POOL_K = layers("", result_pool_mod_attn_layer=(1, D), pool_k_linear_layer=(D, D))
POOL = POOL_K | layers("", pool_q_linear_layer=(D, D))

ALWAYS = {"NUM_MEMORY_TOKENS": K, "NUM_COMPUTATION_STEPS": T, "REDUCTION_R": 2}
CASES = {
    "default": ({}, STATES | LANG | VIS | UPDATE | INTERACTION | POOL),
    "per-step query, joined with results": (
        {
            "DO_TIME_STEP_SPECIFIC_PROJ": True,
            "USE_PRIOR_RESULT_STATES_FOR_LANG_QUERY": True,
            "PRIOR_RESULT_STATE_MLP_NONLIN_FOR_LANG_RETRIEVAL": "relu",
            "DO_CONCAT_PROJ_FOR_QUERY_LANG_RETRIEVAL": True,
        },
        STATES
        | layers(
            "lang_retrieval_block.",
            attn=(1, D),
            lang_mlp__0=(D, D),
            time_specific_projs__0=(D, D),
            time_specific_projs__1=(D, D),
            joint_proj=(D, 2 * D),
        )
        | RES_MLP
        | VIS
        | UPDATE
        | INTERACTION
        | POOL,
    ),
    "query summed with results": (
        {"USE_PRIOR_RESULT_STATES_FOR_LANG_QUERY": True},
        STATES | LANG | RES_MLP | VIS | UPDATE | INTERACTION | POOL,
    ),
    "simple, two-layer projections, joined": (
        {
            "USE_SIMPLER_VIS_RETRIEVAL_BLOCK": True,
            "USE_MLP_FOR_PRIOR_RESULTS_PROJ_IN_VISRETRIEVAL": True,
            "USE_MLP_FOR_LANG_PROJ_IN_VISRETRIEVAL": True,
            "DO_CONCAT_PROJ_FOR_QUERY_VIS_RETRIEVAL": True,
        },
        STATES
        | LANG
        | SIMPLE
        | layers(
            "vis_retrieval_block.",
            proj_prev_res__0=(R, D),
            proj_prev_res__3=(R, R),
            proj_lang__0=(R, D),
            proj_lang__3=(R, R),
            query_proj=(R, 2 * R),
        )
        | UPDATE
        | INTERACTION
        | POOL,
    ),
    "simple, summed": (
        {"USE_SIMPLER_VIS_RETRIEVAL_BLOCK": True, "VIS_BLOCK_NONLIN": "tanh"},
        STATES
        | LANG
        | SIMPLE
        | layers("vis_retrieval_block.", proj_prev_res=(R, D), proj_lang=(R, D))
        | UPDATE
        | INTERACTION
        | POOL,
    ),
    "norms and key projection": (
        {
            "LANG_BLOCK_USE_LN": True,
            "VIS_BLOCK_USE_LN": True,
            "MEM_UPDATE_BLOCK_USE_LN": True,
            "OP_INTERACTION_BLOCK_USE_LN": True,
            "MEMORY_STATE_UPDATE_DO_KEY_PROJ_OF_LANG_STATE": True,
            "MEMORY_STATE_UPDATE_MASK_SELF_IN_ATTN": False,
            "MEM_OP_UPDATE_NONLIN": "tanh",
            "MEM_RES_UPDATE_NONLIN": "gelu",
        },
        STATES
        | LANG
        | VIS
        | UPDATE
        | INTERACTION
        | layers("memory_interaction_block.", op_state_key=(D, D))
        | norms("lang_retrieval_block.ln_lang", "vis_retrieval_block.ln_vis")
        | norms("memory_update_block.ln_res", "memory_update_block.ln_op")
        | norms("memory_interaction_block.ln_op_post", "memory_interaction_block.ln_res_post")
        | POOL,
    ),
    "memory from language and picture": (
        {"MEMORY_OP_STATE_INIT": "lang_projs", "MEMORY_RES_STATE_INIT": "vis_projs_on_avp"},
        LANG
        | VIS
        | UPDATE
        | INTERACTION
        | layers("", op_init_projs__0=(D, D), op_init_projs__1=(D, D), op_init_projs__2=(D, D))
        | layers("", res_init_projs__0=(D, D), res_init_projs__1=(D, D), res_init_projs__2=(D, D))
        | POOL,
    ),
    "results from language, learned read-out, no window": (
        {
            "MEMORY_RES_STATE_INIT": "lang_projs",
            "MEMORY_RES_POOL_METHOD": "random_token_query_pool_op",
            "MEMORY_ATT_WINDOW_LEN": 0,
        },
        {"op_states_0": (K, D), "random_token_result_pool": (1, 1, D)}
        | LANG
        | VIS
        | UPDATE
        | INTERACTION
        | layers("", res_init_projs__0=(D, D), res_init_projs__1=(D, D), res_init_projs__2=(D, D))
        | POOL_K,
    ),
    "mean read-out, no update": (
        {"MEMORY_RES_POOL_METHOD": "avp", "DO_MEMORY_UPDATE": False, "MEMORY_ATT_WINDOW_LEN": 5},
        STATES | LANG | VIS | INTERACTION,
    ),
    "first read-out, no composition": (
        {"MEMORY_RES_POOL_METHOD": "first_token", "DO_MEMORY_OP_INTERACTION": False},
        STATES | LANG | VIS | UPDATE,
    ),
    "unused parameter": (
        {"ADD_AUX_LANG_TOKEN": True, "NONLIN_FOR_LANG_PROJ_IN_VISRETRIEVAL": "elu"},
        STATES | {"aux_lang_token": (1, 1, D)} | LANG | VIS | UPDATE | INTERACTION | POOL,
    ),
}
by_case = pytest.mark.parametrize("case", CASES)


def options(**fields):
    return {"VLM": {"DIM": D}, "IPRM": ALWAYS | fields}


def published_state(shapes):
    torch.manual_seed(1)
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


def load(case):
    """The module with a state dict of the published layout, and that state dict."""
    fields, shapes = CASES[case]
    module = Recurrent_Memory_Attention_Module(D, options(**fields)).double()
    state = published_state(shapes)
    module.load_state_dict(state, strict=True)
    return module, state


def reference_of(module, state):
    plain = reference.IPRM(module.config).double()
    plain.load_state_dict(from_official(state, module.config), strict=True)
    return plain


def inputs(seed=0):
    """Published arguments, and the same for `iprm.reference`."""
    torch.manual_seed(seed)
    language, summary, visual = torch.randn(B, L, D), torch.randn(B, D), torch.randn(B, D, N)
    language_mask, visual_mask = torch.ones(B, L), torch.ones(B, N)
    language_mask[0, 3:] = 0
    visual_mask[1, ::2] = 0
    theirs = tuple(x.double() for x in (language, summary, visual, language_mask, visual_mask))
    ours = (*theirs[:2], theirs[2].mT, language_mask.bool(), visual_mask.bool())
    return theirs, ours


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


def test_training_mode_reaches_the_computation():
    module, _ = load("default")
    theirs, _ = inputs()
    parent = torch.nn.Sequential(module)
    parent.train()
    assert not torch.allclose(module(*theirs), module(*theirs))
    parent.eval()
    torch.testing.assert_close(module(*theirs), module(*theirs), **CLOSE)


def test_one_step_of_an_optimiser_moves_the_result():
    module, _ = load("results from language, learned read-out, no window")
    theirs, _ = inputs()
    before = module.eval()(*theirs)
    optimiser = torch.optim.SGD([{"params": [p]} for _, p in module.named_parameters()], lr=0.1)
    before.square().sum().backward()
    optimiser.step()
    assert not torch.allclose(module(*theirs), before)


def test_compiles_to_one_graph():
    module, _ = load("results from language, learned read-out, no window")
    theirs, _ = inputs()
    expected = module.eval()(*theirs)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*theirs), expected, **CLOSE)


@pytest.mark.parametrize("kind", [torch.Tensor.bool, torch.Tensor.long, torch.Tensor.float])
def test_masks_of_any_kind(kind):
    module, _ = load("default")
    theirs, _ = inputs()
    expected = module.eval()(*theirs)
    torch.testing.assert_close(module(*theirs[:3], kind(theirs[3]), kind(theirs[4])), expected, **CLOSE)


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
    assert all(value is None for value in module.attentions.values())


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


def test_wrong_backend():
    with pytest.raises(ValueError, match="backend: expected one of 'auto'"):
        Recurrent_Memory_Attention_Module(D, options(), backend="abacus")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(B, D).double(), "lang_tokens_rep: expected (B, L, 8) float64 on cpu, got (2, 8)"),
        (1, torch.zeros(B, D + 1).double(), "lang_summary_rep: expected (B, 8) float64 on cpu, got (2, 9)"),
        (
            2,
            torch.zeros(B, N, D).double(),
            "vis_tokens_rep: expected (B, 8, N) float64 on cpu, got (2, 7, 8)",
        ),
        (2, None, "vis_tokens_rep: expected a tensor"),
        (3, torch.ones(B, L + 1), "lang_token_mask: expected (2, 5), 1 = keep, got (2, 6) float32 on cpu"),
        (4, torch.ones(N), "vis_token_mask: expected (2, 7), 1 = keep, got (7,) float32 on cpu"),
        (4, [[1] * N] * B, "vis_token_mask: expected (2, 7), 1 = keep, got [[1"),
    ],
)
def test_wrong_inputs(place, value, message):
    module, _ = load("default")
    arguments = list(inputs()[0])
    arguments[place] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        module(*arguments)
