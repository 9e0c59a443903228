"""The published code's class, options and parameter names (mechanism.md, "Weights from the published code").

`name_pairs` is that section's table; the module and both converters are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iprm import fast
from iprm.config import IPRMConfig
from iprm.reference import Attention
from iprm_kernels.checks import check_choice, check_floating, check_tensor, described

PLAIN_FIELDS = {
    "num_ops": "NUM_MEMORY_TOKENS",
    "num_steps": "NUM_COMPUTATION_STEPS",
    "window": "MEMORY_ATT_WINDOW_LEN",
    "reduction": "REDUCTION_R",
    "formation_activation": "LANG_BLOCK_NONLIN",
    "formation_dropout": "LANG_BLOCK_MLP_DROP",
    "formation_attention_dropout": "LANG_BLOCK_ATTN_DROP",
    "formation_norm": "LANG_BLOCK_USE_LN",
    "per_step_query": "DO_TIME_STEP_SPECIFIC_PROJ",
    "visual_dropout": "VIS_BLOCK_DROP",
    "result_dropout": "VIS_BLOCK_DROP",
    "operation_dropout": "VIS_BLOCK_DROP",
    "product_dropout": "VIS_BLOCK_DROP",
    "execution_attention_dropout": "VIS_BLOCK_ATTN_DROP",
    "execution_activation": "VIS_BLOCK_NONLIN",
    "execution_norm": "VIS_BLOCK_USE_LN",
    "update": "DO_MEMORY_UPDATE",
    "update_norm": "MEM_UPDATE_BLOCK_USE_LN",
    "op_activation": "MEM_OP_UPDATE_NONLIN",
    "result_activation": "MEM_RES_UPDATE_NONLIN",
    "composition": "DO_MEMORY_OP_INTERACTION",
    "mask_self": "MEMORY_STATE_UPDATE_MASK_SELF_IN_ATTN",
    "key_projection": "MEMORY_STATE_UPDATE_DO_KEY_PROJ_OF_LANG_STATE",
    "composition_product_dropout": "MEMORY_STATE_UPDATE_MOD_DROPOUT",
    "composition_value_dropout": "MEMORY_STATE_UPDATE_RES_DROPOUT",
    "composition_attention_dropout": "MEM_ATTN_MATRIX_DROP",
    "composition_norm": "OP_INTERACTION_BLOCK_USE_LN",
    "result_query_activation": "PRIOR_RESULT_STATE_MLP_NONLIN_FOR_LANG_RETRIEVAL",
}
"""Fields of `IPRMConfig` whose value is that of a field of `cfg.IPRM`."""

CHOICE_FIELDS = {
    "op_init": ("MEMORY_OP_STATE_INIT", {"random": "learned", "lang_projs": "language"}),
    "result_init": (
        "MEMORY_RES_STATE_INIT",
        {"random": "learned", "lang_projs": "language", "vis_projs_on_avp": "visual"},
    ),
    "readout": (
        "MEMORY_RES_POOL_METHOD",
        {
            "lang_cuml_query_op": "language",
            "random_token_query_pool_op": "learned",
            "avp": "mean",
            "first_token": "first",
        },
    ),
}
"""Fields of `IPRMConfig` that have the same choices under other names."""

REQUIRED = ("NUM_MEMORY_TOKENS", "NUM_COMPUTATION_STEPS")
UNUSED_PARAMETER = "aux_lang_token"
BARE_PARAMETERS = {
    "memory.O": "op_states_0",
    "memory.E": "res_states_0",
    "readout.query": "random_token_result_pool",
}
"""Parameters that belong to no layer."""


def _has(node: Any, name: str) -> bool:
    return name in node if isinstance(node, Mapping) else hasattr(node, name)


def _get(node: Any, path: str, name: str) -> Any:
    """node[name] of a mapping, node.name of anything else."""
    if not _has(node, name):
        raise ValueError(f"{path}.{name}: expected in the options, got none")
    return node[name] if isinstance(node, Mapping) else getattr(node, name)


def _flag(node: Any, name: str) -> bool:
    """A switch that older options lack."""
    value = _get(node, "cfg.IPRM", name) if _has(node, name) else False
    if not isinstance(value, bool):
        raise TypeError(f"cfg.IPRM.{name}: expected bool, got {value!r} ({type(value).__name__})")
    return value


def _switched(node: Any) -> Iterator[tuple[str, Any]]:
    """Fields of `IPRMConfig` that the published code spreads over several switches."""
    if _flag(node, "USE_PRIOR_RESULT_STATES_FOR_LANG_QUERY"):
        concat = _flag(node, "DO_CONCAT_PROJ_FOR_QUERY_LANG_RETRIEVAL")
        yield "query_from_results", "concat" if concat else "sum"
    if _flag(node, "USE_SIMPLER_VIS_RETRIEVAL_BLOCK"):
        yield "execution", "simple"
        yield "execution_query", "concat" if _flag(node, "DO_CONCAT_PROJ_FOR_QUERY_VIS_RETRIEVAL") else "sum"
        yield "operation_mlp", _flag(node, "USE_MLP_FOR_LANG_PROJ_IN_VISRETRIEVAL")
        yield "result_mlp", _flag(node, "USE_MLP_FOR_PRIOR_RESULTS_PROJ_IN_VISRETRIEVAL")


def config_from_official(cfg: Any) -> IPRMConfig:
    """The options of a published `cfg`, from its nodes `cfg.VLM` and `cfg.IPRM`.

    Args:
        cfg: mappings or objects with attributes, nested. VLM.DIM, IPRM.NUM_MEMORY_TOKENS and
            IPRM.NUM_COMPUTATION_STEPS must be there; what else is missing has the default of `IPRMConfig`,
            and fields that the mechanism does not use are not read.
    Raises:
        ValueError: a required field is missing, or a value is not allowed.  TypeError: a value has the wrong
        type. Both name the field of `cfg`, what was expected and what came.
    """
    fields: dict[str, Any] = {"dim": _get(_get(cfg, "cfg", "VLM"), "cfg.VLM", "DIM")}
    node = _get(cfg, "cfg", "IPRM")
    for ours, theirs in PLAIN_FIELDS.items():
        if theirs in REQUIRED or _has(node, theirs):
            fields[ours] = _get(node, "cfg.IPRM", theirs)
    for ours, (theirs, choices) in CHOICE_FIELDS.items():
        if _has(node, theirs):
            value = _get(node, "cfg.IPRM", theirs)
            check_choice(f"cfg.IPRM.{theirs}", value, tuple(choices))
            fields[ours] = choices[value]
    fields.update(_switched(node))
    try:
        return IPRMConfig(**fields)
    except (TypeError, ValueError) as error:  # says which of our fields: say which of theirs
        name, _, rest = str(error).partition(": ")
        theirs = "VLM.DIM" if name == "dim" else f"IPRM.{PLAIN_FIELDS[name]}"
        raise type(error)(f"cfg.{theirs}: {rest}") from None


def _formation(c: IPRMConfig) -> Iterator[tuple[str, str]]:
    yield "f", "attn"
    yield "F1", "lang_mlp.0"
    if c.per_step_query:
        yield from ((f"F2.{t}", f"time_specific_projs.{t}") for t in range(c.num_steps))
    else:
        yield "F2", "lang_mlp.3"
    if c.query_from_results != "none":
        yield from (("G1", "res_mlp.0"), ("G2", "res_mlp.3"))
    if c.query_from_results == "concat":
        yield "J", "joint_proj"
    if c.formation_norm:
        yield "norm", "ln_lang"


def _execution(c: IPRMConfig) -> Iterator[tuple[str, str]]:
    if c.execution == "full":
        yield from (("Wk", "proj_vis"), ("Wv", "proj_vis2"))
        yield from ((f"C{1 + i}", f"proj_concat_mod_and_og_vis.{2 * i}") for i in range(2))
        yield from (("We", "proj_prev_res"), ("Wz", "proj_lang"), ("Wq", "proj_lang2"))
    else:
        yield from (("Wv", "v_proj"), ("C1", "k_proj.0"), ("C2", "k_proj.2"))
        for ours, theirs, mlp in (
            ("We", "proj_prev_res", c.result_mlp),
            ("Wz", "proj_lang", c.operation_mlp),
        ):
            yield from ((f"{ours}.{i}", f"{theirs}.{3 * i}") for i in range(2)) if mlp else ((ours, theirs),)
        if c.execution_query == "concat":
            yield "J", "query_proj"
    yield "w", "inter2att"
    if c.execution_norm:
        yield "norm", "ln_vis"


def _update(c: IPRMConfig) -> Iterator[tuple[str, str]]:
    yield "Ur", "proj_new_result_state"
    if c.update_norm:
        yield "update_norm_r", "ln_res"
    yield "Uo", "proj_new_lang_state"
    if c.update_norm:
        yield "update_norm_o", "ln_op"


def _composition(c: IPRMConfig) -> Iterator[tuple[str, str]]:
    yield "Qo", "op_state_query"
    if c.key_projection:
        yield "Ko", "op_state_key"
    yield from (("c", "attn"), ("Vo", "op_state_value"), ("Vr", "result_state_value"))
    yield from (("So", "weighted_residual_op_state"), ("Sr", "weighted_residual_result_state"))
    if c.composition_norm:
        yield from (("norm_o", "ln_op_post"), ("norm_r", "ln_res_post"))


def layer_pairs(config: IPRMConfig) -> dict[str, str]:
    """Our layer -> the published one, in the order in which the published module lists them."""
    c = config
    blocks = [
        ("formation", "lang_retrieval_block", _formation(c)),
        ("execution", "vis_retrieval_block", _execution(c)),
    ]
    if c.update:
        blocks.append(("composition", "memory_update_block", _update(c)))
    if c.composition:
        blocks.append(("composition", "memory_interaction_block", _composition(c)))
    pairs = {f"{stage}.{a}": f"{block}.{b}" for stage, block, names in blocks for a, b in names}
    if c.op_init != "learned":
        pairs |= {f"memory.op_maps.{k}": f"op_init_projs.{k}" for k in range(c.num_ops)}
    if c.result_init != "learned":
        pairs |= {f"memory.result_maps.{k}": f"res_init_projs.{k}" for k in range(c.num_ops)}
    if c.readout in ("language", "learned"):
        pairs["readout.p"] = "result_pool_mod_attn_layer"
        if c.readout == "language":
            pairs["readout.Pq"] = "pool_q_linear_layer"
        pairs["readout.Pk"] = "pool_k_linear_layer"
    return pairs


def bare_pairs(config: IPRMConfig) -> dict[str, str]:
    """Our parameter -> the published one, for those of `BARE_PARAMETERS` that the options call for."""
    present = (config.op_init, config.result_init, config.readout)
    return {
        ours: theirs
        for (ours, theirs), choice in zip(BARE_PARAMETERS.items(), present, strict=True)
        if choice == "learned"
    }


def name_pairs(config: IPRMConfig) -> dict[str, str]:
    """Our parameter -> the published one, in the order of the published module's parameters."""
    layers = layer_pairs(config).items()
    return bare_pairs(config) | {f"{a}.{p}": f"{b}.{p}" for a, b in layers for p in ("weight", "bias")}


