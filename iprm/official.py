"""The published code's class, options and parameter names (mechanism.md, "Weights from the published code").

`name_pairs` is that section's table; the module and both converters are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iprm import fast
from iprm.config import IPRMConfig
from iprm.reference import Attention
from iprm_kernels.autocast import is_cast
from iprm_kernels.checks import DTYPES, check_choice, check_floating, check_tensor, described, is_dense

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
WRAPPERS = ("module.", "_orig_mod.")
"""What data-parallel wrappers and `torch.compile` put before every name of a state dict."""
MASK_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *DTYPES)


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


def strip_prefixes(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of `WRAPPERS`, in any nesting, where every name has them.

    `load_state_dict` of the class itself takes published names alone: give it what this returns.

    Raises:
        TypeError: `state_dict` is no mapping.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a mapping of names to tensors, got {type(state_dict).__name__}")
    stripped = dict(state_dict)
    while stripped and (wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in stripped)), None)):
        stripped = {name.removeprefix(wrapper): value for name, value in stripped.items()}
    return stripped


def _some(names: Iterable[str], limit: int = 3) -> str:
    """`'a', 'b', 'c' and 20 more`, or `none`."""
    names = sorted(map(repr, names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more or "none"


def _renamed(state_dict: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    missing, unknown = names.keys() - state_dict.keys(), state_dict.keys() - names.keys()
    if missing or unknown:
        raise ValueError(f"state_dict: expected {what}; missing {_some(missing)}; unknown {_some(unknown)}")
    return {new: state_dict[old] for old, new in names.items()}


def to_official(state_dict: Mapping[str, Tensor], config: IPRMConfig) -> dict[str, Tensor]:
    """The weights of `iprm.reference.IPRM` or `iprm.fast.IPRM` under their published names, not copied.

    Args:
        state_dict: names of ours -> tensors; prefixes as in `strip_prefixes` are taken off.
        config: the options of the module that the weights are of.
    Raises:
        TypeError: `state_dict` is no mapping.  ValueError: a name is missing or unknown; says how many, and the
        first few.
    """
    what = "the parameters of IPRM with this config"
    state = _renamed(strip_prefixes(state_dict), name_pairs(config), what)
    if (query := "random_token_result_pool") in state:
        state[query] = state[query].reshape(1, 1, -1)
    return state


def from_official(state_dict: Mapping[str, Tensor], config: IPRMConfig) -> dict[str, Tensor]:
    """The weights of the published module under our names, not copied.

    Args:
        state_dict: published names -> tensors; prefixes as in `strip_prefixes` are taken off. `aux_lang_token`, which
            no computation reads, is left out.
        config: the options of the module that the weights are of.
    Raises:
        TypeError: `state_dict` is no mapping.  ValueError: a name is missing or unknown; says how many, and the
        first few.
    """
    state = {name: value for name, value in strip_prefixes(state_dict).items() if name != UNUSED_PARAMETER}
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


def _registered(root: nn.Module, path: str) -> nn.Module | Tensor:
    """The layer or parameter that `root` has at a dotted path now."""
    found = root
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise AttributeError(f"{path}: expected the layer or parameter of this published name, got none")
    return found


Places = dict[str, "str | Places"]
"""By our names, as nested as they are: the published path."""


def _places_of(config: IPRMConfig) -> Places:
    """The published path of each layer and bare parameter, in the tree of our names."""
    places: Places = {}
    for ours, theirs in (layer_pairs(config) | bare_pairs(config)).items():
        *way, leaf = ours.split(".")
        node: Any = places
        for name in way:
            node = node.setdefault(name, {})
        node[leaf] = theirs
    return places


def _emptied(module: nn.Module, places: Places) -> nn.Module:
    """`module` without the layers and parameters that have a place."""
    for name, place in places.items():
        if isinstance(place, dict):
            _emptied(getattr(module, name), place)
        else:
            delattr(module, name)
    return module


def _filled(hollow: nn.Module, places: Places, root: nn.Module) -> nn.Module:
    """A copy of `hollow`, in `root`'s mode, whose layers and parameters are those that `root` has now.

    A shallow copy of each attribute dictionary, as no module can be constructed in a traced graph.
    """
    children: dict[str, Any] = dict(hollow._modules)
    parameters: dict[str, Any] = dict(hollow._parameters)
    for name, place in places.items():
        if isinstance(place, dict):
            children[name] = _filled(children[name], place, root)
            continue
        found = _registered(root, place)
        if isinstance(found, nn.Module):
            children[name] = found
        else:  # (1, 1, D) is published where ours is (D,)
            parameters[name] = found.reshape(-1) if found.dim() == 3 else found
    filled = object.__new__(type(hollow))
    filled.__dict__.update(hollow.__dict__, training=root.training, _modules=children, _parameters=parameters)
    return filled


def _check_tokens(name: str, value: Any, sizes: tuple[int | str, ...], weight: Tensor) -> None:
    """Raise unless `value` is dense, of these sizes and with tokens, on the weights' device and of their dtype."""
    check_floating(name, value)
    check_tensor(name, value, sizes, value.dtype if is_cast(value.dtype, weight) else weight.dtype, weight.device)
    if any(want in ("L", "N") and got == 0 for want, got in zip(sizes, value.shape, strict=True)):
        raise ValueError(f"{name}: expected at least one token, got {tuple(value.shape)}")


