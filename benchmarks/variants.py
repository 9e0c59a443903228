"""What is compared: the plain reference, the restructured algebra, both compiled, and the fused backends.

reference       the mechanism as it is written
algebra         the fast module's restructured algebra, in PyTorch under plain autograd
fast[backend]   the fast module on one backend; with +graph, replaying CUDA graphs; with +least or +fast, its `memory`
cross-attention-2, ...  what one might take in IPRM's place, see `benchmarks.peers`
...+compile     any of them through torch.compile
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

import iprm_kernels
from benchmarks.peers import PEERS
from benchmarks.points import SEED, Point
from iprm import IPRMConfig, fast, reference
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast, without_autocast
from iprm_kernels.backends import eager
from iprm_kernels.dropout import Role, dropout, stream_of
from iprm_kernels.steps import walk
from iprm_kernels.steps.weights import flattened

BUILDERS: dict[str, Callable[[IPRMConfig], nn.Module]] = {"reference": reference.IPRM, "algebra": fast.IPRM}
COMPILED = "+compile"

_IN_PLACE = {"elu": F.elu_, "tanh": torch.tanh_, "relu": torch.relu_, "sigmoid": torch.sigmoid_}
"""Autograd then keeps the activation's result, which the next product keeps anyway, and not its input too."""


def _activation(name: str) -> Callable:
    return _IN_PLACE.get(name, ACTIVATIONS[name])


class PlainCores:
    """The cores as PyTorch that autograd and torch.compile see through, all samples at once."""

    linear, linear_back, pack = eager.linear, eager.linear_back, eager.pack
    pair_unit = staticmethod(eager.pair_unit)

    @staticmethod
    def dropout(x, p, seed, stream):
        """The registered op, which masks fastest."""
        return dropout(x, p, seed, stream)

    @staticmethod
    def attend(logits, tokens, mask, seed, step, p_attention, role):
        a = eager.masked_softmax(logits, None if mask is None else mask[:, None])
        dropped = dropout(a, p_attention, seed, stream_of(step, role))
        return torch.bmm(dropped.to(tokens.dtype), tokens), a

    @classmethod
    def formation(cls, query, tokens, gate, mask, seed, step, p_attention):
        logits = torch.bmm(query * gate, tokens.mT).to(eager.accumulator(query.dtype))
        return cls.attend(logits, tokens, mask, seed, step, p_attention, Role.FORMATION_ATTENTION)

    @classmethod
    def execution(
        cls, v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product, p_attention, activation
    ):  # fmt: skip
        """Autograd keeps the pair tensors."""
        φ = _activation(activation)
        hidden = φ(F.linear(g[:, :, None] * v[:, None], C1a).add_(u[:, None]))
        h = F.linear(hidden, C2, c2)
        del hidden
        product = h * l[:, :, None] if torch.is_grad_enabled() else h.mul_(l[:, :, None])
        return cls.attend_pairs(φ(product), w, tokens, mask, seed, step, p_product, p_attention)

    @classmethod
    def execution_simple(
        cls, keys, query, w, tokens, mask, seed, step, p_product, p_attention, activation
    ):  # fmt: skip
        y = _activation(activation)(query[:, :, None] * keys[:, None])
        return cls.attend_pairs(y, w, tokens, mask, seed, step, p_product, p_attention)

    @classmethod
    def attend_pairs(cls, y, w, tokens, mask, seed, step, p_product, p_attention):
        """From y = φ(...) (B, K, N, R)."""
        y = dropout(y, p_product, seed, stream_of(step, Role.PRODUCT))
        logits = (y @ w).to(eager.accumulator(y.dtype))
        return cls.attend(logits, tokens, mask, seed, step, p_attention, Role.EXECUTION_ATTENTION)

    @staticmethod
    def composition(query, keys, operations, results, gate, mask_self, seed, step, *rates):
        """With dropout the registered op, whose masks cost less."""
        if not any(rates):
            return eager.composition(query, keys, operations, results, gate, mask_self, seed, step, *rates)
        names = ("p_product", "p_value", "p_attention")
        options = {"mask_self": mask_self, "seed": seed, "step": step, **dict(zip(names, rates, strict=True))}
        return iprm_kernels.composition(query, keys, operations, results, gate, **options)