def _renamed(state_dict: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    missing, unknown = sorted(names.keys() - state_dict.keys()), sorted(state_dict.keys() - names.keys())
    if missing or unknown:
        raise ValueError(f"state_dict: expected {what}; missing {missing}, unknown {unknown}")
    return {new: state_dict[old] for old, new in names.items()}


def to_official(state_dict: Mapping[str, Tensor], config: IPRMConfig) -> dict[str, Tensor]:
    """The weights of `iprm.reference.IPRM` or `iprm.fast.IPRM` under their published names, not copied.

    Raises:
        ValueError: a name is missing or unknown; lists them all.
    """
    state = _renamed(state_dict, name_pairs(config), "the parameters of IPRM with this config")
    if (query := "random_token_result_pool") in state:
        state[query] = state[query].reshape(1, 1, -1)
    return state


def from_official(state_dict: Mapping[str, Tensor], config: IPRMConfig) -> dict[str, Tensor]:
    """The weights of the published module under our names, not copied.

    A published `aux_lang_token`, which no computation reads, is left out.

    Raises:
        ValueError: a name is missing or unknown; lists them all.
    """
    state = {name: value for name, value in state_dict.items() if name != UNUSED_PARAMETER}
    names = {theirs: ours for ours, theirs in name_pairs(config).items()}
    state = _renamed(state, names, "the published parameters of this config")
    if "readout.query" in state:
        state["readout.query"] = state["readout.query"].reshape(-1)
    return state


def _plant(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Register `layer` at a dotted path below `root`, with empty modules on the way."""
    *way, leaf = path.split(".")
    for name in way:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, layer)


def _keep(name: str, mask: Tensor | None, sizes: tuple[int, int]) -> Tensor | None:
    """A published mask as bool, true = keep."""
    if mask is None:
        return None
    if not (isinstance(mask, Tensor) and mask.shape == sizes):
        raise ValueError(f"{name}: expected {sizes}, 1 = keep, got {described(mask)}")
    return mask if mask.dtype == torch.bool else mask > 0.5


class Recurrent_Memory_Attention_Module(nn.Module):
    """The published module's constructor, forward and parameters, computed by `iprm.fast.IPRM`.

    Args:
        dim: not used, as in the published code, where cfg.VLM.DIM overrides it.
        cfg: see `config_from_official`. With cfg.IPRM.ADD_AUX_LANG_TOKEN there is also the published
            parameter `aux_lang_token` (1, 1, D), which no computation reads.
        backend: as for `iprm.fast.IPRM`.

    `attentions` describes the last forward if that was called with save_atts, and else holds only None. They
    are probabilities before attention dropout, without gradient:
        "text": (T, B, K, L, 1).  "image": (T, B, K, N, 1). (The published code keeps masked logits here.)
        "inter_mem_op": (T, B, K, K·(1 + min(W, T)), 1), zero where a step has fewer columns; None without
            composition.
        "final_pool_attn_wt": (B, 1, K, 1), or None where the read-out is no attention.
        "inter", "start": None, as in the published code.
    """

    def __init__(self, dim: int, cfg: Any, backend: str = "auto"):
        super().__init__()
        self.config = config_from_official(cfg)
        computes = fast.IPRM(self.config, backend)
        # Each layer has two parents: its published name is registered here, and the module that computes with
        # it is kept out of sight of `named_parameters`. A parameter without a layer lives here alone and is
        # lent for each forward, so that replacing it (by assignment, by a functional call) has its effect.
        for ours, theirs in bare_pairs(self.config).items():
            stage, leaf = ours.split(".")
            parameter = getattr(computes, stage)._parameters[leaf]
            if theirs == "random_token_result_pool":
                parameter = nn.Parameter(parameter.detach().reshape(1, 1, -1))
            self.register_parameter(theirs, parameter)
        if _flag(_get(cfg, "cfg", "IPRM"), "ADD_AUX_LANG_TOKEN"):
            self.aux_lang_token = nn.Parameter(torch.randn(1, 1, self.config.dim))
        for ours, theirs in layer_pairs(self.config).items():
            _plant(self, theirs, computes.get_submodule(ours))
        object.__setattr__(self, "_computes", computes)
        self._lend(False)
        self.attentions = self._record(None)

    def _lend(self, lent: bool) -> None:
        for ours, theirs in bare_pairs(self.config).items():
            stage, leaf = ours.split(".")
            getattr(self._computes, stage)._parameters[leaf] = getattr(self, theirs) if lent else None

    def train(self, mode: bool = True) -> Recurrent_Memory_Attention_Module:
        """Set training or evaluation mode, also where it computes."""
        self._computes.train(mode)
        return super().train(mode)

    def _record(self, attention: Attention | None) -> dict[str, Tensor | None]:
        record = dict.fromkeys(("text", "image", "inter", "start", "inter_mem_op", "final_pool_attn_wt"))
        if attention is None:
            return record
        c = self.config
        language, visual, operations, readout = (a if a is None else a.detach() for a in attention)
        record["text"], record["image"] = language[..., None], visual[..., None]
        if c.composition:
            columns = c.num_ops * (1 + min(c.window, c.num_steps))
            record["inter_mem_op"] = operations[..., :columns, None]
        if readout is not None:
            record["final_pool_attn_wt"] = readout[:, None, :, None]
        return record

    def forward(
        self,
        lang_tokens_rep: Tensor,
        lang_summary_rep: Tensor,
        vis_tokens_rep: Tensor,
        lang_token_mask: Tensor | None,
        vis_token_mask: Tensor | None,
        lang_tokens_rep_lens: Any = None,
        vis_tokens_lens: Any = None,
        vis_tokens_lens_max: Any = None,
        save_atts: bool = False,
    ) -> Tensor:
        """Reason for T steps.

        Args:
            lang_tokens_rep: (B, L, D).  lang_summary_rep: (B, D).  vis_tokens_rep: (B, D, N).
            lang_token_mask: (B, L), 1 = keep: float (keep above 0.5), integer or bool; None keeps all.
            vis_token_mask: (B, N) likewise.
            lang_tokens_rep_lens, vis_tokens_lens, vis_tokens_lens_max: not used, as in the published code.
            save_atts: fill `attentions`.
        Returns:
            the result (B, D).
        Raises:
            ValueError: a wrong shape, dtype or device; names the argument, what was expected and what came.
        """
        D = self.config.dim
        tokens = {"lang_tokens_rep": (lang_tokens_rep, ("B", "L", D))}
        tokens["lang_summary_rep"] = (lang_summary_rep, ("B", D))
        tokens["vis_tokens_rep"] = (vis_tokens_rep, ("B", D, "N"))
        for name, (value, sizes) in tokens.items():
            check_floating(name, value)
            check_tensor(name, value, sizes, value.dtype, value.device)
        language_mask = _keep("lang_token_mask", lang_token_mask, tuple(lang_tokens_rep.shape[:2]))
        visual_mask = _keep("vis_token_mask", vis_token_mask, tuple(vis_tokens_rep.shape[::2]))
        visual = vis_tokens_rep.transpose(1, 2).contiguous()  # every step reads it: copied once, not T times
        inputs = (lang_tokens_rep, lang_summary_rep, visual, language_mask, visual_mask)
        self._lend(True)
        result = self._computes(*inputs, return_attention=save_atts)
        self._lend(False)
        result, attention = result if save_atts else (result, None)
        self.attentions = self._record(attention)
        return result