def _keep(name: str, mask: Any, sizes: tuple[int, int], device: torch.device) -> Tensor | None:
    """A published mask as bool, true = keep."""
    if mask is None:
        return None
    if not (is_dense(mask) and mask.shape == sizes and mask.dtype in MASK_DTYPES and mask.device == device):
        kind = f"{sizes} bool, integer or floating on {device}, 1 = keep"
        raise ValueError(f"{name}: expected {kind}, got {described(mask)}")
    return mask if mask.dtype == torch.bool else mask > 0.5


class Recurrent_Memory_Attention_Module(nn.Module):
    """The published module's constructor, forward and parameters, computed by `iprm.fast.IPRM`.

    Args:
        dim: not used, as in the published code, where cfg.VLM.DIM overrides it.
        cfg: see `config_from_official`. With cfg.IPRM.ADD_AUX_LANG_TOKEN there is also the published
            parameter `aux_lang_token` (1, 1, D), which no computation reads.
        backend: as for `iprm.fast.IPRM`.

    Layers and parameters are looked up under their published names in each forward. So what is registered there is
    what computes: a layer put in the place of another (an adapter, a quantised one), a functional call's tensor, that
    of a `nn.DataParallel` replica. The modules between (`lang_retrieval_block` and so on) only give names; none of
    them is called, so a hook on one does not run.

    A forward changes nothing in the module, so that any number of threads may call it, but with save_atts it sets
    `attentions` (on a replica, the replica's). These are of the last such forward, and None before the first. They are
    probabilities before attention dropout, without gradient:
        "text": (T, B, K, L, 1).  "image": (T, B, K, N, 1). (The published code keeps masked logits here.)
        "inter_mem_op": (T, B, K, K·(1 + min(W, T)), 1), zero where a step has fewer columns; None without
            composition.
        "final_pool_attn_wt": (B, 1, K, 1), or None where the read-out is no attention.
        "inter", "start": None, as in the published code.
    """

    _hollow: nn.Module

    def __init__(self, dim: int, cfg: Any, backend: str = "auto") -> None:
        super().__init__()
        self.config: IPRMConfig = config_from_official(cfg)
        computes = fast.IPRM(self.config, backend)
        for ours, theirs in bare_pairs(self.config).items():
            parameter = computes.get_parameter(ours)
            if theirs == "random_token_result_pool":
                parameter = nn.Parameter(parameter.detach().reshape(1, 1, -1))
            self.register_parameter(theirs, parameter)
        if _flag(_get(cfg, "cfg", "IPRM"), "ADD_AUX_LANG_TOKEN"):
            self.aux_lang_token = nn.Parameter(torch.randn(1, 1, self.config.dim))
        for ours, theirs in layer_pairs(self.config).items():
            _plant(self, theirs, computes.get_submodule(ours))
        self._places = _places_of(self.config)
        # What computes has no layer of its own and is no child: it is filled for each forward.
        object.__setattr__(self, "_hollow", _emptied(computes, self._places))
        self.attentions: dict[str, Tensor | None] = self._record(None)

    def _record(self, attention: Attention | None) -> dict[str, Tensor | None]:
        names = ("text", "image", "inter", "start", "inter_mem_op", "final_pool_attn_wt")
        record: dict[str, Tensor | None] = dict.fromkeys(names)
        if attention is None:
            return record
        c = self.config
        record["text"] = attention.language.detach()[..., None]
        record["image"] = attention.visual.detach()[..., None]
        if c.composition:
            columns = c.num_ops * (1 + min(c.window, c.num_steps))
            record["inter_mem_op"] = attention.operations.detach()[..., :columns, None]
        if attention.readout is not None:
            record["final_pool_attn_wt"] = attention.readout.detach()[:, None, :, None]
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
            save_atts: set `attentions`, which other forwards leave as they are.
        Returns:
            the result (B, D).
        Raises:
            ValueError: a wrong shape, dtype, device or layout, or no token; names the argument, what was expected and
            what came.  AttributeError: nothing is registered under a published name, which it names.
        """
        D, weight = self.config.dim, getattr(_registered(self, "vis_retrieval_block.inter2att"), "weight", None)
        if not (isinstance(weight, Tensor) and weight.dtype in DTYPES):  # an adapter or a quantised layer
            weight = vis_tokens_rep
        _check_tokens("vis_tokens_rep", vis_tokens_rep, ("B", D, "N"), weight)
        B, _, N = vis_tokens_rep.shape
        _check_tokens("lang_tokens_rep", lang_tokens_rep, (B, "L", D), weight)
        _check_tokens("lang_summary_rep", lang_summary_rep, (B, D), weight)
        language_mask = _keep("lang_token_mask", lang_token_mask, (B, lang_tokens_rep.shape[1]), weight.device)
        visual_mask = _keep("vis_token_mask", vis_token_mask, (B, N), weight.device)
        visual = vis_tokens_rep.transpose(1, 2).contiguous()  # every step reads it: copied once, not T times
        computes = _filled(self._hollow, self._places, self)
        inputs = (lang_tokens_rep, lang_summary_rep, visual, language_mask, visual_mask)
        if not save_atts:
            return computes(*inputs)
        result, attention = computes(*inputs, return_attention=True)
        self.attentions = self._record(attention)
        return result