def plain_recurrence(
    O, E, language, visual, weights, *, steps, window, mask_self, activations, rates, epsilons, language_mask,
    visual_mask, seed, backend, memory,
):  # fmt: skip
    """`iprm_kernels.recurrence` over the plain cores, under autograd."""
    flat, maps = flattened(weights)
    O, E, language, visual, flat = cast(O.device, O, E, language, visual, flat)
    options = (steps, window, mask_self, ",".join(activations), rates, epsilons, 0)  # autograd keeps what it needs
    with without_autocast(O.device):
        O, E, *attentions, _ = walk.forward(
            PlainCores, O, E, language, language_mask, visual, visual_mask, flat, maps, seed, *options, False
        )
    return O, E, iprm_kernels.Attentions(*attentions)


@contextlib.contextmanager
def plain_cores() -> Iterator[None]:
    """Within it the fast module runs `plain_recurrence`."""
    with mock.patch.object(fast, "recurrence", plain_recurrence):
        yield


def _within(context: Callable, run: Callable) -> Callable:
    def call(*inputs):
        with context():
            return run(*inputs)

    return call


def module_of(name: str, config: IPRMConfig) -> nn.Module:
    """The module of a variant, its parameters the same for every variant but the peers."""
    base = name.removesuffix(COMPILED)
    torch.manual_seed(SEED)
    if made := BUILDERS.get(base) or PEERS.get(base):
        return made(config)
    options = fast_options(name)
    if options is None:
        known = ", ".join([*BUILDERS, *PEERS, "fast[backend]", "fast[backend]+graph", "fast[backend]+least or +fast"])
        raise ValueError(f"variant: expected one of {known}, with or without {COMPILED}, got {name!r}")
    return fast.IPRM(config, **options)


def fast_options(name: str) -> dict[str, Any] | None:
    """The options of a variant of the fast module, None of others."""
    found = re.fullmatch(r"fast\[(.+)\](\+graph)?(?:\+(least|fast))?", name.removesuffix(COMPILED))
    return {"backend": found[1], "cuda_graph": bool(found[2]), "memory": found[3] or "auto"} if found else None


def is_peer(name: str) -> bool:
    """Whether the variant is another mechanism."""
    return name.removesuffix(COMPILED) in PEERS


def runner_of(name: str, module: nn.Module) -> Callable:
    """What is called to run the variant."""
    run = torch.compile(module, dynamic=False, fullgraph=True) if name.endswith(COMPILED) else module
    return _within(plain_cores, run) if name.removesuffix(COMPILED) == "algebra" else run


def unusable(name: str, point: Point) -> str | None:
    """Why the variant cannot run at the point, None where it can."""
    options = fast_options(name)
    if options is None:
        return None
    reasons = iprm_kernels.reasons(point.device, point.compute_dtype)
    return reasons.get(options["backend"], "no such backend")


def fast_variants(point: Point) -> list[str]:
    """The fused backends that can run at the point, the one that "auto" takes first."""
    reasons = iprm_kernels.reasons(point.device, point.compute_dtype)
    simulated = {"triton", "cuda"} if point.device == "cpu" else set()  # the speed of what is interpreted says nothing
    return [f"fast[{name}]" for name, reason in reasons.items() if reason is None and name not in simulated]


def default_variants(point: Point, compiled: bool = True) -> list[str]:
    """What is compared at the point unless something else is asked for."""
    plain = ["reference", "algebra"]
    baselines = [name + suffix for name in plain for suffix in (("", COMPILED) if compiled else ("",))]
    return [*baselines, *fast_variants(point)]
