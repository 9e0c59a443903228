"""The published module's layout by options: names and shapes, a module and a reference that hold the same weights."""

from __future__ import annotations

import pytest
import torch

from iprm import reference
from iprm.official import Recurrent_Memory_Attention_Module, from_official

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
